"""Words as paths over tokens, and what a guide adds to the logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import lvlm_fix as lf
from lvlm_fix.ask.words import Words, forms_of, pull
from lvlm_fix.methods.guide import Guide
from lvlm_fix.models import DESCRIBE, prepare

IDS = {
    "a": [1], "ski": [10, 11], "sky": [10, 12], "hot dog": [20, 21], "dog": [21], "Dog": [22],
}  # fmt: skip


def tokenizer(text: str, add_special_tokens: bool) -> dict[str, list[int]]:
    """Made up: a word behind a blank as in IDS, at the start of a text 100 more."""
    assert not add_special_tokens
    if text.startswith("a "):
        return {"input_ids": [1, *IDS.get(text[2:], [99])]}
    return {
        "input_ids": [token + 100 for token in IDS[text]] if text in IDS and text != "a" else [1]
    }


@pytest.fixture
def words() -> Words:
    return Words(tokenizer, {"skis": ["ski"], "hot dog": ["hot dog"], "dog": ["dog"]})


def test_whole_words(words: Words) -> None:
    assert words.completing([5])[21] == "dog"
    assert 10 not in words.completing([5])  # "sk" may still become "sky"
    assert words.completing([5, 10])[11] == "skis" and 12 not in words.completing([5, 10])
    assert words.completing([5, 20])[21] == "hot dog"  # no dog
    assert words.completing([5, 21])[21] == "dog"
    assert words.completing([])[121] == "dog" and 121 not in words.completing([5])
    assert words.completing([120])[121] == "hot dog" and words.completing([110])[111] == "skis"


def test_what_is_named(words: Words) -> None:
    assert words.named([5, 20, 21, 5]) == {"hot dog"}
    assert words.named([5, 20, 5, 21]) == {"dog"}
    assert words.named([10, 12]) == set()


def test_pull_by_hand(words: Words) -> None:
    odds = {"dog": -2.0, "hot dog": 4.0, "skis": 0.5}
    settings: dict[str, Any] = {"strength": 2.0, "threshold": 1.0, "share": 0.25, "vocabulary": 130}
    assert pull(words, [5], odds, **settings)[[10, 21, 20]].tolist() == [0.0, -6.0, 0.0]
    assert pull(words, [5, 10], odds, **settings)[[11, 12]].tolist() == [-1.0, 0.0]
    assert float(pull(words, [5, 20], odds, **settings)[21]) == pytest.approx(2 * 0.25 * 3)
    again = pull(words, [20, 21, 20], odds, **settings)
    assert float(again[21]) == 0.0  # named already: not pulled up once more
    assert not pull(words, [5], {}, **settings).any()


def test_forms() -> None:
    assert forms_of(["lamp"]) == {"lamp": ["lamp", "lamps"]}
    assert {"puppy", "dogs", "hound"} <= set(forms_of(["dog"])["dog"])
    assert "hot dogs" in forms_of(["hot dog"])["hot dog"]


def test_guide_holds_back_what_is_not_there(tiny: Any, photos: list[Path]) -> None:
    opened = [lf.open_image(path) for path in photos[:2]]
    plain = lf.answer(*tiny, opened, [DESCRIBE] * 2, max_new_tokens=24)
    with lf.fix(tiny[0], Guide(strength=0.0)):
        assert lf.answer(*tiny, opened, [DESCRIBE] * 2, max_new_tokens=24) == plain
    with lf.fix(tiny[0], Guide(strength=50.0, threshold=100.0, objects="person, man,woman")):
        held = lf.answer(*tiny, opened, [DESCRIBE] * 2, max_new_tokens=24)
        alone = [lf.answer(*tiny, [one], [DESCRIBE], max_new_tokens=24)[0] for one in opened]
    assert held == alone
    assert any("person" in text or "man" in text for text in plain)
    assert not any({"person", "man", "woman", "people"} & set(text.split()) for text in held)


def test_guide_with_beams_and_text_alone(tiny: Any, photos: list[Path]) -> None:
    model, processor = tiny
    opened = [lf.open_image(photos[0])]
    options: dict[str, Any] = {"max_new_tokens": 16, "num_beams": 3}
    with lf.fix(model, Guide(strength=50.0, threshold=100.0)):
        (text,) = lf.answer(*tiny, opened, [DESCRIBE], **options)
        both = prepare(*tiny, [opened[0], None], [DESCRIBE, "Hello"])
        ids = model.generate(**both, max_new_tokens=8, do_sample=False)
    assert not lf.asked(processor=processor)._find(text)
    alone = model.generate(**prepare(*tiny, [None], ["Hello"]), max_new_tokens=8, do_sample=False)
    new = both["input_ids"].shape[1]
    assert torch.equal(ids[1:, new:], alone[:, -(ids.shape[1] - new) :])
