"""Texts that the token limit cut are told from texts that ended, from the model to the table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from lvlm_eval.check import check
from lvlm_eval.cli import app
from lvlm_eval.compare import compare, load, of_captions
from lvlm_eval.ended import cut_line
from lvlm_eval.records import read
from lvlm_eval.report import render
from lvlm_eval.run import run
from lvlm_eval.serve import asked_of, methods_of, serving
from lvlm_eval.table import table
from standin import TRUTH, answering, plan
from typer.testing import CliRunner

import lvlm_fix as lf

CUT = sum(key % 5 == 0 for key in TRUTH)
VHR = "vhr:strength=1.5"


def test_a_record_says_whether_the_model_ended_its_text(tiny: Any, photos: list[Path]) -> None:
    specs = [
        "none", "truncate:tokens=2", "none+ask:use=drop,threshold=1e9",
        "none+ask:use=rewrite,threshold=1e9",
    ]  # fmt: skip
    methods = {spec: methods_of(spec, {}) for spec in specs}
    prompts = ["Please describe this image in detail."] * 2
    opened = [lf.open_image(path) for path in photos[:2]]
    for limit in (3, 12, 64):
        serve = serving(*tiny, methods, limit, {spec: asked_of(spec, {}) for spec in specs})
        ids = lf.models.answer_ids(*tiny, opened, prompts, max_new_tokens=limit)
        ends = ["end" if tiny[0].generation_config.eos_token_id in row else "limit" for row in ids]
        with serve(photos[:2], prompts) as texts:
            none, truncated, dropped, rewritten = ([t.ended for t in texts(s)] for s in specs)
        assert none == dropped == ends
        assert truncated == ["end", "end"]  # it ends a text by the model's own token
        assert limit > 3 or rewritten == ["limit", "limit"]
        assert limit != 3 or none == ["limit", "limit"]
        assert limit != 64 or none == ["end", "end"]


def test_texts_dropped_to_less_than_the_limit_still_count_as_cut(
    tiny: Any, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny[0].generation_config  # as many models have it: what pads is what ends
    monkeypatch.setattr(config, "pad_token_id", config.eos_token_id)
    spec = "none+ask:use=drop,threshold=1e9"
    serve = serving(*tiny, {spec: ()}, 5, {spec: asked_of(spec, {})})
    with serve(photos[:2], ["Describe."] * 2) as texts:
        assert [said.ended for said in texts(spec)] == ["limit", "limit"]


def test_table_compare_report_and_score_count_the_texts_that_were_cut(tmp_path: Path) -> None:
    run(plan(), answering(), tmp_path)
    records = read(tmp_path / "none.jsonl")
    assert {r["image_id"]: r["ended"] for r in records} == {
        key: "end" if key % 5 else "limit" for key in TRUTH
    }
    loaded = load(tmp_path)
    said = f"cut at the token limit, of 23 texts: none {CUT}, {VHR} {CUT}"
    assert {name: found["cut"] for name, found in compare(loaded)["methods"].items()} == {
        "none": CUT, VHR: CUT,
    }  # fmt: skip
    assert f"CHAIR: {said}." in table(loaded)
    assert f"<td>{CUT}" in render(loaded)
    shown = CliRunner().invoke(app, ["compare", str(tmp_path)]).stdout
    assert said.partition(":")[0] in " ".join(shown.split())
    truth = tmp_path / "objects.json"
    truth.write_text(json.dumps({str(k): sorted(v) for k, v in TRUTH.items()}))
    command = ["score", "chair", "--captions", str(tmp_path / "none.jsonl"), "--truth", str(truth)]
    result = CliRunner().invoke(app, [*command, "--json"])
    assert json.loads(result.stdout)["cut"] == CUT
    assert f"{CUT} of 23 texts were cut at the token limit" in result.stderr
    (row,) = check([tmp_path / "none.jsonl"])
    assert f"{CUT} texts cut at the token limit: 5, 10, 15, 20" in row["odd"]


def test_answers_that_were_cut_are_counted_by_split_and_in_all(tmp_path: Path) -> None:
    asked = {"image": "000000000005.jpg", "question": "A dog?", "label": "yes", "image_id": 5}
    other = asked | {"image": "000000000001.jpg", "image_id": 1}
    splits = {
        "a": [asked | {"question_id": 1}, other | {"question_id": 2}],
        "b": [asked | {"question_id": 1}],
    }
    run(plan(task="pope", samples=splits), answering(), tmp_path)
    found = compare(load(tmp_path))
    assert found["splits"]["a"]["methods"]["none"]["cut"] == 1
    assert found["methods"]["none"]["cut"] == 2
    command = ["score", "pope", "--questions", str(tmp_path / "questions.a.jsonl"), "--answers"]
    command += [str(tmp_path / "none.a.jsonl"), "--json"]
    result = CliRunner().invoke(app, command)
    assert json.loads(result.stdout)["cut"] == 1
    (row,) = check([tmp_path / "none.a.jsonl"])
    assert "1 texts cut at the token limit: 1" in row["odd"]


def test_records_without_it_are_read_and_not_counted_as_ended(tmp_path: Path) -> None:
    run(plan(), answering(), tmp_path)
    path = tmp_path / "none.jsonl"
    lines = [{k: v for k, v in record.items() if k != "ended"} for record in read(path)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    loaded = load(tmp_path)
    assert loaded.cut_of("none") is None
    assert f"none ?, {VHR} {CUT}." in table(loaded)
    files = {"a": path, "b": path}
    found = compare(of_captions(files, TRUTH), fair=False)["methods"]
    assert cut_line(found, []) == "the texts of none, b do not say whether the token limit cut them"
    truth = tmp_path / "objects.json"
    truth.write_text(json.dumps({str(k): sorted(v) for k, v in TRUTH.items()}))
    command = ["score", "chair", "--captions", str(path), "--truth", str(truth), "--json"]
    result = CliRunner().invoke(app, command)
    assert "cut" not in json.loads(result.stdout)
    path.write_text("".join(json.dumps(line | {"ended": "so"}) + "\n" for line in lines))
    with pytest.raises(lf.DataError, match="record 1 has ended 'so'"):
        load(tmp_path)
