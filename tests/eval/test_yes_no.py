"""The AUC of yes/no answers: by hand, in the record of a run, and in a comparison."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lvlm_eval import pope
from lvlm_eval.cli import app
from lvlm_eval.compare import compare, load
from lvlm_eval.records import read
from lvlm_eval.run import Plan, run, stem
from lvlm_eval.serve import methods_of, serving
from lvlm_eval.yes_no import MOST, aucs, odds_of
from schema import held
from typer.testing import CliRunner

import lvlm_fix as lf
from lvlm_fix.ask.wording import Wording
from lvlm_fix.models import prepare

ASKED = {n: pope.Question(n, f"{n // 2}.jpg", "?", ("yes", "no")[n % 2]) for n in range(4)}


def test_the_auc_counts_the_pairs_that_rank_right_and_no_bias() -> None:
    odds = {"none": [2.0, 1.0, 3.0, 2.5], "m": [-5.0, -6.0, -7.0, -8.0], "tied": [0.0] * 4}
    found = aucs(ASKED, odds, "none")  # yes: 2, 3; no: 1, 2.5
    assert [row["value"] for row in found.values()] == [0.75, 0.75, 0.5]
    assert "difference" not in found["none"]
    assert found["m"]["difference"]["difference"] == 0
    assert found["tied"]["difference"]["difference"] == -0.25
    only = {key: one._replace(label="yes") for key, one in ASKED.items()}
    assert aucs(only, odds, "none")["m"]["value"] is None


def test_log_odds_stay_finite_where_a_method_forbids_an_answer(tiny: Any) -> None:
    tokenizer = tiny[1].tokenizer
    yes, no = (list(ids) for ids in Wording().answers(tokenizer))
    logits = torch.zeros(4, len(tokenizer))
    logits[1, yes], logits[2, no] = -torch.inf, -torch.inf
    logits[3, yes + no] = -torch.inf
    plain, denied, said, neither = odds_of(logits, tokenizer)
    assert plain == pytest.approx(torch.tensor(len(yes) / len(no)).log().item())
    assert (denied, said, neither) == (-MOST, MOST, 0.0)


def test_a_run_records_the_log_odds_of_the_first_token_under_each_method(
    tiny: Any, photos: list[Path], tmp_path: Path
) -> None:
    specs = ("none", "vhr:strength=3", "vcd", "opera")
    texts = [f"Is there a {name} in the image?" for name in ("cat", "bus")]
    samples = [
        {"question_id": n, "image_id": 1, "image": "1.jpg", "question": text, "label": label}
        for n, (text, label) in enumerate(zip(texts, ("yes", "no"), strict=True))
    ]
    plan = Plan(
        task="pope", model="tiny", methods=specs, samples={"a": samples}, photos={1: photos[1]},
        truth={}, prompt="",
    )  # fmt: skip
    methods = {spec: methods_of(spec, {}) for spec in specs}
    run(plan, serving(*tiny, methods, 3, yes_no=True), tmp_path)
    inputs = prepare(*tiny, [lf.open_image(photos[1])] * 2, texts)
    for spec in ("none", "vhr:strength=3"):
        with torch.no_grad(), lf.fix(tiny[0], methods[spec] or lf.VHR(strength=1)):
            logits = tiny[0](**inputs).logits[:, -1]
        found = [record["log_odds"] for record in read(tmp_path / f"{stem(spec)}.a.jsonl")]
        assert found == pytest.approx(odds_of(logits, tiny[1].tokenizer), abs=1e-4)
    assert "log_odds" not in read(tmp_path / "opera.a.jsonl")[0]  # its beams give no scores
    auc = compare(load(tmp_path))["auc"]
    assert [*auc] == ["none", "vhr:strength=3", "vcd"]
    assert auc["vcd"]["difference"]["p_holm"] >= auc["vcd"]["difference"]["p"]
    words = ["eval", "compare", str(tmp_path)]
    out = CliRunner().invoke(app, [*words[1:], "--json"])
    held([*words, "--json"], out.stdout)
    assert json.loads(out.stdout)["auc"].keys() == auc.keys()
    assert "AUC" in CliRunner().invoke(app, words[1:]).stdout
