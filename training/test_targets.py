"""The texts that are taught: clean, grounded in the truth, without repetition."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from training.targets import Photo, ask, listed, listing, long_text, mentioned, sentence, short_text

PHOTO = Photo(
    ("A man rides  a horse.", "A rider and his dog on a beach", "a man rides a horse"),
    ("dog", "horse", "person", "umbrella"),
    ("person", "horse"),
)


def test_sentence_is_clean() -> None:
    assert sentence(" A  Dog runs ,.") == "A dog runs."


def test_articles_and_lists() -> None:
    assert listed(["umbrella"]) == "an umbrella"
    assert listed(["dog", "skis", "apple"]) == "a dog, skis and an apple"
    assert ask("umbrella") == "Is there an umbrella in the image?"


def test_mentions_know_plurals_and_common_words() -> None:
    assert mentioned("Two women with dogs, seated.", ("person", "dog", "chair")) == {
        "person",
        "dog",
    }


@pytest.mark.parametrize("seed", range(20))
def test_long_text_lists_what_is_visible_surest_first_and_adds_a_caption(seed: int) -> None:
    text = long_text(PHOTO, random.Random(seed))
    assert text.startswith("The image shows a person and a horse. ")
    assert text.endswith("s a horse.")


def test_a_caption_that_names_what_is_not_visible_is_not_taught() -> None:
    assert {short_text(PHOTO, random.Random(seed)) for seed in range(20)} == {
        "A man rides a horse."
    }
    seen = replace(PHOTO, visible=PHOTO.objects)
    assert "A rider and his dog on a beach." in {
        short_text(seen, random.Random(seed)) for seed in range(20)
    }


def test_a_listing_names_the_visible_objects() -> None:
    assert listing(PHOTO) == "Person, horse."
    assert listing(replace(PHOTO, visible=())) == "Nothing."


def test_no_caption_still_gives_a_text() -> None:
    assert "cat" in short_text(Photo((), ("cat",), ("cat",)), random.Random(0)).lower()
    assert long_text(PHOTO, random.Random(3)) == long_text(PHOTO, random.Random(3))
