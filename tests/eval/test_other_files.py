"""Captions and answers as other tools write them: understood, or refused with what was expected."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lvlm_eval import pope
from lvlm_eval.check import CAPTION_IDS, CAPTIONS, check
from lvlm_eval.records import by_id, read

from lvlm_fix import DataError

TOLD = {42: 'A dog, and a "cat".', 73: "Ein Motorrad – hier."}
SAID = {1: "Yes", 2: "No"}
LABEL = {1: "yes", 2: "yes"}


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def name(key: int) -> str:
    return f"COCO_val2014_{key:012d}.jpg"


def table(rows: list[list[Any]], mark: str) -> str:
    quoted = [['"' + str(cell).replace('"', '""') + '"' for cell in row] for row in rows]
    return "".join(mark.join(row) + "\r\n" for row in quoted)


ROWS = [{"image_id": key, "caption": text} for key, text in TOLD.items()]
CELLS = [["image_id", "caption"], *([key, text] for key, text in TOLD.items())]
TOLD_AS = {
    "lines.jsonl": lines(ROWS),
    "crlf.jsonl": lines(ROWS).replace("\n", "\r\n"),
    "mark.jsonl": "\ufeff" + lines(ROWS),
    "blank lines.jsonl": lines(ROWS).replace("\n", "\n\n"),
    "list.json": json.dumps(ROWS),
    "indented.json": "\n".join(json.dumps(row, indent=2) for row in ROWS),
    "scorer.json": json.dumps({"overall_metrics": {}, "sentences": ROWS}),
    "coco.json": json.dumps({"imgToEval": {str(row["image_id"]): row for row in ROWS}}),
    "results.json": json.dumps({"results": ROWS, "model": "m"}),
    "map.json": json.dumps({str(key): text for key, text in TOLD.items()}),
    "names.jsonl": lines([{"image_id": name(key), "caption": t} for key, t in TOLD.items()]),
    "paths.jsonl": lines([{"image": f"val2014/{name(k)}", "caption": t} for k, t in TOLD.items()]),
    "windows.jsonl": lines([{"image": f"C:\\coco\\{name(k)}", "text": t} for k, t in TOLD.items()]),
    "chat.jsonl": lines(
        [{"question_id": k, "image": name(k), "prompt": "Say.", "text": t} for k, t in TOLD.items()]
    ),
    "comma.csv": table(CELLS, ","),
    "semicolon.csv": table(CELLS, ";"),
    "tab.tsv": table(CELLS, "\t"),
    "predicted.csv": table(
        [["image_id", "caption", "prediction"], *([k, "not this", t] for k, t in TOLD.items())],
        ",",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", TOLD_AS)
@pytest.mark.parametrize("pack", [None, gzip.compress, bz2.compress, lzma.compress])
def test_captions_are_read(
    kind: str, pack: Callable[[bytes], bytes] | None, tmp_path: Path
) -> None:
    data = TOLD_AS[kind].encode()
    suffix = {gzip.compress: ".gz", bz2.compress: ".bz2", lzma.compress: ".xz"}.get(pack, "")
    path = tmp_path / f"{kind}{suffix}"
    path.write_bytes(data if pack is None else pack(data))
    assert by_id(read(path), CAPTION_IDS, CAPTIONS, path) == TOLD


def both(text: str, answer: str) -> list[dict[str, Any]]:
    return [{"question_id": k, text: f"Is there a {k}?", answer: said} for k, said in SAID.items()]


SAID_AS = {
    "pope.jsonl": lines(both("question", "answer")),
    "question in text.jsonl": lines(both("text", "answer")),
    "llava.jsonl": lines(both("prompt", "text")),
    "transcripts.json": json.dumps([
        {"id": k, "conversations": [{"from": "human", "value": f"<image>\nIs there a {k}?"},
                                    {"from": "gpt", "value": said}]} for k, said in SAID.items()]),
    "messages.jsonl": lines([
        {"question_id": k, "messages": [
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Well?"}]},
            {"role": "assistant", "content": "Which?"},
            {"role": "user", "content": f"Is there a {k}?"},
            {"role": "assistant", "content": [{"type": "text", "text": said}]}]}
        for k, said in SAID.items()]),
    "ours.jsonl": lines([{"question_id": k, "image_id": 1, "text": t} for k, t in SAID.items()]),
    "indented.json": "\n".join(json.dumps(row, indent=1) for row in both("question", "response")),
    # here `answer` is what is right, and `prediction` what the model said
    "vlmevalkit.tsv": table(
        [["index", "question", "answer", "prediction"],
         *([k, f"Is there a {k}?", LABEL[k], said] for k, said in SAID.items())], "\t"),
    "labelled.jsonl": lines([
        {"id": k, "answer": LABEL[k], "response": said} for k, said in SAID.items()]),
}  # fmt: skip


@pytest.mark.parametrize("kind", SAID_AS)
def test_answers_are_read_and_never_what_is_right_in_their_place(kind: str, tmp_path: Path) -> None:
    path = tmp_path / kind
    path.write_text(SAID_AS[kind])
    asked = {k: pope.Question(k, "1.jpg", f"Is there a {k}?", LABEL[k]) for k in SAID}
    assert pope.read_answers(path, asked) == SAID
    (row,) = check([path])
    assert row["rows"] == 2 and "error" not in row


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '{"doc_id": 0, "filtered_resps": ["Yes"]}',
            "record 1 .*'question_id'.*'doc_id', 'fi",
        ),
        (
            '{"question_id": 1, "image": "1.jpg", "text": "Is it?", "label": "no"}',
            "is a question and",
        ),
        (
            '{"question_id": 1, "image_source": "1", "question": "Is it?", "answer": "no"}',
            "is a question and what is right",
        ),
        (
            '{"question_id": 1, "messages": [{"role": "user", "content": "?"}]}',
            "needs a text under",
        ),
        ('{"question_id": 1, "resps": [["Yes"]]}', "record 1 .*needs a text under 'prediction'"),
        (
            '{"question_id": 1, "answer": "Yes"}\n{"question_id": 1, "answer": "No"}',
            "appears twice",
        ),
        ("a;b\n1;2\n", "record 1 .*'question_id'"),
        ("PK\x03\x04", "neither JSON nor a table"),
        ('{"question_id": 1, "answer": "Yes"}\n{"question_id": 2, "ans', "line 2 is damaged"),
    ],
)
def test_what_is_not_understood_says_where_and_what_is_expected(
    text: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=said) as refused:
        pope.read_answers(path)
    assert "answers.jsonl" in str(refused.value)


@pytest.mark.parametrize("kind", ["utf-16", "utf-16-le", "gz", "bz2", "xz"])
def test_a_file_is_opened_by_what_it_begins_with(kind: str, tmp_path: Path) -> None:
    pack = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
    text, path = "question_id\tanswer\n1\tYes é\n", tmp_path / "answers"
    bom = "\ufeff" if kind == "utf-16-le" else ""
    path.write_bytes(pack[kind](text.encode()) if kind in pack else (bom + text).encode(kind))
    assert pope.read_answers(path) == {1: "Yes é"}


def test_texts_under_numbers_are_captions_and_answers(tmp_path: Path) -> None:
    path = tmp_path / "texts.json"
    path.write_text(json.dumps({"1": "Yes", "2": "No"}))
    assert pope.read_answers(path) == {1: "Yes", 2: "No"}
    assert by_id(read(path), CAPTION_IDS, CAPTIONS, path) == {1: "Yes", 2: "No"}


CAT = {"images": [{"id": 1}], "categories": [{"id": 1, "name": "cat"}]}
HALVES: dict[str, dict[str, Any]] = {
    "there are no instances": {
        "images": [{"id": 1}],
        "annotations": [{"id": 1, "image_id": 1, "caption": "A cat."}],
    },
    "no reference captions": CAT | {"annotations": [{"id": 1, "image_id": 1, "category_id": 1}]},
    "": {"1": ["cat"]},
}


@pytest.mark.parametrize("said", HALVES)
def test_a_truth_of_one_half_says_so(tmp_path: Path, lvlm: Any, said: str) -> None:
    (tmp_path / "truth.json").write_text(json.dumps(HALVES[said]))
    (tmp_path / "c.json").write_text(json.dumps([{"image_id": 1, "caption": "A cat."}]))
    command = ["eval", "score", "chair", "--captions", tmp_path / "c.json"]
    code, _, errors = lvlm(*command, "--truth", tmp_path / "truth.json")
    assert code == 0 and (said in errors if said else not errors)
