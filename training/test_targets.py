"""The texts that are taught: clean, grounded in the truth, without repetition."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from training.targets import (
    Photo,
    agreed,
    ask,
    listed,
    listing,
    long_text,
    mentioned,
    sentence,
    short_text,
)

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
def test_a_long_text_is_a_caption_and_one_sentence_on_what_it_does_not_name(seed: int) -> None:
    photo = replace(PHOTO, visible=("person", "horse", "umbrella"))
    first, _, second = long_text(photo, random.Random(seed)).partition(". ")
    assert first == "A man rides a horse"
    assert mentioned(second, photo.objects) == {"umbrella"}
    assert second[0].isupper() and second.count(".") == 1


def test_a_long_text_names_nothing_twice() -> None:
    crowd = Photo(("A crowd watches a dog.",), ("dog", "person"), ("dog", "person"))
    assert long_text(crowd, random.Random(0)) == "A crowd watches a dog."


def test_people_agree_on_what_two_captions_name() -> None:
    assert agreed(PHOTO.captions, PHOTO.objects) == ("person", "horse")
    assert agreed(PHOTO.captions[:1], PHOTO.objects) == ()


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
