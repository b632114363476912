"""A Markdown table of a CHAIR run, and of a POPE run beside it: what a README shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lvlm_eval.compare import Run, compare, drawn, drawn_of_all
from lvlm_eval.ended import cut_line
from lvlm_eval.left_out import without
from lvlm_eval.report import cell
from lvlm_fix.errors import DataError

__all__ = ["table"]

_CHAIR = {
    "chair_s": "CHAIR_S",
    "chair_i": "CHAIR_I",
    "recall": "recall",
    "length": "length",
    "distinct_3": "distinct_3",
}
_POPE = {"f1": "POPE F1", "yes_ratio": "yes"}


def table(*runs: Run) -> str:
    """Methods by figures with their intervals; the seeds of a control are one row, from least to
    greatest.

    Raises:
        DataError: no run, or two of one task.
    """
    if not runs or len({run.record["task"] for run in runs}) != len(runs):
        raise DataError("a table takes one chair run, one pope run, or one of each")
    shown = {run.record["task"]: _CHAIR if run.captions else _POPE for run in runs}
    results = {run.record["task"]: compare(run, fair=False) for run in runs}
    counts = ", ".join(
        f"{run.record['task'].upper()} on {len(run.record['image_ids'])} photos" for run in runs
    )
    head = [name for figures in shown.values() for name in figures.values()]
    lines = [f"| method | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
    methods = dict.fromkeys(method for run in runs for method in run.methods)
    seeds = drawn_of_all(methods)
    for method in methods:
        if method in seeds:
            continue
        cells = [
            _cell(results[task]["methods"].get(method), name)
            for task, figures in shown.items()
            for name in figures
        ]
        lines.append(f"| `{method}` | {' | '.join(cells)} |")
    for control, draws in drawn(methods).items():
        cells = [
            _range(results[task]["methods"], draws, name)
            for task, figures in shown.items()
            for name in figures
        ]
        lines.append(f"| `{control}`, {len(draws)} draws | {' | '.join(cells)} |")
    lines += ["", f"{counts}; percent but length; 95 % intervals over photos."]
    for run in runs:
        task = run.record["task"]
        lines.append(f"{task.upper()}: {cut_line(results[task]['methods'], drawn(run.methods))}.")
        if gone := without(len(run.left_out)):
            lines.append(f"{task.upper()}: {gone}.")
    for task, figures in shown.items():
        lines += [
            f"`{method}` against {found['draws']} draws of {found['of']}, {figures[name]}:"
            f" {found['above']} draws higher, {found['below']} lower, mean"
            f" {cell(name, found['mean'])}, p = {found['p']:.2f}."
            for method, places in results[task]["control"].items()
            for name, found in places.items()
            if name in ("chair_i", "f1") and name in figures
        ]
    return "\n".join(lines)


def _cell(found: Mapping[str, Any] | None, name: str) -> str:
    return "–" if found is None else cell(name, found[name], found["ci"][name])


def _range(methods: Mapping[str, Mapping[str, Any]], draws: Sequence[str], name: str) -> str:
    values = [
        methods[draw][name] for draw in draws if draw in methods and methods[draw][name] is not None
    ]
    return f"{cell(name, min(values))} to {cell(name, max(values))}" if values else "–"
