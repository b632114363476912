"""What acted: heads chosen per layer, sinks found, rows edited; and, where nothing did, why."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from lvlm_fix.method import Method
from lvlm_fix.prompt import Prompt

__all__ = ["Report", "report_of"]


@dataclass(frozen=True)
class Report:
    """What one method did since the last prompt began."""

    method: str
    settings: dict[str, Any]
    heads: dict[int, list[int]]  # by layer: how many heads were chosen, per sample
    sinks: dict[int, list[int]]  # by layer: how many sinks were found, per sample
    rows_edited: int  # rows that changed: × heads for attention, × layers for head outputs; tokens
    note: str  # empty where the method acted

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def report_of(number: int, method: Method, prompt: Prompt | None, layers: int) -> Report:
    """The report of the method at place `number`."""
    name, settings = method.method_name(), method.settings()
    if prompt is None or not prompt.any_image:
        note = (
            "no prompt has passed yet"
            if prompt is None
            else "the prompt has no image; nothing was changed"
        )
        return Report(name, settings, {}, {}, 0, note)
    heads = {
        layer: found.sum(-1).tolist()
        for (i, layer), found in sorted(prompt.heads.items())
        if i == number
    }
    sinks = {}
    if "sinks" in method.needs:
        acting = set(method.acts_in(layers))
        sinks = {
            layer: found[:, 1].sum(-1).int().tolist()
            for layer, found in sorted(prompt.sinks.items())
            if layer in acting
        }
    edited = int(prompt.edited[number])
    note = ""
    if "sinks" in method.needs and not any(map(sum, sinks.values())):
        note = "found no attention sinks in this model; nothing was changed"
    elif not edited:
        note = "found no head or row to act on; nothing was changed"
    return Report(name, settings, heads, sinks, edited, note)
