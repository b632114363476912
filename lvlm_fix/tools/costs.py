"""What a token costs under each method, as `python -m lvlm_fix.tools.costing` counted it."""

from __future__ import annotations

import functools
import json
from pathlib import Path

__all__ = ["FILE", "read_costs"]

FILE = Path(__file__).parent / "costs.json"


@functools.cache
def read_costs() -> dict[str, dict[str, float]]:
    """By method: `rows` that pass the decoder and `operations` for one token, of those of the
    unmodified model; methods that the embedded model cannot serve are missing.
    """
    return json.loads(FILE.read_text())["per_token"]
