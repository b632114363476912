"""What a decoding step costs where every operation is a launch: operations per layer, and waits."""

from __future__ import annotations

import pytest
from operations import added

import lvlm_fix as lf

VAR = lf.VAR(threshold=1.4, ratio=0.1, image_share=0.05)


@pytest.mark.parametrize(
    ("methods", "most"),
    [([lf.VHR()], 1.0), ([VAR], 11.7), ([VAR, lf.VHR()], 12.5), ([lf.HGAI()], 4.5)],
)
def test_a_step_adds_few_operations_and_no_wait(methods: list[lf.Method], most: float) -> None:
    per_layer, found, waits = added(methods)
    assert 0 < per_layer <= most, found
    assert not waits
