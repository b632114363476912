"""What is said of a method where methods are listed: read from its class and its file's head."""

from __future__ import annotations

import inspect
import re
import sys
from typing import Any

from lvlm_fix.method import Method
from lvlm_fix.tools.costs import read_costs

__all__ = ["listed"]

HEAD = re.compile(r"^(Needs|Departs) +(.*?)(?=^\S|\Z)", re.MULTILINE | re.DOTALL)


def listed(kind: type[Method]) -> dict[str, Any]:
    """`name`, `paper`, `edits` (places; "decoding"), `needs` and `departs` (sentences; empty where
    the head of the method's file has none), `control`, `cost_per_token` (`rows` and `operations`,
    of those of the unmodified model; None where it was not counted).
    """
    head = inspect.getdoc(sys.modules[kind.__module__]) or ""
    said = {key.lower(): " ".join(text.split()) for key, text in HEAD.findall(head)}
    return {
        "name": kind.method_name(),
        "paper": kind.paper,
        "edits": [*kind.edits(), *(["decoding"] * (kind.decoding is not Method.decoding))],
        "needs": said.get("needs", ""),
        "departs": said.get("departs", ""),
        "control": kind.control,
        "cost_per_token": read_costs().get(kind.method_name()),
    }
