"""Sentences, and texts without their doubtful objects."""

from __future__ import annotations

import pytest

from lvlm_fix.ask.sentences import drop, ended, sentences
from lvlm_fix.errors import SettingError
from lvlm_fix.objects import coco, listed, surfaces

CASES = [
    ("The image shows a person, a car and a dog. A bus on a street.", "dog",
     "The image shows a person and a car. A bus on a street."),
    ("The image shows a person, a car and a dog.", "car dog", "The image shows a person."),
    ("The image shows a person and a dog. A bus.", "dog person", "A bus."),
    ("A man riding a horse with a dog.", "dog", "A man riding a horse."),
    ("A man riding a horse with a dog. A bus.", "horse", "A bus."),
    ("A dog and a cat are sitting on a bench. There is a car.", "cat", "There is a car."),
    ("A dog and a cat sitting on a rug.", "dog", "A cat sitting on a rug."),
    ("There are two dogs, a cat, and a bird here.", "bird", "There are two dogs and a cat here."),
    ("A dog, a cat, a cow, and a bird.", "cow", "A dog, a cat, and a bird."),
    ("A man with a cell phone, a laptop, and a cup next to a keyboard.", "keyboard laptop",
     "A man with a cell phone and a cup."),
    ("The image shows a dining table, a person and a bowl. A cat.", "person",
     "The image shows a dining table and a bowl. A cat."),
    ("A sleeping cat, a parking meter and a dog.", "dog", "A sleeping cat and a parking meter."),
    ("The image shows a person, a tennis racket and a sports ball.", "sports ball",
     "The image shows a person and a tennis racket."),
    ("A dining table, a cat and a red car in a room. A bus.", "car",
     "A dining table and a cat in a room. A bus."),
    ("There is a wooden bench that a dog guards, and a cat.", "cat",
     "There is a wooden bench that a dog guards."),
    ("- a dog\n- a cat\n- a person", "cat", "- a dog\n- a person"),
    ("A cat", "cat", ""),
    ("A man is 1.5 m tall. A cat!", "cat", "A man is 1.5 m tall."),
    (" A cat sleeps. A dog.\n", "dog", " A cat sleeps."),
]  # fmt: skip


@pytest.mark.parametrize(("text", "bad", "kept"), CASES)
def test_drop(text: str, bad: str, kept: str) -> None:
    assert drop(text, coco(text), lambda spot: spot.object in bad) == kept


@pytest.mark.parametrize("text", [text for text, _, _ in CASES] + ["", "Hm... well?! No", "\n\n"])
def test_sentences_make_up_the_text(text: str) -> None:
    assert "".join(text[start:end] for start, end in sentences(text)) == text
    assert drop(text, coco(text), lambda _: False) == text


def test_ended() -> None:
    assert [ended(text) for text in ("A cat.", "A cat", 'She said "no."', "- a\n", "")] == [
        True, False, True, True, False,
    ]  # fmt: skip


def test_spots_by_character() -> None:
    text = "Two (hot dogs), a tall man; a toy."
    assert [(spot.object, text[spot.start : spot.end]) for spot in coco(text)] == [
        ("hot dog", "hot dogs"), ("person", "man"),
    ]  # fmt: skip
    own = listed(["lamp post", "Lamp", "berry"])
    text = "A lamppost, lamp posts, LAMPS and berries."
    assert [(spot.object, text[spot.start : spot.end]) for spot in own(text)] == [
        ("lamp post", "lamp posts"), ("lamp", "LAMPS"), ("berry", "berries"),
    ]  # fmt: skip
    with pytest.raises(SettingError, match="at least one"):
        listed([" "])


def test_surfaces_name_their_object() -> None:
    forms = surfaces()
    assert len(forms) == 80
    wrong = [
        (name, form)
        for name, words in forms.items()
        for form in words
        if (found := coco(f"Here is the {form}")) and found[-1].object != name
    ]
    assert not wrong
