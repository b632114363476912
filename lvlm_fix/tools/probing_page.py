"""The page of what was probed, `docs/families.md`."""

from __future__ import annotations

import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

from lvlm_fix.tools.miniature import FAMILIES

__all__ = ["PAGE", "in_all", "page"]

PAGE = Path(__file__).parents[2] / "docs" / "families.md"
WIDTH = 100  # columns
INTRO = """# What works with which family

Every image-text-to-text architecture of transformers {},
probed on tiny random-weight models by `python -m lvlm_fix.tools.probing`. A method works if neutral
settings are bit-equal, acting settings change the logits without NaN, and a left-padded batch gives
what its samples give one by one. The others are refused, with the reason below, or could not be
built here or determined (*?*). Random weights show that an edit arrives, not that it helps. *Rows*:
the rows that edits recompute equal the model's own. *Batch*: a batch equals its samples. *Cache*:
decoding gives what one pass gives, under VAR. A *?* means that this could not be told.
"""


def page(found: dict[str, Any]) -> str:
    """The page of what was found: `{"transformers": release, "families": rows}`."""
    rows: list[dict[str, Any]] = found["families"]
    names = sorted({name for row in rows for name in row["methods"]})

    def count(name: str) -> int:
        return sum(row["methods"].get(name) == "works" for row in rows)

    sign = {"works": "yes", "refused": "no", "unknown": "?", "unbuilt": "–"}
    lines = [
        INTRO.format(found["transformers"]),
        *_wrapped(
            f"Works on, of {len(rows)} families:"
            f" {', '.join(f'{name} {count(name)}' for name in names)}."
        ),
        "",
        *_wrapped(in_all(rows)),
        "",
        "| family | image tokens | methods that work | rows | batch | cache |",
        "|---|---|---|---|---|---|",
    ]
    notes = []
    for row in rows:
        checks = row["checks"]
        told = [
            sign.get(str(checks.get(key, "unknown")).split(":")[0], "?")
            for key in ("rows", "batch", "cache")
        ]
        told_of = {name: row["methods"].get(name, "unknown") for name in names}
        start = f"| `{row['family']}` | {checks.get('image_tokens', '?')} |"
        line = f"{start} {_works(told_of)} | {' | '.join(told)} |"
        if len(line) > WIDTH:
            notes.append(f"- `{row['family']}` works with {_works(told_of)}")
            done = sum(kind == "works" for kind in told_of.values())
            line = f"{start} {done} of {len(names)}, below | {' | '.join(told)} |"
        lines.append(line)
        reasons = Counter(row["notes"].values())
        for reason, _ in reasons.items():
            who = [name for name, note in row["notes"].items() if note == reason]
            notes.append(
                f"- `{row['family']}`"
                + ("" if who == ["family"] else f", {', '.join(who)}")
                + f": {reason}"
            )
        notes += [
            f"- `{row['family']}`, {k}: {v}"
            for k, v in checks.items()
            if str(v).startswith("unknown")
        ]
    known = {row["family"] for row in rows}
    if missing := [f"`{name}`" for name in FAMILIES if name not in known]:
        notes.append(f"- not probed yet, so nothing is known of them: {', '.join(missing)}")
    wrapped = [line for note in notes for line in _wrapped(note, "  ")]
    return "\n".join([*lines, "", "## Why not", "", *wrapped, ""])


def _works(found: dict[str, str]) -> str:
    """The methods that work on a family, by the shorter list; "?" marks what is not known."""
    works = [name for name, told in found.items() if told == "works"]
    others = [name + "?" * (told == "unknown") for name, told in found.items() if told != "works"]
    if not works:
        kinds = set(found.values()) - {"unknown"}
        return "?" if not kinds else "not built" if kinds == {"unbuilt"} else "none"
    if not others:
        return "all"
    shorter = len(others) <= len(works)
    return f"all but {', '.join(others)}" if shorter else f"only {', '.join(works)}"


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def in_all(rows: list[dict[str, Any]]) -> str:
    """How many families there are of each kind, in a sentence."""
    kinds = Counter(_whole(row) for row in rows)
    return (
        f"In all: {kinds['works']} served by some method or all, {kinds['refused']} refused, "
        f"{kinds['unbuilt']} not built here, {kinds['unknown']} undetermined."
    )


def _whole(row: dict[str, Any]) -> str:
    """What a family is in all: "works" where any method does."""
    return next(
        kind
        for kind in ("works", "unknown", "unbuilt", "refused")
        if kind in row["methods"].values()
    )
