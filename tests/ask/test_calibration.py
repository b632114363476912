"""From log-odds to chances, and the commands that ask."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from lvlm_fix.ask.calibration import Calibration, calibrate, shipped
from lvlm_fix.errors import DataError

Lvlm = Callable[..., tuple[int, str, str]]


def made(slope: float, offset: float, photos: int = 400) -> list[tuple[int, float, bool]]:
    """Answers of a model whose curve is known."""
    rng = np.random.default_rng(0)
    odds = rng.normal(0, 3, (photos, 4))
    there = rng.random((photos, 4)) < 1 / (1 + np.exp(-slope * odds - offset))
    return [(i, float(odds[i, j]), bool(there[i, j])) for i in range(photos) for j in range(4)]


def test_a_known_curve_is_found_and_its_error_is_small() -> None:
    curve = calibrate(made(0.6, -1.2), "m", "q")
    assert curve.slope == pytest.approx(0.6, abs=0.06)
    assert curve.offset == pytest.approx(-1.2, abs=0.15)
    assert curve.threshold() == pytest.approx(2.0, abs=0.2)
    assert curve.chance(curve.threshold(0.8)) == pytest.approx(0.8)
    assert curve.error < 0.05 and curve.error_ci[0] <= curve.error_ci[1]
    assert sum(n for n, _, _ in curve.reliability) == curve.answers == 1600


def test_a_curve_that_does_not_fit_has_an_error() -> None:
    odd = [(i, odds, (int(abs(odds)) % 2 == 0) == there) for i, odds, there in made(3.0, 0.0)]
    assert calibrate(odd, "m", "q").error > calibrate(made(0.6, -1.2), "m", "q").error


def test_files(tmp_path: Path) -> None:
    curve = calibrate(made(1.0, 0.0), "m", "q")
    curve.save(tmp_path / "c.json")
    assert Calibration.load(tmp_path / "c.json") == curve
    (tmp_path / "c.json").write_text('{"slope": 1}')
    with pytest.raises(DataError, match="calibration"):
        Calibration.load(tmp_path / "c.json")
    with pytest.raises(DataError, match="20 photos"):
        calibrate(made(1.0, 0.0, photos=19), "m", "q")
    found = shipped("tiny")
    assert found is not None and 0 < found.chance(-2) < found.chance(4) < 1
    assert shipped("another") is None


def test_without_known_objects_a_threshold_is_told(
    lvlm: Lvlm, photos: list[Path], tmp_path: Path
) -> None:
    for number, path in enumerate(photos):
        (tmp_path / f"{number + 1:012d}.jpg").write_bytes(path.read_bytes())
    out = tmp_path / "curve.json"
    code, stdout, _ = lvlm(
        "ask", "calibrate", "--images", tmp_path, "--out", out, "--absent", "camel,harp", "--json"
    )
    assert code == 0 and json.loads(stdout)["answers"] == 2 * len(photos)
    assert json.loads(out.read_text()) == json.loads(stdout)
    truth = tmp_path / "truth.json"
    truth.write_text('{"1": ["person"]}')
    code, stdout, err = lvlm(
        "ask", "calibrate", "--images", tmp_path, "--out", out, "--truth", truth
    )
    assert code == 2 and not stdout and ("unknown" in err or "20 photos" in err)
    code, _, err = lvlm("ask", "calibrate", "--images", out, "--out", out)
    assert code == 2 and "folder of photos" in err


def test_caption_with_questions(lvlm: Lvlm, photos: list[Path]) -> None:
    coffee = next(path for path in photos if path.stem == "coffee")
    code, stdout, _ = lvlm(
        "caption", coffee, "--method", "guide", "--ask", "mark", "--set", "ask.threshold=1e9",
        "--max-new-tokens", 24, "--grounding", "--json",
    )  # fmt: skip
    assert code == 0
    for output in json.loads(stdout)["items"][0]["outputs"]:
        words = output["ask"]["words"]
        assert words and all(word["doubtful"] and 0 < word["chance"] < 1 for word in words)
        by_place = {word["start"]: word for word in output["grounding"]["words"]}
        first = words[0]
        assert by_place[first["start"]]["ask"] == pytest.approx(first["odds"], abs=1e-3)
        assert {word["ask"] for word in by_place.values()} > {None}
    code, _, err = lvlm("caption", coffee, "--ask", "guess")
    assert code == 2 and "use must be one of" in err
    code, _, err = lvlm("caption", coffee, "--set", "ask.threshold=1")
    assert code == 2 and "--ask" in err
    code, _, err = lvlm("caption", coffee, "--ask", "drop", "--set", "ask.depth=1")
    assert code == 2 and "no setting 'depth'" in err
