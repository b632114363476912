"""Grounding: formulas worked by hand, and two parallel passes against one literal pass a token,
over every family.
"""

from __future__ import annotations

from typing import Any

import literal
import pytest
import torch
from torch import Tensor, nn

import lvlm_fix as lf
from lvlm_fix.models import DESCRIBE
from lvlm_fix.tools.grounding import (
    SIGNALS,
    Grounding,
    Word,
    ground,
    measure,
    t_vhd,
    weak,
    words_of,
)
from lvlm_fix.tools.miniature import IMAGE, miniature

TEXT = torch.tensor([7, 31, 5, 64, 12])


def test_t_vhd_is_the_sum_over_layers_of_the_largest_heads() -> None:
    vhd = torch.tensor(
        [[[1.0, 5.0, 2.0], [4.0, 0.5, 3.0]], [[0.0, 0.0, 1.0], [2.0, 2.0, 2.0]]]
    )  # 2 tokens 2 layers 3
    assert t_vhd(vhd, 1).tolist() == [9.0, 3.0]
    assert t_vhd(vhd, 2).tolist() == [14.0, 5.0]
    assert t_vhd(vhd, 3).tolist() == [15.5, 7.0]
    for k in (0, 4):
        with pytest.raises(lf.SettingError, match=f"from 1 to the 3 heads of a layer, got {k}"):
            t_vhd(vhd, k)


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        (["A", " red", " bus", "."], [("A", 0, 1), ("red", 1, 2), ("bus", 2, 3)]),
        (["A", " ele", "phant", ", ", "and"], [("A", 0, 1), ("elephant", 1, 3), ("and", 4, 5)]),
        (["A", " ", "cat"], [("A", 0, 1), ("cat", 2, 3)]),
        (["two words", "."], [("two", 0, 1), ("words", 0, 1)]),
        (["(a", " dog)", " -"], [("a", 0, 1), ("dog", 1, 2), ("-", 2, 3)]),
    ],
)
def test_words_are_pieces_joined_at_blanks(
    pieces: list[str], words: list[tuple[str, int, int]]
) -> None:
    text = "".join(pieces)
    found = words_of([len("".join(pieces[: i + 1])) for i in range(len(pieces))], text)
    assert [(word.text, *word.tokens) for word in found] == words
    assert all(text[word.start : word.end] == word.text for word in found)


def test_a_character_of_several_tokens_stays_with_its_word() -> None:
    # "é" then "🙂" in pieces that decode to replacement characters until they are whole
    assert [word.tokens for word in words_of([1, 1, 3, 4, 5, 3], "é 🙂")] == [(0, 2), (2, 6)]


def test_a_words_value_is_the_mean_of_vhd_and_the_sum_of_log_probabilities() -> None:
    vhd = torch.tensor([[[1.0, 2.0]], [[5.0, 3.0]], [[0.5, 0.25]]])  # 3 tokens 1 layer 2 heads
    words = (Word("wombat", 0, 6, (0, 2)), Word("sat", 7, 10, (2, 3)))
    looks = torch.arange(3 * 1 * 2 * 6.0).reshape(3, 1, 2, 6)
    log, gain = torch.tensor([-1.0, -2.0, -4.0]), torch.tensor([0.5, 0.25, -1.0])
    found = Grounding("wombat sat", words, vhd, log, gain, looks, (2, 3))
    assert found.scores("t_vhd", 1) == [3.5, 0.5]
    assert found.scores("t_vhd", 2) == [5.5, 0.75]
    assert found.scores("log_probability") == [-3.0, -4.0]
    assert found.scores("image_gain") == [0.75, -1.0]
    assert found.heads(0).tolist() == [[3.0, 2.5]]
    # head 1 of tokens 0 and 1: 6..11 and 18..23
    assert found.look(0, [(0, 1)]).tolist() == [[12.0, 13.0, 14.0], [15.0, 16.0, 17.0]]
    assert found.as_dict(1)["words"][1] == {
        "word": "sat", "start": 7, "end": 10, "t_vhd": 0.5, "log_probability": -4.0,
        "image_gain": -1.0,
        "weak": True,
    }  # fmt: skip
    with pytest.raises(lf.SettingError, match="signal must be one of"):
        found.scores("nonsense")


def test_weak_words_are_the_lowest_share() -> None:
    assert (
        weak([4.0, 1.0, 3.0, 2.0, 5.0, 6.0, 7.0, 8.0], 0.25)
        == [False, True, False, True] + [False] * 4
    )
    assert weak([2.0, 1.0]) == [False, True]
    assert weak([]) == []


def one_by_one(model: Any, inputs: dict[str, Tensor], ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """VHD of eq. 4, log-probability and its gain, by a pass with and a pass without the image for
    every token.
    """
    decoder, outputs = model.get_decoder(), list[Tensor]()
    hooks = [
        layer.self_attn.o_proj.register_forward_pre_hook(
            lambda module, args: outputs.append(literal.head_outputs(module, args)[0, -1])
        )
        for layer in decoder.layers
    ]
    rows, log, gain = [], [], []
    for t, token in enumerate(ids):
        text = torch.cat((inputs["input_ids"], ids[None, :t]), dim=1)
        more = inputs | {"input_ids": text, "attention_mask": torch.ones_like(text)}
        if "mm_token_type_ids" in inputs:
            more["mm_token_type_ids"] = (text == IMAGE).long()
        outputs.clear()
        known = model(**more).logits[0, -1].log_softmax(-1)[token]
        seen = list(outputs)
        outputs.clear()
        bare = text[text != IMAGE][None]
        hidden = decoder(inputs_embeds=model.get_input_embeddings()(bare)).last_hidden_state
        blind = model.lm_head(hidden)[0, -1].log_softmax(-1)[token]
        layers = zip(seen, outputs, strict=True)
        rows.append(
            [
                [float(((a - b) ** 2).sum()) ** 0.5 for a, b in zip(*layer, strict=True)]
                for layer in layers
            ]
        )
        log.append(float(known))
        gain.append(float(known - blind))
    for hook in hooks:
        hook.remove()
    return torch.tensor(rows), torch.tensor(log), torch.tensor(gain)


@pytest.mark.parametrize(
    "family", ["llava", "llava_next", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "internvl"]
)
def test_two_parallel_passes_equal_passes_token_by_token(family: str) -> None:
    model, inputs = miniature(family, samples=1)
    model(**inputs)  # transformers itself installs something on the first pass
    before = (
        [len(m.__dict__) for m in model.modules()],
        model.get_decoder().config._attn_implementation,
    )
    passes: list[nn.Module] = []
    counter = (
        model.get_decoder()
        .layers[0]
        .register_forward_pre_hook(lambda module, args: passes.append(module))
    )
    vhd, log, gain, looks = measure(model, inputs, TEXT, looks=True)
    counter.remove()
    assert len(passes) == 2
    assert (
        [len(m.__dict__) for m in model.modules()],
        model.get_decoder().config._attn_implementation,
    ) == before
    with torch.no_grad():
        wanted = one_by_one(model, inputs, TEXT)
    for ours, theirs in zip((vhd, log, gain), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert looks is not None and looks.shape == (5, 5, 6, int((inputs["input_ids"] == IMAGE).sum()))
    assert (looks.sum(-1) <= 1).all() and looks.sum() > 0


def test_looks_are_the_attention_weights() -> None:
    model, inputs = miniature("llava", samples=1)
    _, _, _, looks = measure(model, inputs, TEXT, looks=True)
    model.set_attn_implementation({"text_config": "eager"})
    full = torch.cat((inputs["input_ids"], TEXT[None]), dim=1)
    with torch.no_grad():
        maps = model(
            **(inputs | {"input_ids": full, "attention_mask": torch.ones_like(full)}),
            output_attentions=True,
        ).attentions
    start, image = inputs["input_ids"].shape[1] - 1, (full[0] == IMAGE).nonzero().flatten()
    wanted = torch.stack(
        [layer[0, :, start : start + 5][..., image].transpose(0, 1) for layer in maps], dim=1
    )
    assert looks is not None
    torch.testing.assert_close(looks.float(), wanted, atol=1e-3, rtol=0)


def test_bad_calls_are_refused() -> None:
    model, inputs = miniature("llava", samples=2)
    with pytest.raises(lf.InputError, match="takes one prompt and a text, got 2 prompts"):
        measure(model, inputs, TEXT)
    model, inputs = miniature("llava", samples=1)
    with pytest.raises(lf.InputError, match="got 1 prompts and 0 tokens"):
        measure(model, inputs, TEXT[:0])
    with pytest.raises(lf.InputError, match="the prompt has no image"):
        measure(model, {"input_ids": torch.tensor([[1, 5, 6]])}, TEXT)
    with lf.fix(model, lf.VHR()), pytest.raises(lf.ModelError, match="leave the fix first"):
        measure(model, inputs, TEXT)


def test_a_photo_and_a_text(tiny: Any, photos: Any) -> None:
    photo = lf.open_image(photos[0])
    found = ground(*tiny, photo, DESCRIBE, "A man with a dog, two cats.", looks=True)
    assert [word.text for word in found.words] == ["A", "man", "with", "a", "dog", "two", "cats"]
    assert found.grid == (16, 16) and found.look(1, [(0, 0), (3, 2)]).shape == (16, 16)
    assert {len(found.scores(signal, 2)) for signal in SIGNALS} == {7}
    assert all(value <= 0 for value in found.scores("log_probability"))
    with pytest.raises(lf.InputError, match="the text is empty"):
        ground(*tiny, photo, DESCRIBE, "")
