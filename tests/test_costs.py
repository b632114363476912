"""What a token costs, as the table says, is what is counted."""

from __future__ import annotations

from typing import Any

import pytest

import lvlm_fix as lf
from lvlm_fix.methods import METHODS
from lvlm_fix.tools.costing import counted
from lvlm_fix.tools.costs import read_costs


def test_the_table_knows_methods_alone_and_a_token_costs_no_less_than_plain() -> None:
    assert set(read_costs()) <= set(METHODS)
    assert all(min(cost.values()) >= 1.0 for cost in read_costs().values())


@pytest.mark.parametrize(
    ("method", "rows"), [(lf.VHR(), 1), (lf.VCD(), 2), (lf.OPERA(beams=2, candidates=3), 6)]
)
def test_rows_are_those_that_pass_the_decoder(tiny: Any, method: lf.Method, rows: int) -> None:
    found, operations = counted(*tiny, method)
    assert found == rows and operations > 0
    if not isinstance(method, lf.OPERA):
        assert read_costs()[method.method_name()]["rows"] == rows
