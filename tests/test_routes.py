"""Compiled and int8 routes give what the plain route gives."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cases import WRITTEN

PARTS = 4  # of what takes minutes, so that no worker ends long after the other


def measured(route: str, *part: int) -> Any:
    command = [sys.executable, str(Path(__file__).with_name("routes.py")), route, *map(str, part)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_a_compiled_decoding_step_has_one_graph_and_the_same_logits() -> None:
    for name, found in measured("compiled").items():
        assert found["difference"] < 1e-5, name
        assert all(found["edited"]) and found["same_report"], name
        assert found["graphs"] > 0, name
        assert (found["breaks"], found["graphs_of_a_second_text"]) == (0, 0), name


@pytest.mark.parametrize("part", range(PARTS))
def test_a_compiled_model_is_fixed_like_any_other(part: int) -> None:
    found = measured("wrapped", part, PARTS)
    acting = {name: found.pop(name) for name in list(found) if name.endswith(" acts")}
    assert found and all(difference < 1e-5 for difference in found.values()), found
    quiet = {name.removesuffix(" acts") for name, acts in acting.items() if not acts}
    assert quiet == set(WRITTEN) & set(found)


def test_int8_weights_give_the_logits_of_the_same_weights_in_floating_point() -> None:
    cases = measured("int8")
    if cases is None:
        pytest.skip("needs torchao, which is not installed")
    for name, found in cases.items():
        assert found["difference"] < 1e-4 < found["acts"], name
        assert found["neutral"] == 0, name
