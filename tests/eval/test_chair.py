"""CHAIR figures: worked by hand, then the printed ones."""

import json
from pathlib import Path

import pytest
from lvlm_eval.chair import figures, judge, score
from lvlm_eval.chair.score import columns, cut
from lvlm_eval.coco import read_truth

from lvlm_fix import DataError

TRUTH = {1: {"dog", "cat"}, 2: {"bus"}, 3: {"person"}}
# 1: dog, dog right, chair invented; 2: nothing named; 3: person right
CAPTIONS = {1: "a dog and a dog on a chair", 2: "a nice day", 3: "a girl"}


def test_by_hand() -> None:
    found = score(judge(CAPTIONS, TRUTH))
    assert found["n"] == 3
    assert found["chair_s"] == pytest.approx(1 / 3)
    assert found["chair_i"] == pytest.approx(1 / 4)  # mentions, not unique nodes
    assert found["recall"] == pytest.approx(2 / 4)
    assert found["precision"] == pytest.approx(2 / 3)
    assert found["f1"] == pytest.approx(4 / 7)
    assert found["length"] == pytest.approx(13 / 3)
    assert found["distinct_3"] == 1
    assert set(found["ci"]) == set(found) - {"n", "ci"}


def test_distinct_3_is_the_share_of_unique_trigrams() -> None:
    found = score(judge({1: "a b c a b c a b c"}, TRUTH))
    assert found["distinct_3"] == pytest.approx(3 / 7)


def test_nothing_named_is_undefined_and_never_zero() -> None:
    found = score(judge({2: "a nice day"}, TRUTH))
    assert (found["chair_s"], found["chair_i"], found["recall"], found["precision"]) == (
        0,
        None,
        0,
        None,
    )
    assert found["ci"]["chair_i"] == [None, None]


def test_no_captions_and_unknown_photos_are_errors() -> None:
    with pytest.raises(DataError, match="no captions"):
        judge({}, TRUTH)
    with pytest.raises(DataError, match="first: 9"):
        judge({9: "a dog"}, TRUTH)


def test_cut() -> None:
    assert cut("one  two three", 2) == "one two"


@pytest.mark.parametrize("name", ["guided", "paint"])
def test_the_printed_figures(shared: Path, name: str) -> None:
    document = json.loads(
        (shared / f"oracles/chair/llava-1.5-7b.{name}.per_image.json").read_text()
    )
    truth = {item["image_id"]: frozenset(item["mscoco_gt_words"]) for item in document["sentences"]}
    found = score(
        judge({item["image_id"]: item["caption"] for item in document["sentences"]}, truth)
    )
    printed = document["overall_metrics"]
    for ours, theirs in (
        ("chair_s", "CHAIRs"),
        ("chair_i", "CHAIRi"),
        ("recall", "Recall"),
        ("precision", "Precision"),
        ("f1", "F1"),
    ):
        assert found[ours] == pytest.approx(printed[theirs], abs=1e-12), ours


@pytest.mark.parametrize("dialect", ["nltk", "pattern"])
def test_the_opera_table(shared: Path, dialect: str) -> None:
    truth = read_truth(shared / f"coco/objects_trainval2014.{dialect}.json")
    expected = json.loads((shared / "oracles/chair/opera/expected.json").read_text())[dialect]
    for name, (chair_s, chair_i) in expected.items():
        lines = (shared / f"oracles/chair/opera/{name}.jsonl").read_text().splitlines()
        captions = {item["image_id"]: item["caption"] for item in map(json.loads, lines)}
        found = figures(columns(judge(captions, truth)).sum(axis=0))
        assert 100 * found["chair_i"] == pytest.approx(chair_i, abs=0.1), name
        assert 100 * found["chair_s"] == pytest.approx(chair_s, abs=0.1), name
