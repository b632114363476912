"""Answers: shared image against whole prompts, batches, and the caller's cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

import lvlm_fix as lf
from lvlm_fix.ask.asker import answers_to
from lvlm_fix.ask.prefix import by_columns, prefix_of, unshared
from lvlm_fix.core.call import cache_in
from lvlm_fix.errors import InputError, ModelError, SettingError
from lvlm_fix.families import family_of
from lvlm_fix.models import DESCRIBE, prepare
from lvlm_fix.tools.miniature import miniature, sample

OBJECTS = [["dog", "cat", "tennis racket"], ["person"], ["orange", "coffee cup"]]


@pytest.fixture(scope="module")
def asker(tiny: Any) -> lf.Asker:
    return lf.Asker(*tiny, at_once=4)


def whole(asker: lf.Asker, photo: Any, name: str) -> float:
    """Log-odds from a prompt of its own."""
    inputs = prepare(asker.model, asker.processor, [photo], [asker.wording.about(name)])
    with torch.no_grad():
        logits = asker.model(**inputs).logits[0, -1]
    yes, no = asker.wording.answers(asker.tokenizer)
    return float(logits[list(yes)].logsumexp(0) - logits[list(no)].logsumexp(0))


def test_behind_a_shared_image_as_in_a_prompt_of_its_own(
    asker: lf.Asker, photos: list[Path]
) -> None:
    opened = [lf.open_image(path) for path in photos[:3]]
    found = asker.look(opened, OBJECTS)
    assert [list(one) for one in found] == OBJECTS
    for photo, answers in zip(opened, found, strict=True):
        for name, odds in answers.items():
            assert odds == pytest.approx(whole(asker, photo, name), abs=2e-4)
    assert len({round(odds, 3) for one in found for odds in one.values()}) == 6


def test_prompts_of_different_length_and_a_text_behind_them(
    asker: lf.Asker, photos: list[Path]
) -> None:
    opened = [lf.open_image(path) for path in photos[:2]]
    inputs = dict(prepare(*_pair(asker), opened, [DESCRIBE, "What?"]))
    assert not inputs["attention_mask"].all()
    given = asker.pass_over(inputs)
    with torch.no_grad():  # the text goes on: three tokens more in the cache than in the prompt
        grown = torch.cat((inputs["attention_mask"], torch.ones(2, 3, dtype=torch.long)), 1)
        asker.model(
            input_ids=torch.tensor([[5, 6, 7]] * 2), attention_mask=grown,
            position_ids=(grown.cumsum(-1) - 1)[:, -3:],
            **{asker._cache_name: cache_in(given)},
        )  # fmt: skip
    found = asker.ask(given, [["dog"], ["dog", "cat"]])
    for photo, answers in zip(opened, found, strict=True):
        for name, odds in answers.items():
            assert odds == pytest.approx(whole(asker, photo, name), abs=2e-4)


def test_the_cache_of_the_caller_is_bit_equal(asker: lf.Asker, photos: list[Path]) -> None:
    given = asker.pass_over(prepare(*_pair(asker), [lf.open_image(photos[0])], [DESCRIBE]))
    cache: Any = cache_in(given)
    before = [(one.keys.clone(), one.values.clone()) for one in cache.layers]
    asker.ask(given, [["dog", "cat"]])
    for (keys, values), one in zip(before, cache.layers, strict=True):
        assert torch.equal(keys, one.keys) and torch.equal(values, one.values)
    assert cache.get_seq_length() == given["input_ids"].shape[1]


def test_whole_prompts_where_nothing_can_be_shared(
    asker: lf.Asker, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = [lf.open_image(path) for path in photos[:3]]
    shared = asker.look(opened, OBJECTS)
    monkeypatch.setattr("lvlm_fix.ask.prefix.unshared", lambda *_: "for this test")
    alone = asker.look(opened, OBJECTS)
    assert [list(one) for one in alone] == OBJECTS
    for one, other in zip(shared, alone, strict=True):
        assert other == pytest.approx(one, abs=2e-4)
    assert asker.look(opened, [[], ["dog"], []])[::2] == [{}, {}]
    with pytest.raises(lf.InputError, match="got 1 and 3"):
        asker.look(opened, [["dog"]])


def test_why_nothing_is_shared(asker: lf.Asker, photos: list[Path]) -> None:
    model, family = asker.model, family_of(asker.model)
    given = asker.pass_over(prepare(*_pair(asker), [lf.open_image(photos[0])], [DESCRIBE]))
    cache = cache_in(given)
    assert unshared(model, family, cache, given) == ""
    assert "follows" in unshared(model, family, cache, given | {"token_type_ids": None})
    assert "no cache" in unshared(model, family, None, given)


def test_a_fixed_model_is_asked_as_if_it_were_not(asker: lf.Asker, photos: list[Path]) -> None:
    opened = [lf.open_image(photos[0])]
    plain = asker.look(opened, [["dog", "cat"]])
    with lf.fix(asker.model, [lf.VHR(strength=4.0), lf.VCD()]):
        assert asker.look(opened, [["dog", "cat"]]) == plain
    with lf.fix(asker.model, [lf.VHR(strength=4.0)]):  # and so where its own text is behind
        fixed = lf.answer(*_pair(asker), opened, [DESCRIBE], max_new_tokens=6)
        check = lf.asked(use="mark", processor=asker.processor)
        assert fixed == lf.answer(
            *_pair(asker), opened, [DESCRIBE], max_new_tokens=6, custom_generate=check
        )


def test_what_cannot_be_asked(asker: lf.Asker, photos: list[Path], tiny: Any) -> None:
    given = asker.pass_over(prepare(*_pair(asker), [None], ["Hello"]))
    with pytest.raises(InputError, match="no image"):
        asker.ask(given, [["dog"]])
    assert asker.ask(given, [[]]) == [{}]
    with pytest.raises(SettingError, match="object"):
        lf.Wording(question="Is it there?")
    with pytest.raises(ModelError, match="same token"):
        lf.Wording(yes="No").answers(asker.tokenizer)
    with pytest.raises(SettingError, match="at_once"):
        lf.Asker(*tiny, at_once=0)
    ids = given["input_ids"]
    with pytest.raises(InputError, match="input_ids"):
        prefix_of(asker.model, asker.family, {"inputs_embeds": ids}, {0})


def test_the_question() -> None:
    words = lf.Wording(question="Do you see {a} {object}?")
    assert [words.about(name) for name in ("dog", "orange")] == [
        "Do you see a dog?",
        "Do you see an orange?",
    ]


SHARING = {
    "llava": True, "llava_next": True, "internvl": True, "smolvlm": True,
    "qwen2_5_vl": False, "qwen3_vl": False, "gemma3": False, "paligemma": False,
}  # fmt: skip


@pytest.mark.parametrize("family", SHARING)
def test_every_family_shares_rightly_or_not_at_all(family: str) -> None:
    model, inputs = miniature(family)
    found = family_of(model)
    with torch.no_grad():
        output = model(**inputs, use_cache=True)
        cache = cache_in(dict(output))
        given = {**inputs, "cache": cache}
        if not inputs["attention_mask"].all() and by_columns(found):
            positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp_min(0)
            given["cache"] = cache_in(dict(model(**inputs, position_ids=positions, use_cache=True)))
        prefix = prefix_of(model, found, given, {0, 1})
        assert prefix.shared == SHARING[family]
        tails = [[5, 9, 7], [8, 11]]
        answers = answers_to(model, found, prefix, [0, 1], tails)
        alone = answers_to(model, found, replace(prefix, layers=()), [0, 1], tails)
        torch.testing.assert_close(answers, alone, atol=1e-4, rtol=1e-3)
        ids = prefix.ids[1, prefix.valid[1]].tolist() + tails[1]
        one = {
            name: value
            for name, value in sample(inputs, 1).items()
            if name not in ("input_ids", "attention_mask")
        }
        for name in [name for name in one if name.endswith("token_type_ids")]:
            types = prefix.photo[name][1, : prefix.ids.shape[1]][prefix.valid[1]].tolist()
            one[name] = torch.tensor([types + [0] * len(tails[1])])
        plain = model(input_ids=torch.tensor([ids]), **one).logits[0, -1]
    torch.testing.assert_close(answers[1], plain.float(), atol=1e-4, rtol=1e-3)


def _pair(asker: lf.Asker) -> tuple[PreTrainedModel, Any]:
    return asker.model, asker.processor
