"""Why a text ended: by itself, or because the token limit cut it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lvlm_eval.records import Record
from lvlm_fix.errors import DataError

__all__ = ["Ended", "Said", "Unread", "cut_in", "cut_line", "is_cut"]

Ended = Literal["end", "limit"]
"""`end`: the model ended the text. `limit`: it had not when the token limit was reached."""


class Said(NamedTuple):
    """One text of a model."""

    text: str
    ended: Ended
    log_odds: float | None = None
    """Of Yes against No where the text answers such a question, natural."""


class Unread(NamedTuple):
    """In place of a text: the photo cannot be read."""

    why: str


def is_cut(record: Record) -> bool:
    """Whether a record says that its text was cut."""
    return record.get("ended") == "limit"


def cut_in(records: Sequence[Record], path: Path) -> int | None:
    """How many texts were cut at the token limit; None where not every record says it.

    Raises:
        DataError: `ended` is neither "end" nor "limit".
    """
    for number, record in enumerate(records, 1):
        if (end := record.get("ended")) not in ("end", "limit", None):
            raise DataError(f'{path}: record {number} has ended {end!r}; expected "end" or "limit"')
    known = all(record.get("ended") is not None for record in records)
    return sum(map(is_cut, records)) if known else None


def cut_line(methods: Mapping[str, Mapping[str, Any]], draws: Mapping[str, Iterable[str]]) -> str:
    """The counts `cut` of every method in words; of the draws of each control the least and the
    greatest.
    """
    counts = {name: found["cut"] for name, found in methods.items()}
    if not any(counts.values()):
        unknown = [name for name, count in counts.items() if count is None]
        return (
            f"the texts of {', '.join(unknown)} do not say whether the token limit cut them"
            if unknown
            else "no text was cut at the token limit"
        )
    drawn = {control: [counts.pop(name) for name in names] for control, names in draws.items()}
    parts = [f"{name} {'?' if count is None else count}" for name, count in counts.items()]
    for control, found in drawn.items():
        known = [count for count in found if count is not None]
        ends = f"{min(known)} to {max(known)}" if known else "?"
        parts.append(f"draws of {control} {ends}")
    n = next(iter(methods.values()))["n"]
    return f"cut at the token limit, of {n} texts: {', '.join(parts)}"
