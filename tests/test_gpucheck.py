"""What runs when a GPU is lent: a miniature, on a bare machine, in time and whatever fails."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lvlm_fix import gpucheck
from lvlm_fix.tools.gpu_items import MINIATURE, items

# all that a bare machine may lack
ABSENT = (
    "typer", "rich", "greenlet", "scipy", "matplotlib", "torchvision", "pycocotools", "gradio",
    "pydantic", "starlette", "uvicorn", "gguf", "torchao", "beartype", "pytest",
)  # fmt: skip


def run(out: Path, *words: object) -> subprocess.CompletedProcess[str]:
    given = ["gpucheck", "--out", str(out), "--device", "cpu", *map(str, words)]
    code = (
        f"import sys, runpy\nfor name in {ABSENT!r}: sys.modules[name] = None\n"
        f"sys.argv = {given!r}\n"
        "runpy.run_module('lvlm_fix.gpucheck', run_name='__main__')"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_the_miniature_measures_everything_on_a_bare_machine(tmp_path: Path) -> None:
    done = run(tmp_path / "out", "--minutes", 10, "--commit", "abc")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "gpucheck.json").read_text())
    assert found["failures"] == {} and found["not_done"] == []
    assert list(found["items"]) == list(items(MINIATURE, "cpu"))
    assert found["machine"]["commit"] == "abc"
    assert found["items"]["bandwidth"]["bytes_per_second"] > 0
    for batch in (1, 2):
        table = found["items"][f"batch {batch}"]
        assert table["none"]["token_ratio"] == [1, 1, 1] and table["bytes_of_a_step"] > 1e6
        assert all(table[name]["acted"] and table[name]["n"] for name in ("vhr", "var", "var+vhr"))
    steps = found["items"]["operations"]
    assert steps["none"]["operations_step"] < steps["vhr"]["operations_step"]
    assert all(row["may_wait_step"] == 0 for row in steps.values())
    assert all(row["equal"] for row in found["items"]["same texts"].values())
    assert set(found["items"]["compiled"]) == {"none", "vhr"}
    assert all(line["holds"] for lines in found["items"]["check"].values() for line in lines)


def test_it_ends_in_time_and_what_was_found_is_whole(tmp_path: Path) -> None:
    done = run(tmp_path, "--minutes", 0.02)  # a second, where all of it takes many
    assert done.returncode in (0, 3)
    found = json.loads((tmp_path / "gpucheck.json").read_text())
    assert found["not_done"] and not (tmp_path / "gpucheck.part").exists()
    assert [*tmp_path.iterdir()] == [tmp_path / "gpucheck.json"]


def test_a_failing_item_keeps_its_rows_and_ends_no_other(tmp_path: Path) -> None:
    results = gpucheck.Results(tmp_path / "gpucheck.json", 60)
    results.document["not_done"] = ["one", "two"]

    def fails(_: Any) -> Iterator[tuple[str, int]]:
        yield "row", 1
        raise RuntimeError("no such kernel")

    def works(_: Any) -> Iterator[tuple[str, int]]:
        yield "row", 2

    gpucheck._run(results, "one", fails)
    gpucheck._run(results, "two", works)
    found = json.loads(results.file.read_text())
    assert found["items"] == {"one": {"row": 1}, "two": {"row": 2}}
    assert "no such kernel" in found["failures"]["one"] and found["not_done"] == ["one"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "lvlm_fix.gpucheck", "--out", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "torch sees no GPU here" in done.stderr
