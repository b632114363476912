"""`lvlm-fix check` says what holds, and each of its lines can fail."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import lvlm_fix as lf
from lvlm_fix.core.attached import Attached
from lvlm_fix.tools import check as checks
from lvlm_fix.tools.geometries import Subject, subject

NEUTRAL, ACTS, BATCH, CACHE, RESTORED, COST = (
    "neutral settings are bit-equal", "acts in the prompt and in decoding",
    "a batch is its samples one by one", "cached is uncached", "restored afterwards", "cost",
)  # fmt: skip

pytestmark = pytest.mark.xdist_group("promises")  # they share what takes long


@pytest.fixture(scope="module")
def smallest() -> Subject:
    return subject("smallest", dtype=torch.float32, device="cpu")


@dataclass(frozen=True)
class Broken(lf.Method):
    """Adds to head outputs what one promise forbids."""

    what: str = ""

    def head_outputs(self, outputs: Tensor, at: lf.AtLayer) -> Tensor:
        if self.what == "neutral":
            return outputs * 1.001
        if (self.what == "prompt" and at.prefill) or (self.what == "decoding" and not at.prefill):
            return outputs
        if self.what == "batch":
            return outputs * (1.0 + len(outputs))
        if self.what == "cache":  # the row stands elsewhere in a pass without cache
            return outputs * (1.0 + outputs.shape[1] / 300)
        return outputs * 1.5


@pytest.fixture(autouse=True)
def free(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs are measured in one test alone."""
    if "geometry" not in request.node.name:
        monkeypatch.setattr(checks, "_cost", lambda *_: (True, "nothing", {}))


def lines(smallest: Subject, what: str, neutral: Any = ()) -> dict[str, checks.Line]:
    case = checks.Case("broken", neutral, (Broken(what),))
    return {line.promise: line for line in checks.check(smallest, [case], rounds=1)}


@pytest.mark.parametrize(
    ("what", "promises"),
    [
        ("prompt", [ACTS, CACHE]),  # without a cache, every pass has rows of the prompt
        ("decoding", [ACTS, CACHE]),
        ("batch", [BATCH]),
        ("cache", [CACHE]),
    ],
)
def test_a_method_that_breaks_a_promise_fails_its_line(
    what: str, promises: list[str], smallest: Subject
) -> None:
    found = lines(smallest, what)
    assert [line.promise for line in found.values() if not line.holds] == promises


def test_neutral_settings_that_change_a_logit_fail(smallest: Subject) -> None:
    found = lines(smallest, "", neutral=(Broken("neutral"),))
    assert [line.promise for line in found.values() if not line.holds] == [NEUTRAL]
    assert "differ by up to" in found[NEUTRAL].found


def test_what_is_left_behind_is_named(smallest: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    undo: Callable[[Attached], None] = Attached.undo

    def forgetful(self: Attached) -> None:
        undo(self)
        smallest.model.__dict__["left"] = 1

    monkeypatch.setattr(Attached, "undo", forgetful)
    found = lines(smallest, "")
    del smallest.model.__dict__["left"]
    assert [line.promise for line in found.values() if not line.holds] == [RESTORED]
    assert found[RESTORED].found == "not as before: attributes"


def test_an_error_is_a_line_that_fails(smallest: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(checks, "_cost", fails)
    found = lines(smallest, "")
    assert [line.promise for line in found.values() if not line.holds] == [COST]
    assert found[COST].found == "RuntimeError: no such kernel"


def test_every_promise_holds_on_a_geometry(lvlm: Any) -> None:
    words = ("check", "smallest", "--device", "cpu", "--rounds", 1)
    loose = ("--set", "var.threshold=2", "--set", "var.ratio=0", "--set", "var.image_share=0")
    code, out, _ = lvlm(*words, "--method", "var+vhr", *loose, "--json")
    document = json.loads(out)
    assert code == 0 and document["holds"] and document["machine"]["device"] == "cpu"
    promises = [line["promise"] for line in document["lines"]]
    assert promises == [NEUTRAL, ACTS, BATCH, CACHE, RESTORED, COST]
    assert all(len(document["lines"][-1]["figures"][key]) == 3 for key in ("prefill", "token"))


def test_the_code_is_1_where_something_does_not_hold(lvlm: Any) -> None:
    code, out, _ = lvlm(
        "check", "smallest", "--device", "cpu", "--rounds", 1, "--method", "vhr",
        "--set", "vhr.strength=1",
    )  # fmt: skip
    failed = [line for line in out.splitlines() if line.startswith("FAIL")]
    assert code == 1 and len(failed) == 1 and f"FAIL vhr: {ACTS}" in failed[0]
    assert len(out.splitlines()) == 6


def test_a_refusal_fails_only_where_the_method_was_named(
    smallest: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: Any) -> Any:
        raise lf.ModelError("no tower")

    monkeypatch.setattr(checks, "_neutral", refuses)
    named, other = (checks.Case("vhr", (), (lf.VHR(),), named) for named in (True, False))
    (one,), (two,) = (list(checks.check(smallest, [case], 1)) for case in (named, other))
    assert not one.holds and two.holds and one.found == two.found == "refused: no tower"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "nonsense"], "there is no method 'nonsense'"),
        (["--dtype", "int4"], "--dtype takes auto, float32"),
        (["--rounds", "0"], "rounds must be >= 1"),
        (["--set", "vhr.strength=2"], "--set goes with --method"),
    ],
)
def test_bad_input_is_one_line(lvlm: Any, words: list[str], message: str) -> None:
    code, out, err = lvlm("check", "smallest", *words)
    assert (code, out) == (2, "") and message in err
