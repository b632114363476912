"""Caption -> nodes: worked by hand, then against the published scorer's own output."""

import json
from pathlib import Path

import pytest
from lvlm_eval.chair import mentions, nodes
from lvlm_eval.chair.vocabulary import NODES, PAIRS, SYNONYMS

PUBLISHED = {
    "": [],
    "Nothing here.": [],
    "Two dogs and a puppy.": ["dog", "dog"],
    "horses, benches, suitcases; buses!": ["horse", "bench", "suitcase", "bus"],
    "women with babies": ["person", "person"],
    "children": ["person"],
    "geese and mice": ["bird", "mouse"],
    "a pair of scissors and two knives": ["scissors", "knife"],
    "two vases": [],  # WordNet's shortest lemma is "vas"
    "two men": [],  # "men" is a word of WordNet
    "three smartphones": [],  # WordNet 3.0 lacks the word
    "a hot dog": ["hot dog"],
    "hot dogs near a dog": ["hot dog", "dog"],
    "wine glasses on the dining table": ["wine glass", "dining table"],
    "a baby elephant and an adult bear": ["elephant", "bear"],
    "a passenger train": ["train"],
    "a stuffed animal, a teddy bear": ["teddy bear"],
    "the toilet seat is up": ["toilet"],
    "the seat of the toilet": ["toilet"],
    "the seat of the bus": ["chair", "bus"],
    "a man in an orange shirt": ["person", "orange"],
    "his tie is tied": ["tie", "tie"],
    "she is seated": ["chair"],
    "a man is skiing": ["person", "skis"],
    "the thrill of skiing": [],
    "a ski": ["skis"],
    "a bow tie": ["tie"],
    "potted plants by the parking meter": ["potted plant", "parking meter"],
    'a "stop sign"': ["stop sign"],
    "stop, sign": [],
    "the dog's (big) ball.": ["dog", "sports ball"],
    "dog/cat and bus-stop": [],
    "DOG\n\nCat": ["dog", "cat"],
    "a bowl of bowls": ["bowl", "bowl"],
}
STRICT = {
    "his tie is tied": ["tie"],
    "she is seated, skiing": [],
    "two vases, two men, three smartphones": ["vase", "person", "cell phone"],
    "two skis": ["skis"],
}


@pytest.mark.parametrize("caption", PUBLISHED)
def test_the_published_rule_by_hand(caption: str) -> None:
    assert nodes(caption) == PUBLISHED[caption]


@pytest.mark.parametrize("caption", STRICT)
def test_the_strict_rule_by_hand(caption: str) -> None:
    assert nodes(caption, "strict") == STRICT[caption]


def test_a_mention_says_where_it_stands() -> None:
    caption = "A hot dog, then two dogs."
    found = [(" ".join(caption.split()[m.first : m.last + 1]), m.word, m.node) for m in mentions(caption)]
    assert found == [("hot dog,", "hot dog", "hot dog"), ("dogs.", "dog", "dog")]


def test_the_vocabulary_is_the_published_one(shared: Path) -> None:
    published = json.loads((shared / "oracles/chair/vocabulary.json").read_text())
    words = {word: node for word, node in published["inverse_synonym_dict"].items() if word}
    assert words == SYNONYMS
    assert set(words.values()) == set(NODES)
    assert len(NODES) == 80
    assert published["double_word_dict"] == PAIRS
    assert {word for word in published["mscoco_objects"] if word} == set(SYNONYMS)


@pytest.mark.parametrize("name", ["guided", "paint"])
def test_the_same_nodes_as_the_published_scorer_in_500_of_500(shared: Path, name: str) -> None:
    document = json.loads((shared / f"oracles/chair/llava-1.5-7b.{name}.per_image.json").read_text())
    differing = [
        item["image_id"] for item in document["sentences"] if nodes(item["caption"]) != item["mscoco_generated_words"]
    ]
    assert len(document["sentences"]) == 500
    assert differing == []
