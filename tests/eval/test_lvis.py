"""LVIS: what is annotated is there, what was looked for in vain is not, all else is unknown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lvlm_eval import pope
from lvlm_eval.chair import judge
from lvlm_eval.chair.score import columns, figures
from lvlm_eval.check import check
from lvlm_eval.cli import app
from lvlm_eval.coco import read_truth, truth_of
from typer.testing import CliRunner

from lvlm_fix import DataError
from lvlm_fix.objects.vocabulary import NODES


def category(key: int, name: str, *synonyms: str) -> dict[str, Any]:
    return {
        "id": key, "name": name, "synonyms": [name, *synonyms], "synset": f"{name}.n.01",
        "def": "", "frequency": "f", "image_count": 1, "instance_count": 1,
    }  # fmt: skip


CATEGORIES = [
    category(1, "dog"), category(2, "sofa", "couch", "lounge"), category(3, "bird"),
    category(4, "duck"), category(5, "car_(automobile)", "auto_(automobile)", "automobile"),
    category(6, "orange_(fruit)"), category(7, "dog_collar"), category(8, "thing", "cat", "horse"),
    category(9, "cellular_telephone", "cellphone", "mobile_phone"), category(10, "doorknob"),
]  # fmt: skip


def image(key: int, absent: list[int], partly: list[int]) -> dict[str, Any]:
    return {
        "id": key, "coco_url": f"http://x/val2017/{key:012d}.jpg", "width": 4, "height": 4,
        "neg_category_ids": absent, "not_exhaustive_category_ids": partly, "license": 1,
    }  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "lvis_v1_val.json"
    there = [(36, 2), (36, 4), (36, 7), (36, 1), (37, 9)]
    document = {
        "info": {}, "licenses": [], "categories": CATEGORIES,
        "images": [image(36, [3, 5, 10], [1]), image(37, [1, 4], [])],
        "annotations": [
            {"id": n, "image_id": photo, "category_id": kind, "segmentation": [], "area": 1,
             "bbox": [0, 0, 1, 1]}
            for n, (photo, kind) in enumerate(there, 1)
        ],
    }  # fmt: skip
    path.write_text(json.dumps(document))
    return path


def unknown(names: frozenset[str]) -> set[str]:
    return {name[1:] for name in names if name.startswith("?")}


def test_what_is_there_what_is_not_and_what_nobody_knows(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = read_truth(file)
    said = capsys.readouterr().err
    assert "of LVIS: 6 of 10 categories are objects of CHAIR, 5 of 80 have one" in said
    there = {key: {name for name in names if name[0] != "?"} for key, names in truth.items()}
    assert there == {36: {"dog", "couch", "bird"}, 37: {"cell phone"}}  # the duck is a bird
    assert {*NODES} - unknown(truth[36]) == {"dog", "couch", "bird", "car"}
    assert {*NODES} - unknown(truth[37]) == {"cell phone", "dog"}  # no duck is not no bird


def test_a_mention_of_what_is_unknown_counts_nowhere(file: Path) -> None:
    texts = {36: "a dog and a car and a cat on a couch", 37: "a dog with a phone and an orange"}
    first, second = judge(texts, read_truth(file))
    assert [one.node for one in first.mentions] == ["dog", "car", "couch"] and first.unjudged == 1
    assert [one.node for one in first.invented] == ["car"]
    assert [one.node for one in second.invented] == ["dog"] and second.unjudged == 1
    found = figures(columns([first, second]).sum(axis=0))
    assert found["chair_i"] == 2 / 5 and found["recall"] == 3 / 4


def test_questions_ask_only_about_what_is_known(file: Path) -> None:
    truth = read_truth(file)
    for split in pope.SPLITS:
        asked = {(one["image"][-6:-4], one["text"].split()[3], one["label"])
                 for one in pope.generate(truth, truth, split)}  # fmt: skip
        assert asked >= {("36", "car", "no"), ("37", "cell", "yes"), ("37", "dog", "no")}
        assert len(asked) == 4


def test_synonyms_add_and_take_away(file: Path, tmp_path: Path) -> None:
    given = tmp_path / "synonyms.json"
    given.write_text('{"orange_(fruit)": "orange", "dog": null, "thing": "cat"}')
    truth = truth_of(file, file, synonyms=given)
    assert "dog" in unknown(truth[36]) and "orange" in unknown(truth[37])
    assert {*NODES} - unknown(truth[37]) == {"cell phone"}


def test_the_command_and_the_check_say_so(file: Path, tmp_path: Path) -> None:
    captions = tmp_path / "captions.jsonl"
    captions.write_text('{"image_id": 36, "caption": "a dog, a car and a cat"}\n')
    words = ["score", "chair", "--captions", str(captions), "--truth", str(file), "--json"]
    done = CliRunner().invoke(app, words)
    assert json.loads(done.stdout)["chair_i"] == 0.5
    assert "1 mentions name objects that nobody looked for" in done.stderr
    (row,) = check([file])
    assert (row["kind"], row["rows"]) == ("truth", 2)
    assert row["odd"] == ["2 photos in which nobody looked for some objects: 36, 37"]


def test_objects_files_can_hold_what_is_unknown(tmp_path: Path) -> None:
    path = tmp_path / "objects.json"
    path.write_text('{"1": ["dog", "?mobile phone", "?puppy"], "2": ["?cat"]}')
    assert read_truth(path) == {1: {"dog", "?cell phone"}, 2: {"?cat"}}
    path.write_text('{"1": ["?dgo"]}')
    with pytest.raises(DataError, match="'dgo' is no object of CHAIR"):
        read_truth(path)


def test_a_damaged_file_is_named(file: Path) -> None:
    whole = json.loads(file.read_text())
    for change in (
        {"categories": [{"id": 1}]},
        {"images": [{"id": 36, "neg_category_ids": 3}]},
        {"images": [{"id": 36, "neg_category_ids": ["x"]}]},
    ):
        file.write_text(json.dumps(whole | change))
        with pytest.raises(DataError, match=r"lvis_v1_val\.json"):
            read_truth(file)
