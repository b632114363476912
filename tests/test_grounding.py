"""Grounding: formulas worked by hand, and two parallel passes against one literal pass a token,
over every family.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import literal
import pytest
import torch
from torch import Tensor, nn

import lvlm_fix as lf
from lvlm_fix.ask.calibration import shipped
from lvlm_fix.grounding import SIGNALS, Grounding, Word, ground, measure, words_of
from lvlm_fix.grounding.formulas import glsim, internal_confidence, pas, svar, t_vhd
from lvlm_fix.grounding.words import weak
from lvlm_fix.models import DESCRIBE
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
    tokens = {"log_probability": log, "image_gain": gain, "entropy": -log.abs()}
    found = Grounding("wombat sat", words, vhd, tokens, looks, (2, 3))
    assert found.scores("t_vhd", 1) == [3.5, 0.5]
    assert found.scores("t_vhd", 2) == [5.5, 0.75]
    assert found.scores("log_probability") == [-3.0, -4.0]
    assert found.scores("image_gain") == [0.75, -1.0]
    assert found.scores("nll") == [-1.0, -4.0] and found.scores("entropy") == [-1.0, -4.0]
    assert found.scores() == found.scores("log_probability")  # not asked
    assert found.heads(0).tolist() == [[3.0, 2.5]]
    # head 1 of tokens 0 and 1: 6..11 and 18..23
    assert found.look(0, [(0, 1)]).tolist() == [[12.0, 13.0, 14.0], [15.0, 16.0, 17.0]]
    assert found.as_dict(1)["words"][1] == {
        "word": "sat", "start": 7, "end": 10, "t_vhd": 0.5, "log_probability": -4.0,
        "image_gain": -1.0, "nll": -4.0, "entropy": -4.0, "chance": None, "weak": True,
    }  # fmt: skip
    for signal in ("nonsense", "ask", "svar"):
        with pytest.raises(lf.SettingError, match="signal must be one of log_probability, t_vhd"):
            found.scores(signal)


def test_where_the_model_was_asked_its_answers_are_the_score() -> None:
    words = (Word("a", 0, 1, (0, 1)), Word("dog", 2, 5, (1, 2)), Word("cat", 6, 9, (2, 3)))
    tokens = {"log_probability": torch.tensor([-9.0, -1.0, -2.0])}
    vhd, odds = torch.zeros(3, 1, 2), {1: 1.0, 2: 3.0}
    found = Grounding("a dog cat", words, vhd, tokens, ask=odds)
    first, *others = found.scores()
    assert first != first and others == [1.0, 3.0]  # NaN: no object's word
    assert found.doubtful() == [False] * 3 and found.chances() == [None] * 3
    assert [word["ask"] for word in found.as_dict()["words"]] == [None, 1.0, 3.0]
    assert found.as_dict()["error"] is None
    curve = shipped("tiny")  # doubts a Yes of log-odds 1
    assert curve is not None and 1 < curve.threshold() < 3
    sure = replace(found, curve=curve)
    assert sure.doubtful() == [False, True, False]
    nothing, dog, cat = sure.chances()
    assert nothing is None and dog and cat and dog < 0.5 < cat
    assert sure.as_dict()["error"] == [curve.error, *curve.error_ci]


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
    found = measure(model, inputs, TEXT, looks=True)
    counter.remove()
    vhd, looks = found.vhd, found.looks
    log, gain = found.tokens["log_probability"], found.tokens["image_gain"]
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


def test_published_scores_by_hand() -> None:
    looks = torch.zeros(1, 32, 2, 3)
    looks[0, 5:19] = torch.tensor([[0.1, 0.2, 0.1], [0.2, 0.2, 0.2]])  # 14 layers of 0.5
    looks[0, 19] = looks[0, 4] = 9.0  # outside of the middle
    assert svar(looks).tolist() == pytest.approx([7.0])
    written = torch.tensor([[[0.2, 0.4], [1.0, 1.0]], [[0.0, 0.0], [1.0, 1.0]]])
    assert pas(written).tolist() == pytest.approx([-0.3, 0.0])
    # two image rows, two layers, the head is the identity: e / (e + 1) is the most for token 1
    states = [torch.tensor([[0.0, 1.0], [0.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 0.0]])]
    read = internal_confidence(states, lambda state: state, torch.tensor([1, 0]))
    assert read.tolist() == pytest.approx([1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-2))])
    # rows: image, image, prompt's end, which predicts token 1
    early = torch.tensor([[9.0, 9.0], [9.0, 9.0], [3.0, 4.0]])
    last = torch.tensor([[0.0, 5.0], [5.0, 0.0], [0.0, 2.0]])
    one = glsim(
        early, last, lambda state: state,
        torch.tensor([2]), torch.tensor([0, 1]), torch.tensor([1]), weight=0.25, share=0.5,
    )  # fmt: skip
    # whole: cos((3, 4), (0, 2)) = 0.8; near: row 0 is likeliest, cos((3, 4), (0, 5)) = 0.8
    assert one.tolist() == pytest.approx([0.8])
    last[0] = torch.tensor([-5.0, 5.0])  # still likeliest; cos is (−3 + 4) / 5 / √2
    one = glsim(
        early, last, lambda state: state,
        torch.tensor([2]), torch.tensor([0, 1]), torch.tensor([1]), weight=0.25, share=0.5,
    )  # fmt: skip
    assert one.tolist() == pytest.approx([0.25 * 0.8 + 0.75 * 0.2 / 2**0.5])


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
@torch.no_grad()
def test_published_scores_equal_a_pass_with_full_maps(family: str) -> None:
    """Entropy, PAS, SVAR, IC and GLSim, each token from a pass over the text so far."""
    model, inputs = miniature(family, samples=1)
    found = measure(model, inputs, TEXT, published=True).tokens
    assert measure(model, inputs, TEXT).tokens.keys() == found.keys() - {
        "svar",
        "pas",
        "ic",
        "glsim",
    }
    model.set_attn_implementation({"text_config": "eager"})
    prompt = inputs["input_ids"].shape[1]
    image = (inputs["input_ids"][0] == IMAGE).nonzero().flatten()
    for t, token in enumerate(TEXT):
        text = torch.cat((inputs["input_ids"], TEXT[None, :t]), dim=1)
        more = inputs | {"input_ids": text, "attention_mask": torch.ones_like(text)}
        if "mm_token_type_ids" in inputs:
            more["mm_token_type_ids"] = (text == IMAGE).long()
        out = model(**more, output_attentions=True, output_hidden_states=True)
        chance = out.logits[0, -1].softmax(-1)
        rows = [layer[0, :, -1].mean(0) for layer in out.attentions]  # by layer: keys
        middle = [row[image].sum() for row in rows[1:3]]  # round(5 · 5/32) to round(5 · 19/32) − 1
        states = [state[0] for state in out.hidden_states]
        lens = [model.lm_head(state[image]).softmax(-1)[:, token] for state in states]
        near = torch.stack(lens).max()
        count = max(1, round(len(image) * 32 / 576))
        best = image[lens[-1].argsort(descending=True)[:count]]
        cosine = torch.nn.functional.cosine_similarity
        whole = cosine(states[-2][prompt - 1], states[-1][-1], dim=-1)
        local = cosine(states[-2][-1][None], states[-1][best], dim=-1).mean()
        wanted = {
            "entropy": (chance * chance.log()).sum(),
            "pas": -rows[0][prompt:].sum(),
            "svar": sum(middle),
            "ic": near,
            "glsim": 0.6 * whole + 0.4 * local,
        }
        for name, value in wanted.items():
            loose = 1e-3 if name == "svar" else 1e-5  # maps are kept in half precision
            assert float(found[name][t]) == pytest.approx(float(value), abs=loose), (name, t)


def test_looks_are_the_attention_weights() -> None:
    model, inputs = miniature("llava", samples=1)
    looks = measure(model, inputs, TEXT, looks=True).looks
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
    text = "A man with a dog, two cats."
    found = ground(*tiny, photo, DESCRIBE, text, looks=True, published=True)
    assert [word.text for word in found.words] == ["A", "man", "with", "a", "dog", "two", "cats"]
    assert found.grid == (16, 16) and found.look(1, [(0, 0), (3, 2)]).shape == (16, 16)
    assert found.signals == ("ask", *SIGNALS) and found.best == "ask"
    assert {len(found.scores(signal, 2)) for signal in found.signals} == {7}
    (odds,) = lf.Asker(*tiny).look([photo], [["person", "dog", "cat"]])
    assert found.ask == pytest.approx({1: odds["person"], 4: odds["dog"], 6: odds["cat"]}, abs=1e-3)
    own = ground(*tiny, photo, DESCRIBE, text, find=lf.listed(["with"])).ask
    assert own is not None and list(own) == [2]
    unasked = ground(*tiny, photo, DESCRIBE, text, ask=False)
    assert unasked.ask is None and unasked.best == "log_probability"
    assert ground(*tiny, photo, DESCRIBE, "So it is.").ask == {}
    assert all(value <= 0 for value in found.scores("log_probability"))
    with pytest.raises(lf.InputError, match="the text is empty"):
        ground(*tiny, photo, DESCRIBE, "")
