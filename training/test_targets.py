"""The texts that are taught: clean, grounded in the truth, without repetition."""

from __future__ import annotations

import random

import pytest

from training.targets import Photo, ask, listed, long_text, mentioned, sentence, short_text

PHOTO = Photo(
    ("A man rides  a horse.", "A rider and his dog on a beach", "a man rides a horse"),
    ("dog", "horse", "person", "umbrella"),
)


def test_sentence_is_clean() -> None:
    assert sentence(" A  Dog runs ,.") == "A dog runs."


def test_articles_and_lists() -> None:
    assert listed(["umbrella"]) == "an umbrella"
    assert listed(["dog", "skis", "apple"]) == "a dog, skis and an apple"
    assert ask("umbrella") == "Is there an umbrella in the image?"


def test_mentions_know_plurals_and_common_words() -> None:
    assert mentioned("Two women with dogs, seated.", ("person", "dog", "chair")) == {"person", "dog"}


@pytest.mark.parametrize("seed", range(20))
def test_long_text_names_every_object_once_told(seed: int) -> None:
    text = long_text(PHOTO, random.Random(seed))
    assert mentioned(text, PHOTO.objects) == set(PHOTO.objects)
    parts = [part.strip() for part in text.split(".") if part.strip()]
    assert len(parts) == len(set(parts))


def test_no_caption_still_gives_a_text() -> None:
    assert "cat" in short_text(Photo((), ("cat",)), random.Random(0)).lower()
    assert long_text(PHOTO, random.Random(3)) == long_text(PHOTO, random.Random(3))
