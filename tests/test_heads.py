"""Head scores by hand, tables of them, and methods that a table drives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lvlm_fix as lf
from lvlm_fix.core.at import closure
from lvlm_fix.heads.metrics import VHD, ImageCentric, RetrievalPicture, RetrievalPrompt, SpinScore
from lvlm_fix.heads.table import HeadTable, compare
from lvlm_fix.method import AtLayer
from lvlm_fix.tools.miniature import miniature
from lvlm_fix.watches import LastRows, PickedHeads, TextRows, WithoutImage
from lvlm_fix.watches.heads import picked_by_table
from lvlm_fix.watches.rows import Prompted


def table(mean: Any, metric: str = "vhd") -> HeadTable:
    mean = np.asarray(mean, float)
    return HeadTable(metric, mean, np.zeros_like(mean), 1, "hand-made", None, "Describe.", {})


def scoring(weights: torch.Tensor) -> AtLayer:
    """Three text rows (tokens 2, 3 and 4) that see five keys, of which 0 and 1 are image tokens;
    one sample.
    """
    image = torch.tensor([[True, True, False, False, False]])
    rows = torch.ones(1, 3, dtype=torch.bool)
    ids = torch.tensor([[9, 9, 4, 6, 4]])
    logits = weights * 10 - 1
    every = Prompted(logits, weights, rows, torch.tensor([2, 3, 4]), ids)
    last = Prompted(logits[:, :, 2:], weights[:, :, 2:], rows[:, 2:], torch.tensor([4]), ids)
    values = {TextRows(): every, LastRows(): last}
    seen = AtLayer(0, 1, True, image, torch.zeros_like(image), rows, values)
    return seen


# two heads, three rows, five keys
WEIGHTS = torch.tensor(
    [
        [
            [[0.7, 0.1, 0.2, 0.0, 0.0], [0.1, 0.1, 0.5, 0.3, 0.0], [0.2, 0.2, 0.1, 0.1, 0.4]],
            [[0.1, 0.6, 0.3, 0.0, 0.0], [0.1, 0.6, 0.1, 0.2, 0.0], [0.1, 0.0, 0.3, 0.3, 0.3]],
        ]
    ]
)


def test_scores_of_the_last_row() -> None:
    seen = scoring(WEIGHTS)
    torch.testing.assert_close(ImageCentric().score(seen), torch.tensor([[0.4, 0.1]]))
    torch.testing.assert_close(
        SpinScore().score(seen), torch.tensor([[2.0, -1.0]])
    )  # 10·0.4 − 2, 10·0.1 − 2


def test_retrieval_counts_the_rows_whose_token_is_copied() -> None:
    # the last row predicts nothing we know. Head 0 looks at key 0 (picture), then at key 2 (token
    # 4), and 4 is said;
    # head 1 looks at the picture twice
    seen = scoring(WEIGHTS)
    assert RetrievalPicture().score(seen).tolist() == [[0.5, 1.0]]
    assert RetrievalPrompt().score(seen).tolist() == [[0.5, 0.0]]
    seen[TextRows()].rows[0, 0] = False  # an image or padding row in this sample
    assert RetrievalPicture().score(seen).tolist() == [[0.0, 1.0]]
    assert RetrievalPrompt().score(seen).tolist() == [[1.0, 0.0]]


def test_tables_are_compared_by_rank_and_by_their_top_heads() -> None:
    one, other = table([[1, 2, 3], [4, 5, 6]]), table([[10, 20, 30], [60, 50, 40]])
    found = compare(one, other, top=2)
    assert found["spearman"] == pytest.approx(1 - 6 * (4 + 4) / (6 * 35))
    assert found["overlap"] == 0.5 and found["shared"] == [(1, 1)]
    assert compare(one, table(-one.mean), top=6) == {
        "spearman": pytest.approx(-1), "heads": 6, "top": 6, "overlap": 1.0,
        "shared": [(layer, head) for layer in range(2) for head in range(3)],
    }  # fmt: skip
    ties = compare(table([[1, 1, 2]]), table([[1, 2, 3]]), top=1)  # ranks 0.5 0.5 2 against 0 1 2
    assert ties["spearman"] == pytest.approx(0.8660254)
    assert compare(one, table(np.ones((2, 3))), top=1)["spearman"] is None
    unscored = table([[np.nan, 2, 3], [4, 5, 6]])
    assert compare(one, unscored, top=1)["heads"] == 5
    with pytest.raises(lf.DataError, match="different models"):
        compare(one, table([[1, 2]]))
    with pytest.raises(lf.SettingError, match="top must be from 1 to the model's 6 heads, got 7"):
        compare(one, other, top=7)


def given(method: lf.VHR) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and heads by the table of a method, 4 layers of 3 heads."""
    picks = method.picks(4)
    assert picks is not None
    return picked_by_table(picks, 4, 3)


def test_a_table_picks_the_upper_half_of_every_layer_or_the_top_heads_of_the_layers_acted_in() -> (
    None
):
    mean = [
        [9, 8, 7],
        [1, 2, 3],
        [6, 5, 4],
        [np.nan, 7, 1],
    ]  # 4 layers, 3 heads; VHR acts in 1 and 3 here
    scores, heads = given(lf.VHR(table=table(mean), layers=(1, 3)))
    assert scores.shape == heads.shape == (4, 3)
    assert heads[:3].tolist() == [[True, False, False], [False, False, True], [True, False, False]]
    _, top = given(lf.VHR(table=table(mean), layers=(1, 3), top=3))
    assert top.nonzero().tolist() == [[1, 1], [1, 2], [3, 1]]
    _, many = given(lf.VHR(table=table(mean), layers=(1, 3), top=50))
    assert many.sum() == 5  # the head without a score is not picked
    assert lf.VHR().picks(4) == PickedHeads(VHD())


def test_vhr_by_a_table_scales_its_heads_without_a_pass_of_its_own() -> None:
    model, inputs = miniature("llava")
    layers, heads = 5, 6
    mean = torch.rand(layers, heads)
    method = lf.VHR(table=table(mean.numpy()), strength=3.0)
    assert WithoutImage() not in closure(method.watches(5))
    assert WithoutImage() in closure(lf.VHR().watches(5))
    with torch.no_grad(), lf.fix(model, method) as handle:
        found = model(**inputs).logits
        torch.testing.assert_close(handle.scores()[:, 1], mean[1].expand(2, heads))
        chosen = handle.report()[0].heads
    limits = mean.quantile(0.5, dim=-1)
    factors = torch.where(mean > limits[:, None], 3.0, 1.0).repeat_interleave(
        8, dim=1
    )  # heads of 8 dimensions
    hooks = [
        layer.self_attn.o_proj.register_forward_pre_hook(
            lambda _, args, i=i: (args[0] * factors[i],)
        )
        for i, layer in enumerate(model.get_decoder().layers)
        if i in method.acts_in(layers)
    ]
    with torch.no_grad():
        wanted = model(**inputs).logits
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert all(counts == [3, 3] for counts in chosen.values())


def test_tables_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    model, _ = miniature("llava")
    with pytest.raises(lf.DataError, match="2 × 3 layers × heads, this model has 5 × 6"):
        lf.fix(model, lf.VHR(table=table(np.ones((2, 3)))))
    assert all("_lvlm_fix" not in module.__dict__ for module in model.modules())
    with pytest.raises(lf.DataError, match="as a head table"):
        lf.VHR(table=str(tmp_path / "absent.json"))
    with pytest.raises(lf.SettingError, match="top counts heads of a table"):
        lf.VHR(top=3)


def test_a_table_on_disk_is_a_setting_like_any_other(tmp_path: Path) -> None:
    path = tmp_path / "heads.json"
    table(np.arange(30).reshape(5, 6)).save(path)
    (method,) = lf.parse_methods("vhr", {"vhr.table": str(path), "vhr.top": "4"})
    assert method.settings() == lf.VHR().settings() | {"table": str(path), "top": 4}
    assert method == lf.VHR(table=str(path), top=4)
    assert lf.VHR(table=HeadTable.load(path)).settings()["table"] == "vhd of hand-made, n = 1"


def test_an_effect_is_the_change_of_the_words_log_probability_without_the_head(
    tiny: Any, photos: list[Path]
) -> None:
    from lvlm_fix.models import prepare
    from lvlm_fix.tools.effects import Effect, Labelled, head_effects

    model, processor = tiny
    text, prompt = "A dog and a traffic light. A dog.", "Describe."
    image = lf.open_image(photos[0])
    one = Labelled(image, text, ("dog", "dog"), ("traffic light",))
    none = Labelled(image, text, (), ("light",))  # no grounded word: left out

    def method(given: HeadTable) -> lf.VHR:
        return lf.VHR(table=given, top=1, layers=(2,), strength=0.0)

    found = head_effects(model, processor, [one, none], Effect(method, 1, -2), prompt)
    assert found.shape == (1, 6, 8) and np.isnan(found[0, [0, 1, 3, 4, 5]]).all()
    # the same by hand: prompt and text in one pass, head 3 of layer 2 zeroed in front of the output
    # projection
    inputs = prepare(model, processor, [image], [prompt])
    ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    start = inputs["input_ids"].shape[1]
    full = torch.cat((inputs["input_ids"], torch.tensor([ids])), dim=1)
    projection = model.get_decoder().layers[2].self_attn.o_proj
    dim = projection.in_features // 8

    def silence(_: Any, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        outputs = args[0].clone()
        outputs[..., 3 * dim : 4 * dim] = 0
        return (outputs,)

    values = []
    for silenced in (False, True):
        hook = projection.register_forward_pre_hook(silence) if silenced else None
        with torch.no_grad():
            logits = model(
                input_ids=full, attention_mask=torch.ones_like(full),
                pixel_values=inputs["pixel_values"]
            ).logits[0].log_softmax(-1)  # fmt: skip
        if hook is not None:
            hook.remove()
        values.append([float(logits[start + i - 1, token]) for i, token in enumerate(ids)])
    change = np.array(values[1]) - np.array(values[0])
    text_so_far = [processor.tokenizer.decode(ids[: i + 1]) for i in range(len(ids))]
    ends = [len(part) for part in text_so_far]
    starts = [0, *ends[:-1]]

    def covers(a: int, b: int) -> list[int]:
        return [i for i in range(len(ids)) if starts[i] < b and ends[i] > a]

    dogs = [sum(change[covers(at, at + 3)]) for at in (2, 29)]
    light = sum(change[covers(12, 25)])
    assert text[2:5] == text[29:32] == "dog" and text[12:25] == "traffic light"
    assert found[0, 2, 3] == pytest.approx(np.mean(dogs) - 2 * light, abs=1e-4)
    assert np.abs(found[0, 2]).min() > 0


def test_labelled_words_are_read_by_name_or_number_and_a_bad_line_is_named(
    photos: list[Path], tmp_path: Path
) -> None:
    from shutil import copy

    from lvlm_fix.tools.effects import read_labelled

    copy(photos[0], tmp_path / "COCO_val2014_000000000042.jpg")
    good = '{"image": 42, "text": "A cup.", "grounded": ["cup"], "invented": []}\n'
    words = tmp_path / "words.jsonl"
    words.write_text(
        good + good.replace("42", '"COCO_val2014_000000000042.jpg"') + '{"image": 7}\n'
    )
    rows = iter(read_labelled(words, tmp_path))
    assert [next(rows).grounded for _ in range(2)] == [("cup",), ("cup",)]
    with pytest.raises(lf.DataError, match="line 3"):
        next(rows)
    with pytest.raises(lf.DataError, match="cannot read the words file"):
        list(read_labelled(tmp_path / "absent.jsonl", tmp_path))
