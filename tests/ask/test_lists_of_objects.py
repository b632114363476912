"""Lists of objects to ask about: how they are named, and the open one, made of captions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import lvlm_fix as lf
from lvlm_fix.ask.asked import asked_by
from lvlm_fix.methods.guide import Guide, _words
from lvlm_fix.objects.lists import named
from lvlm_fix.objects.nouns import commonest
from lvlm_fix.objects.spots import plural
from lvlm_fix.objects.vocabulary import NODES, SYNONYMS
from lvlm_fix.tools import asking

CAPTIONS = [
    "A brown dog is riding a skateboard.",
    "Two dogs on the top of a building.",
    "A dog sits on a red bus, next to some grass",
    "The dog near a bus and a building.",
    "A man riding a horse down a street",
    "A picture of a man in the grass",
]


def test_nouns_are_found_by_what_stands_around_them() -> None:
    assert commonest(CAPTIONS, 3) == ["dog", "building", "bus"]  # 4, then 2 each, by letters
    found = commonest(CAPTIONS, 99)
    assert set(found) == {
        "dog", "skateboard", "building", "bus", "grass", "man", "horse", "street"
    }  # fmt: skip
    # no colour, verb, part of a picture or amount; dogs are dogs; "sits" follows no determiner
    assert commonest([], 5) == commonest(["Sitting."], 5) == []


def test_plurals() -> None:
    words = {"dog": "dogs", "bus": "buses", "city": "cities", "person": "people", "man": "men"}
    assert {word: plural(word) for word in words} == words


def test_a_list_is_words_a_file_or_the_open_one(tmp_path: Path) -> None:
    assert named(" Dog,cat, dog,") == ("dog", "cat") and named("") == ()
    file = tmp_path / "list.txt"
    file.write_text("# a remark\nlamp post\n\nViolin\n")
    assert named(f"@{file}") == ("lamp post", "violin")
    file.write_text("# nothing\n")
    with pytest.raises(lf.SettingError, match="holds no objects"):
        named(f"@{file}")
    with pytest.raises(lf.SettingError, match="cannot be read"):
        named(f"@{tmp_path / 'none.txt'}")
    words = named("open")
    assert len(words) == 80 and {"man", "dog", "street", "tree"} <= set(words)
    assert 20 < sum(word not in SYNONYMS for word in words) < 60  # not the metric's words


def test_guide_and_ask_take_the_open_list(tiny: Any) -> None:
    assert Guide(objects="open")._names() == named("open") and Guide()._names() == NODES
    tokenizer = tiny[1].tokenizer

    def holds(words: Any, text: str) -> bool:
        """Whether a word is one of the list."""
        ids = tokenizer(f"a {text}", add_special_tokens=False)["input_ids"]
        return bool(words.named(ids))

    own = _words(tokenizer, named("open"), False)
    coco = _words(tokenizer, NODES, True)
    for word in ("dog", "dogs", "people", "trees"):
        assert holds(own, word), word
    assert holds(coco, "puppy") and not holds(own, "puppy")  # a list is held to its own words
    assert holds(coco, "dog") and not holds(coco, "trees")
    find = asked_by({"objects": "open"}, tiny[1])._find
    assert [spot.object for spot in find("Two trees and a microwave.")] == ["tree"]


def test_the_open_list_is_what_the_command_makes(shared: Path, tmp_path: Path, lvlm: Any) -> None:
    coco, out = shared / "coco", tmp_path / "open.txt"
    files = [coco / f"captions_val{year}.json" for year in (2014, 2017)]
    code, _, _ = lvlm("ask", "objects", *files, "--ids", f"{coco / 'splits.json'}:train",
                      "--out", out)  # fmt: skip
    shipped = Path(str(lf.__file__)).parent / "objects" / "open.txt"
    assert code == 0 and out.read_text() == shipped.read_text()
    texts = tmp_path / "captions.txt"
    texts.write_text("\n".join(CAPTIONS))
    assert lvlm("ask", "objects", texts, "--out", out, "--count", "2")[0] == 0
    assert named(f"@{out}") == ("dog", "building")
    broken = tmp_path / "broken.json"
    broken.write_text("{}")
    code, _, err = lvlm("ask", "objects", broken, "--out", out)
    assert code == 2 and "holds no captions" in err
    assert asking.captions_of(texts, None) == CAPTIONS
