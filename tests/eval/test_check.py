"""`eval check` says what files are and what is odd about them."""

import json
from pathlib import Path

from lvlm_eval.check import check
from lvlm_eval.cli import app
from PIL import Image
from schema import held
from typer.testing import CliRunner

ASKED = [
    {"question_id": n, "image": "1.jpg", "text": text, "label": label}
    for n, (text, label) in enumerate([("A dog?", "yes"), ("A cat?", "no"), ("A cat?", "no")])
]
SAID = [
    {"question_id": 0, "text": "yes"},
    {"question_id": 1, "text": "**No**"},
    {"question_id": 9, "text": "hm"},
]
TOLD = [
    {"image_id": 1, "caption": "a dog"},
    {"image_id": 2, "caption": " "},
    {"image_id": 3, "caption": "a sunny day"},
]


def lines(path: Path, records: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_files_are_told_apart_and_checked_against_each_other(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("photos/000000000001.jpg", "photos/000000000002.jpg", "one.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    truth = tmp_path / "objects.json"
    truth.write_text('{"1": ["dog"], "3": []}')
    found = check(
        [
            lines(tmp_path / "c.jsonl", TOLD), truth, tmp_path / "photos", tmp_path / "one.png",
            lines(tmp_path / "a.jsonl", SAID), lines(tmp_path / "q.jsonl", ASKED),
        ]
    )  # fmt: skip
    assert [(row["kind"], row["rows"]) for row in found] == [
        ("captions", 3), ("truth", 2), ("photos", 2), ("picture", 1), ("answers", 3),
        ("questions", 3),
    ]  # fmt: skip
    captions, objects, _, _, answers, questions = [row["odd"] for row in found]
    assert captions == [
        "1 empty captions: 2",
        "1 captions that name no object: 3",
        "1 captions of photos without truth: 2",
        "1 captions without a photo: 3",
    ]
    assert objects == ["1 photos without an object: 3"]
    assert answers == [
        "1 answers that hold no yes or no: 9",
        "1 answers that the published rule reads the other way",
        "100% of the answers are yes",
        "1 answers without a question: 9",
        "1 questions without an answer: 2",
    ]
    assert questions == ["1 questions asked twice: A cat?", "33% of the labels are yes"]


def test_what_is_not_understood_is_named_and_the_exit_status_says_so(tmp_path: Path) -> None:
    good, bad = lines(tmp_path / "c.jsonl", TOLD), lines(tmp_path / "x.jsonl", [{"a": 1}])
    (tmp_path / "p.png").write_bytes(b"no picture")
    result = CliRunner().invoke(
        app, ["check", str(good), str(bad), str(tmp_path / "p.png"), "--json"]
    )
    held(["eval", "check"], result.stdout)
    rows = json.loads(result.stdout)["files"]
    assert result.exit_code == 2
    assert ["error" in row for row in rows] == [False, True, True]
    assert "'a'" in rows[1]["error"]
    assert "p.png" in rows[2]["error"]
    result = CliRunner().invoke(app, ["check", str(good)])
    assert result.exit_code == 0
    assert "captions, 3 rows" in result.stdout
