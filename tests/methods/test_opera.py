"""OPERA by hand, against its slow form, and against the stock search of which it is made."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from cases import OPERATED
from literal_opera import opera
from torch import Tensor
from transformers import TextStreamer

import lvlm_fix as lf
from lvlm_fix.images import sample_photos
from lvlm_fix.methods.opera import most_common, over_trust
from lvlm_fix.models import DESCRIBE, answer_ids
from lvlm_fix.tools.miniature import IMAGE, miniature, sample

LONG: dict[str, Any] = {"max_new_tokens": 10, "min_new_tokens": 3, "do_sample": False}
# a penalty that is nothing, over all words, and no return: the stock search by beams
STOCK: dict[str, Any] = {"strength": 1e-30, "candidates": 128, "threshold": 10**6}


def text(model: Any, inputs: dict[str, Tensor], method: Any, **options: Any) -> Tensor:
    with lf.fix(model, method):
        return model.generate(**inputs, **(LONG | options))[:, inputs["input_ids"].shape[1] :]


def test_the_penalty_by_hand() -> None:
    # rows of 50·W: [1], [2, 4], [3, 5, 6]; products 1·2·3, 4·5, 6; times 1e-7, in float16
    rows = [[1.0], [2.0, 4.0], [3.0, 5.0, 6.0]]
    sums = torch.zeros(3, dtype=torch.float64)
    for row in rows:
        sums[: len(row)] += torch.tensor(row).log()
    penalty, column = over_trust(sums)
    assert int(column) == 1 and float(penalty) == float(torch.tensor(20e-7).half())
    penalty, column = over_trust(torch.tensor([0.0, math.log(1e-3)]))
    assert float(penalty) == float(torch.tensor(1e-7).half()) and int(column) == 0
    penalty, _ = over_trust(torch.tensor([900.0, 1.0], dtype=torch.float64))
    assert float(penalty) == 65504.0
    assert most_common(torch.tensor([[3, 1, 3, 1, 2], [4, 5, 6, 7, 7]])).tolist() == [1, 7]


@pytest.mark.parametrize(
    ("settings", "seed", "goes_back"),
    [
        ({"threshold": 99}, 0, False),
        ({"beams": 2, "candidates": 2, "scale": 90.0, "strength": 2.0, "returns": 1}, 0, True),
        ({"candidates": 2, "scale": 90.0, "strength": 2.0, "early": 0, "returns": 3}, 1, True),
    ],
)
def test_opera_equals_its_slow_form(settings: Any, seed: int, goes_back: bool) -> None:
    model, inputs = miniature("llava", samples=1, seed=seed)
    known = {"beams": 3, "candidates": 3, "scale": 50.0, "threshold": 1, "returns": 5, "early": 1}
    known |= {"strength": 1.0} | settings
    options = LONG | {"return_dict_in_generate": True, "output_scores": True}
    with lf.fix(model, lf.OPERA(**known)) as handle:
        found = model.generate(**inputs, **options)
        assert handle.report()[0].rows_edited == 10 and not handle.report()[0].note
    model.set_attn_implementation("eager")
    wanted, score, returned = opera(model, inputs, IMAGE, 10, **known)
    assert found.sequences[0, inputs["input_ids"].shape[1] :].tolist() == wanted
    assert float(found.sequences_scores[0]) == pytest.approx(score / 10, abs=1e-5)
    assert (returned > 0) == goes_back


@pytest.mark.parametrize("options", [{}, {"num_beams": 3, "num_return_sequences": 2}])
@pytest.mark.parametrize("ends", [False, True])
def test_without_penalty_and_return_it_is_the_stock_search(options: Any, ends: bool) -> None:
    model, inputs = miniature("llava")
    options = {"num_beams": 5} | options
    if ends:  # some texts end early
        options |= {"eos_token_id": [9, 21, 22], "pad_token_id": 1, "length_penalty": 0.5}
    wanted = model.generate(**inputs, **LONG, **options)[:, inputs["input_ids"].shape[1] :]
    assert torch.equal(text(model, inputs, lf.OPERA(**STOCK), **options), wanted)
    one, wanted = sample(inputs, 1), None
    for method in ([], lf.OPERA(**STOCK)):
        torch.manual_seed(2)
        found = text(model, one, method, **options | {"do_sample": True})
        wanted = found if wanted is None else wanted
    assert torch.equal(found, wanted)


def test_a_strength_of_0_is_the_stock_search_and_one_beam_the_plain_model() -> None:
    model, inputs = miniature("llava")
    neutral, _ = OPERATED["opera"]
    assert torch.equal(text(model, inputs, neutral), text(model, inputs, []))
    beams = text(model, inputs, [], num_beams=5)
    assert torch.equal(text(model, inputs, lf.OPERA(strength=0.0)), beams)
    assert not torch.equal(text(model, inputs, lf.OPERA(strength=50.0)), beams)
    greedy = lf.OPERA(**STOCK | {"beams": 1})
    ends = {"eos_token_id": [9, 22], "pad_token_id": 1}
    assert torch.equal(text(model, inputs, greedy, **ends), text(model, inputs, [], **ends))
    with torch.no_grad(), lf.fix(model, lf.OPERA()):
        acting = model(**inputs).logits
    with torch.no_grad():
        assert torch.equal(acting, model(**inputs).logits)


def test_a_batch_equals_one_by_one_and_text_alone_is_untouched() -> None:
    model, inputs = miniature("llava")
    method = lf.OPERA(threshold=1, early=0, scale=90.0)
    together = text(model, inputs, method)
    alone = [text(model, sample(inputs, number), method)[0] for number in range(2)]
    assert torch.equal(together, torch.stack(alone))
    ids = torch.where(inputs["input_ids"] == IMAGE, 7, inputs["input_ids"])
    words = {"input_ids": ids, "attention_mask": inputs["attention_mask"]}
    assert torch.equal(text(model, words, method), text(model, words, []))
    mixed = {**inputs, "pixel_values": inputs["pixel_values"][1:]}
    mixed["input_ids"] = torch.stack((ids[0], inputs["input_ids"][1]))
    found = text(model, mixed, method)
    assert torch.equal(found[0], text(model, words, [])[0])
    assert torch.equal(found[1], together[1])


@pytest.mark.parametrize(
    "family", ["llava_next", "qwen2_5_vl", "qwen3_vl", "internvl", "gemma3", "smolvlm"]
)
def test_other_families_have_the_stock_search_too_or_refuse(family: str) -> None:
    model, inputs = miniature(family)
    wanted = text(model, inputs, [], num_beams=3)
    if family == "gemma3":  # layers that slide forget
        with pytest.raises(lf.InputError, match="can be cut"):
            text(model, inputs, lf.OPERA())
        return
    assert torch.equal(text(model, inputs, lf.OPERA(**STOCK), num_beams=3), wanted)
    acting = lf.OPERA(threshold=1, early=0, scale=90.0)
    found = text(model, inputs, acting)
    assert torch.equal(text(model, sample(inputs, 1), acting)[0], found[1])


@pytest.mark.parametrize("other", ["vhr", "vcd", "hgai", "iat"])
def test_other_methods_act_in_its_passes(other: str) -> None:
    model, inputs = miniature("llava", samples=1)
    wanted = text(model, inputs, other, num_beams=3)
    found = text(model, inputs, [*lf.methods.resolve(other), lf.OPERA(**STOCK)], num_beams=3)
    assert torch.equal(found, wanted)
    acting = [*lf.methods.resolve(other), lf.OPERA(threshold=1, early=0, scale=90.0)]
    assert text(model, inputs, acting).shape == found.shape


def test_what_it_cannot_serve_is_refused() -> None:
    model, inputs = miniature("llava", samples=1)
    drafting, _ = miniature("llava", samples=1)
    wanted = text(model, inputs, lf.OPERA())
    for options, said in (
        ({"use_cache": False}, "dynamic one"),
        ({"cache_implementation": "static", "disable_compile": True}, "dynamic one"),
        ({"assistant_model": drafting}, "assistant_model has no effect"),
        ({"prompt_lookup_num_tokens": 3}, "prompt_lookup_num_tokens has no effect"),
        ({"streamer": TextStreamer(None)}, "streamer has no effect"),
        ({"custom_generate": lambda model, input_ids, **_: input_ids}, "custom_generate: give one"),
    ):
        with pytest.raises(lf.InputError, match=said):
            text(model, inputs, lf.OPERA(), **options)
    plain = [text(model, inputs, [], **more) for more in ({}, {"prefill_chunk_size": 5})]
    if torch.equal(*plain):  # on some releases the unmodified model gives another text
        assert torch.equal(text(model, inputs, lf.OPERA(), prefill_chunk_size=5), wanted)
    assert torch.equal(text(model, inputs, lf.OPERA(), generation_config=copy.copy(
        model.generation_config)), wanted)  # fmt: skip
    with pytest.raises(lf.SettingError, match="opera and opera"):
        lf.fix(model, [lf.OPERA(), lf.OPERA(beams=2)])
    bound = model.generate
    with lf.fix(model, lf.OPERA()), pytest.raises(lf.InputError, match="within the block"):
        bound(**inputs, do_sample=False, max_new_tokens=4)  # of before: it knows no method
    with lf.fix(model, lf.OPERA()):
        assert model(**inputs).logits.isfinite().all()  # a prompt is no decoding
    assert "generate" not in model.__dict__


@pytest.mark.parametrize("use", ["mark", "drop"])
def test_its_texts_can_be_checked(tiny: Any, use: str) -> None:
    photo = [lf.open_image(sample_photos()[0])]

    def ids(**options: Any) -> list[list[int]]:
        with lf.fix(tiny[0], lf.OPERA(beams=2, candidates=2)):
            return answer_ids(*tiny, photo, [DESCRIBE], max_new_tokens=12, **options)

    check = lf.asked(threshold=-1e9, use=use)
    assert ids(custom_generate=check) == ids()
    assert len(check.checked) == 1
    with pytest.raises(lf.InputError, match="beams share theirs"):
        ids(custom_generate=lf.asked(use="rewrite"))
