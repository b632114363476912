"""A comparison of captions as a person reads it: tables of 80 columns, words, one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from lvlm_eval.compare import drawn, drawn_of_all
from lvlm_eval.ended import cut_line
from lvlm_eval.left_out import without
from lvlm_eval.report import cell
from lvlm_fix.errors import DataError
from lvlm_fix.files import written_whole

__all__ = ["picture", "show", "words"]

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Told apart by the colour-blind: Okabe & Ito, "Color Universal Design" (2008)."""
_MARKS = "osD^vP"


def show(result: Mapping[str, Any], console: Console) -> None:
    """The figures that matter first, then the differences, then what follows from them."""
    draws = drawn(result["methods"])
    seeds = drawn_of_all(result["methods"])
    methods = {k: v for k, v in result["methods"].items() if k not in seeds}
    names = ("chair_i", "recall", "f1", "length", "distinct_3")
    rows = {
        method: [cell(name, found[name], found["ci"][name]) for name in names[:2]]
        + [cell(name, found[name]) for name in names[2:]]
        for method, found in methods.items()
    }
    _print(console, "percent but words; 95 % intervals over photos",
           ["CHAIR_I", "recall", "F1", "words", "distinct_3"], rows)  # fmt: skip
    console.print(f"{cut_line(result['methods'], draws)}.", markup=False, highlight=False)
    if gone := without(result["left_out"]):
        console.print(f"{gone}.", markup=False, highlight=False)
    if not result["differences"]:
        return
    rows = {}
    for method, found in result["differences"].items():
        each = [_points(found[name], "difference") for name in ("chair_i", "recall")]
        each.append(_ratio(result["length_adjusted"].get(method)))
        each.append(_points(result["equal_recall"].get(method), "distance"))
        if "equal_recall_asked" in result:
            each.append(_points(result["equal_recall_asked"].get(method), "distance"))
        rows[method] = each
    heads = ["CHAIR_I", "recall", "equal words", "equal recall"]
    heads += ["with ask"] if "equal_recall_asked" in result else []
    _print(console, "against the unmodified model, points, p after Holm", heads, rows)
    for line in words(result):
        console.print(line, markup=False, highlight=False)


def words(result: Mapping[str, Any]) -> list[str]:
    """What follows from the tables, and what does not."""
    out = [
        "equal words: CHAIR_I over the unmodified model's, for captions as long as its own (one"
        " Poisson model, clustered by photo).",
        "equal recall: CHAIR_I minus that of trivial controls that keep as much recall"
        " (captions cut short, truncate, eos-boost).",
        "",
    ]
    for method, found in result["equal_recall"].items():
        lower = result["differences"][method]["chair_i"]
        fell = (lower["difference"] or 0) < 0 and lower["p_holm"] < 0.05
        distance, p = found["distance"], found["p_holm"]
        if distance is None:
            says = "not comparable: no trivial control has its recall"
        elif p >= 0.05:
            says = "cannot be told from trivial controls of its recall"
            says += ", though CHAIR_I is lower: stopping earlier may do as much" if fell else ""
        elif distance < 0:
            says = f"invents less than trivial controls of its recall ({_p(p)})"
        else:
            says = f"worse than trivial controls of its recall ({_p(p)})"
        out.append(f"{method}: {says}.")
    for method, places in result["control"].items():
        if (found := places.get("chair_i")) is not None:
            out.append(
                f"{method}: {found['below']} of {found['draws']} draws of {found['of']} have a"
                f" lower CHAIR_I, {found['above']} a higher one (p {found['p']:.2f})."
            )
    return [
        *out,
        "This does not show that a method helps with other photos, prompts, models or lengths. A"
        " method that cannot be told from the controls may still have an effect: more photos may"
        " tell.",
    ]


def picture(result: Mapping[str, Any], path: Path) -> None:
    """Recall against CHAIR_I: methods as points with intervals, the controls as a line.

    Raises:
        DataError: nothing has both figures, or the file cannot be written.
    """
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for part, style, label in (
        ("controls", "-", "trivial controls"),
        ("controls_asked", ":", "with ask"),
    ):
        points = [(p["chair_i"], p["recall"]) for p in result.get(part, {}).values()]
        points = sorted(p for p in points if None not in p)
        if points:
            xs, ys = zip(*[(100 * x, 100 * y) for x, y in points], strict=True)
            axes.plot(xs, ys, style, color="#5b6478", marker=".", label=label)
    draws, shown = drawn_of_all(result["methods"]), 0
    for method, found in result["methods"].items():
        if found["chair_i"] is None or found["recall"] is None:
            continue
        if method in draws:
            axes.plot(100 * found["chair_i"], 100 * found["recall"], "x", color="#b8bfcc")
            continue
        x, y = 100 * found["chair_i"], 100 * found["recall"]
        ends = [[100 * end for end in found["ci"][name]] for name in ("chair_i", "recall")]
        spread = [
            [[max(0, v - e[0])], [max(0, e[1] - v)]] for v, e in zip((x, y), ends, strict=True)
        ]
        axes.errorbar(
            x, y, xerr=spread[0], yerr=spread[1], fmt=_MARKS[shown % 6], elinewidth=0.8,
            color=_COLOURS[shown % 6], label=method,
        )  # fmt: skip
        shown += 1
    if not shown:
        raise DataError("there is nothing to draw: no method has a CHAIR_I and a recall")
    axes.set_xlabel("CHAIR_I, % (fewer inventions to the left)")
    axes.set_ylabel("recall, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    try:
        with written_whole(path) as part:
            figure.savefig(part, dpi=150, format=path.suffix.removeprefix(".") or "png")
    except ValueError as error:
        raise DataError(f"cannot write {path}: {error}") from None


def _print(
    console: Console, title: str, heads: Sequence[str], rows: Mapping[str, Sequence[str]]
) -> None:
    table = Table(title=title, box=None, padding=(0, 1, 0, 0), title_justify="left")
    table.add_column("method", overflow="fold", min_width=6)
    for head in heads:
        table.add_column(head, no_wrap=True, justify="right", min_width=len(head))
    for method, cells in rows.items():
        table.add_row(method, *cells)
    console.print(table)


def _points(found: Mapping[str, Any] | None, name: str) -> str:
    """A difference in points over its interval."""
    if found is None or found[name] is None:
        return "–"
    return _over(f"{100 * found[name]:+.1f}", found, 100, 1)


def _ratio(found: Mapping[str, Any] | None) -> str:
    return (
        "–"
        if found is None or found["ratio"] is None
        else _over(f"×{found['ratio']:.2f}", found, 1, 2)
    )


def _over(value: str, found: Mapping[str, Any], scale: float, digits: int) -> str:
    ends = ["–" if end is None else f"{scale * end:.{digits}f}" for end in found["ci"]]
    return f"{value} {_p(found['p_holm'])}\n[{', '.join(ends)}]"


def _p(p: float) -> str:
    return "p <.001" if p < 0.001 else f"p {p:.3f}"
