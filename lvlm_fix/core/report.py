"""What acted: heads chosen per layer, sinks found, rows edited; and if nothing did, why."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from lvlm_fix.core.at import Live, Watch
from lvlm_fix.core.method import Method
from lvlm_fix.core.text import Pass, Text

__all__ = ["Report", "count_changed", "report_of"]


@dataclass(frozen=True)
class Report:
    """What one method has done since the last prompt began."""

    method: str
    settings: dict[str, Any]
    heads: dict[int, list[int]]  # by layer: how many heads were chosen, per sample
    sinks: dict[int, list[int]]  # by layer: how many sinks were found, per sample
    rows_edited: int  # rows that changed: × heads for attention, × layers for outputs; tokens
    note: str  # empty where the method acted

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def report_of(
    number: int,
    method: Method,
    text: Text | None,
    lives: Mapping[Watch[Any], Live[Any]],
    layers: int,
    unreached: frozenset[int] = frozenset(),
) -> Report:
    """The report of the method at place `number`."""
    name, settings = method.method_name(), method.settings()
    if text is None or not text.any_with_image:
        what = "no prompt has passed yet" if text is None else "the prompt has no image"
        note = what if text is None else f"{what}; nothing was changed"
        return Report(name, settings, {}, {}, 0, note)
    found: dict[str, dict[int, list[int]]] = {"heads": {}, "sinks": {}}
    acting = set(method.acts_in(layers))
    asked: set[str] = set()
    for watch in method.watches(layers):
        for kind, counts in lives[watch].told(text).items():
            asked.add(kind)
            found[kind] |= {layer: n for layer, n in sorted(counts.items()) if layer in acting}
    edited, note = int(text.edited[number]), ""
    if not edited:
        missing = "sinks" in asked and not any(map(sum, found["sinks"].values()))
        what = "attention sinks in this model" if missing else "head or row to act on"
        note = f"found no {what}; nothing was changed"
    elif missing := sorted(acting & unreached):  # recurrent layers of a hybrid model
        note = f"layers {missing} have no attention to edit"
    return Report(name, settings, found["heads"], found["sinks"], edited, note)


def count_changed(now: Pass) -> None:
    """Add up the rows that this pass changed: layers of one shape at once."""
    rows, alike = Counter[int](), defaultdict[tuple[Any, ...], list[Any]](list)
    for number, changed in now.changed:
        if isinstance(changed, int):
            rows[number] += changed
        else:
            alike[number, len(changed), changed[0].shape, changed[0].device].append(changed)
    for number, count in rows.items():
        now.text.edited[number].add_(count)
    for (number, *_), found in alike.items():
        edited, parts = (
            now.text.edited[number],
            [torch.stack(part) for part in zip(*found, strict=True)],
        )
        changed = parts[0] if len(parts) == 1 else parts[0] != parts[1]
        edited.add_(changed.view(torch.uint8).amax(-1).sum().to(edited.device))  # `any`, faster
