"""Commands that read photos at length leave broken ones out, name them, and end with status 3."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lvlm_fix.tools.photos import LEFT_OUT, Broken

Lvlm = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(photos: list[Path], tmp_path: Path) -> Path:
    """Two photos, and one between them that is torn."""
    out = tmp_path / "photos"
    out.mkdir()
    for number, path in zip((1, 3), photos, strict=False):
        shutil.copy(path, out / f"{number}.jpg")
    (out / "2.jpg").write_bytes(photos[0].read_bytes()[:900])
    (tmp_path / "objects.json").write_text('{"1": ["person"], "2": ["cat"], "3": ["cat"]}')
    words = '"text": "a person and a cat", "grounded": ["person"], "invented": ["cat"]}\n'
    lines = [f'{{"image": "{number}.jpg", {words}' for number in (1, 2, 3)]
    (tmp_path / "words.jsonl").write_text("".join(lines))
    return out


def left_out(found: tuple[int, str, str]) -> str:
    code, out, err = found
    assert code == LEFT_OUT == 3, err
    assert "2.jpg' cannot be read as an image" in err
    last = "lvlm-fix: 1 photo is broken and left out; everything else is done"
    assert err.splitlines()[-1] == last
    return out


def test_head_scores(lvlm: Lvlm, folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "heads.json"
    left_out(lvlm("heads", "score", "--images", folder, "--out", table))
    assert json.loads(table.read_text())["n"] == 2
    words = ("--metric", "ad-hh", "--words", tmp_path / "words.jsonl")
    left_out(lvlm("heads", "score", "--images", folder, "--out", table, *words))
    assert json.loads(table.read_text())["n"] == 2


def test_curves(lvlm: Lvlm, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lvlm_fix.tools import curving

    seen: list[Any] = []

    class Found:
        n_real = n_invented = photos = 1

        def save(self, path: Path) -> None:
            path.write_text("{}")

    def measured(model: Any, processor: Any, photos: Any, **_: Any) -> Found:
        seen.extend(known for _, known in photos)
        return Found()

    monkeypatch.setattr(curving, "measure_curves", measured)
    words = ("--truth", tmp_path / "objects.json", "--out", tmp_path / "curves.json")
    left_out(lvlm("heads", "curves", "--images", folder, *words))
    assert seen == [{"person"}, {"cat"}]


@pytest.mark.parametrize("kind", ["words", "pairs"])
def test_vectors(lvlm: Lvlm, folder: Path, tmp_path: Path, kind: str) -> None:
    pair = '"value": "a person", "h_value": "a person and a cat"}\n'
    lines = [f'{{"image": "{number}.jpg", {pair}' for number in (1, 2, 3)]
    (tmp_path / "pairs.jsonl").write_text("".join(lines))
    made = tmp_path / "vectors.safetensors"
    out = left_out(
        lvlm("vectors", "make", "--images", folder, "--out", made, "--json",
             f"--{kind}", tmp_path / f"{kind}.jsonl")
    )  # fmt: skip
    assert made.exists() and json.loads(out)["lines"] == "2"


def test_calibration(lvlm: Lvlm, folder: Path, tmp_path: Path) -> None:
    words = ("--images", folder, "--absent", "harp", "--batch-size", 1, "--json")
    out = left_out(lvlm("ask", "calibrate", *words, "--out", tmp_path / "curve.json"))
    document = json.loads(out)
    assert (document["photos"], document["answers"]) == (2, 2)


def test_nothing_broken_is_no_end(capsys: pytest.CaptureFixture[str]) -> None:
    Broken().end()
    assert capsys.readouterr().err == ""
