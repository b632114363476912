"""One self-contained HTML page of a run: tables, plots, and the photos whose caption
changed most.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from lvlm_eval.chair import Judgement
from lvlm_eval.compare import BASE, Run, compare, drawn
from lvlm_eval.left_out import without
from lvlm_eval.pope import Rule
from lvlm_fix import open_image
from lvlm_fix.errors import LvlmFixError
from lvlm_fix.objects.extract import Dialect

__all__ = ["COUNTS", "cell", "changed_most", "render"]

COUNTS = frozenset(
    {"n", "length", "cut", "unreadable", "doubtful", "disputed", "tp", "fp", "tn", "fn"}
)
"""Figures that are no shares."""
_SHOWN = {
    "chair": ("chair_s", "chair_i", "recall", "precision", "f1", "length", "distinct_3", "cut"),
    "pope": ("accuracy", "precision", "recall", "f1", "yes_ratio", "unreadable", "cut"),
}
_PERCENT = (
    "<small>Percent; 95 % bootstrap intervals over photos; cut: texts that had not ended at the"
    " token limit.</small>"
)
_POINTS = "<small>Points; p after Holm's correction over methods.</small>"
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1.5rem;
color: #1d2433 } h1 { margin-bottom: 0 } h2 { margin-top: 2.5rem; border-bottom: 2px solid #e3e6ee }
small, .lead { color: #5b6478 } .note { background: #fff7e0; border-left: 4px solid #e0b000;
padding: .5rem 1rem } .wide { overflow-x: auto } table { border-collapse: collapse; margin: 1rem 0;
font-variant-numeric: tabular-nums } td, th { padding: .3rem .8rem; text-align: right; white-space:
nowrap } th { color: #5b6478; font-weight: 600 }
th:first-child, td:first-child { text-align: left } tr { border-bottom: 1px solid #e3e6ee }
tr:hover td { background: #f6f8fc } td small { display: block; font-size: 12px } .made td {
white-space: normal } .plots { display: flex; flex-wrap: wrap; gap: 1rem } .plots svg { max-width:
100%; height: auto } .photo { display: grid; grid-template-columns: 220px 1fr 1fr; gap: 1.2rem;
margin: 1.2rem 0; padding: 1rem;
  border: 1px solid #e3e6ee; border-radius: 8px } .photo img { width: 100%; border-radius: 6px }
.photo p { margin: .3rem 0 } mark { background: #ffd5d0; text-decoration: line-through; padding: 0
.15em } @media (max-width: 45rem) { .photo { grid-template-columns: 1fr } }
"""


def render(run: Run, dialect: Dialect = "published", rule: Rule = "published") -> str:
    """The page. Needs the photos only for their thumbnails; one that is gone is named instead of
    shown.
    """
    record, result = run.record, compare(run, dialect, rule, fair=False)
    what = (
        f"{record['model']}, {len(record['image_ids'])} photos, prompt {record['prompt']!r}"
        if run.captions
        else (f"{record['model']}, {len(record['image_ids'])} photos")
    )
    note = (
        "<p class='note'>This is the small embedded test model; its figures say nothing about a"
        " large model.</p>"
    )
    body = [f"<h1>{record['task'].upper()}</h1><p class='lead'>{escape(what)}</p>"]
    body += [note] * (record["model"] == "tiny")
    if gone := without(len(run.left_out)):
        body.append(f"<p class='note'>{gone}: {', '.join(map(str, run.left_out))}.</p>")
    parts = [
        ("All splits" if "splits" in result else "Figures", result),
        *result.get("splits", {}).items(),
    ]
    for title, part in parts:
        shown = {
            method: found for method, found in part["methods"].items() if method not in run.draws
        }
        body.append(f"<h2>{escape(title)}</h2>{_figures(shown, _SHOWN[record['task']])}")
        body.append(
            f"<h3>Against {BASE}, paired over photos</h3>" + _differences(part["differences"])
        )
        if "length_matched" in part:
            body.append(
                "<h3>The same at equal length</h3><p>Both texts cut to the words of the"
                " shorter.</p>"
            )
            body.append(_differences(part["length_matched"]))
            body.append(
                "<h3>Recall against CHAIR_I</h3><div"
                f' class="plots">{_plot(part["methods"], drawn(run.methods))}</div>'
            )
        if part["control"]:
            names = ("chair_s", "chair_i", "recall") if run.captions else ("f1", "accuracy")
            for control, draws in drawn(run.methods).items():
                body.append(_control(part, control, draws, names))
    if run.captions:
        body.append(_photos(run, dialect))
    made = {
        key: record[key]
        for key in ("command", "commit", "model_revision", "settings", "seed", "versions")
    }
    made |= {"dialect": dialect} if run.captions else {"rule": rule}
    rows = "".join(f"<tr><td>{escape(key)}<td>{escape(str(value))}" for key, value in made.items())
    body.append(f"<h2>How it was made</h2><table class='made'>{rows}</table>")
    head = f'<meta charset="utf-8"><title>{escape(what)}</title><style>{_STYLE}</style>'
    return (
        f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(body)}</body></html>\n'
    )


def cell(name: str, value: float | None, ends: Sequence[float | None] | None = None) -> str:
    """A figure for a table: shares in percent, counts and lengths as they are, with the interval
    behind.
    """
    if value is None:
        return "–"
    scale = 1 if name in COUNTS else 100
    text = f"{value * scale:.0f}" if isinstance(value, int) else f"{value * scale:.1f}"
    if ends and None not in ends:
        text += " [" + ", ".join(f"{end * scale:.1f}" for end in ends if end is not None) + "]"
    return text


def changed_most(
    run: Run, dialect: Dialect = "published", count: int = 10
) -> list[tuple[str, Judgement, Judgement]]:
    """(method, before, after) of the photos whose number of invented mentions changed most; by id
    where equal.
    """
    before = {judgement.image_id: judgement for judgement in run.judgements(BASE, dialect)}
    best: dict[int, tuple[str, Judgement, Judgement]] = {}
    for method in run.methods:
        for after in (
            run.judgements(method, dialect) if method != BASE and method not in run.draws else []
        ):
            entry = (method, before[after.image_id], after)
            if after.caption != entry[1].caption and _change(entry) > _change(
                best.get(after.image_id)
            ):
                best[after.image_id] = entry
    return sorted(best.values(), key=lambda entry: (-_change(entry), entry[1].image_id))[:count]


def _change(entry: tuple[str, Judgement, Judgement] | None) -> int:
    return -1 if entry is None else abs(len(entry[1].invented) - len(entry[2].invented))


def _figures(methods: Mapping[str, Mapping[str, Any]], shown: Sequence[str]) -> str:
    head = "".join(f"<th>{name.replace('_', ' ')}" for name in shown)
    rows = "".join(
        f"<tr><td>{escape(method)}<td>{figures['n']}"
        + "".join(f"<td>{cell(name, figures[name], figures['ci'].get(name))}" for name in shown)
        for method, figures in methods.items()
    )
    return f'<div class="wide"><table><tr><th>method<th>n{head}</tr>{rows}</table></div>{_PERCENT}'


def _differences(methods: Mapping[str, Mapping[str, Any]]) -> str:
    if not methods:
        return "<p>No other method ran.</p>"
    names = list(next(iter(methods.values())))
    head = "".join(f"<th>{name.replace('_', ' ')}" for name in names)
    rows = "".join(
        f"<tr><td>{escape(method)}"
        + "".join(
            f"<td>{cell(name, each['difference'], each['ci'])}<small>p {each['p_holm']:.3f}</small>"
            for name, each in found.items()
        )
        for method, found in methods.items()
    )
    return f'<div class="wide"><table><tr><th>method{head}</tr>{rows}</table></div>{_POINTS}'


def _plot(methods: Mapping[str, Mapping[str, Any]], draws: Mapping[str, Sequence[str]]) -> str:
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for method, figures in methods.items():
        if figures["chair_i"] is None or figures["recall"] is None:
            continue
        x, y = 100 * figures["chair_i"], 100 * figures["recall"]
        control = next((name for name, seeds in draws.items() if method in seeds), None)
        if control is not None:
            label = control if method == draws[control][0] else None
            mark = "ox"[list(draws).index(control) % 2]
            axes.plot(x, y, mark, color="#b8bfcc", markersize=4, label=label)
            continue
        (left, right), (low, high) = (
            [100 * end for end in figures["ci"][name]] for name in ("chair_i", "recall")
        )
        ends = [[max(0, x - left)], [max(0, right - x)]], [[max(0, y - low)], [max(0, high - y)]]
        axes.errorbar(x, y, xerr=ends[0], yerr=ends[1], fmt="o", elinewidth=0.8, alpha=0.9)
        axes.annotate(method, (x, y), textcoords="offset points", xytext=(6, 6), fontsize=9)
    axes.set_xlabel("CHAIR_I, % (fewer inventions to the left)")
    axes.set_ylabel("recall, %")
    axes.spines[["top", "right"]].set_visible(False)
    if draws:
        axes.legend(frameon=False)
    return _svg(figure)


def _control(
    part: Mapping[str, Any], control: str, draws: Sequence[str], shown: Sequence[str]
) -> str:
    """Methods among the draws of their control: a row of points for each figure, and their
    places in words.
    """
    beside = {
        method: places
        for method, places in part["control"].items()
        if any(found["of"] == control for found in places.values())
    }
    if not beside:
        return ""
    figure = Figure(figsize=(8, 0.9 + 0.8 * len(shown)), layout="constrained")
    for axes, name in zip(figure.subplots(len(shown), squeeze=False)[:, 0], shown, strict=True):
        values = [
            100 * part["methods"][draw][name]
            for draw in draws
            if part["methods"][draw][name] is not None
        ]
        axes.plot(values, [0] * len(values), "|", color="#5b6478", markersize=16)
        for method, places in beside.items():
            if name in places:
                axes.plot(100 * places[name]["value"], 0, "D", markersize=7, label=method)
        if (base := part["methods"][BASE][name]) is not None:
            axes.plot(100 * base, 0, "o", mfc="none", color="#1d2433", label=BASE)
        axes.set_yticks([], [])
        axes.set_ylabel(name, rotation=0, ha="right", va="center")
        axes.spines[["top", "right", "left"]].set_visible(False)
    figure.axes[0].legend(loc="upper left", bbox_to_anchor=(1, 1.3), frameon=False)
    rows = "".join(
        f"<tr><td>{escape(method)}<td>{name}<td>{cell(name, found['value'])}"
        f"<td>{cell(name, found['mean'])}"
        f"<td>{cell(name, found['range'][0])} to {cell(name, found['range'][1])}"
        f"<td>{found['below']}<td>{found['above']}<td>{found['p']:.3f}"
        for method, places in beside.items()
        for name, found in places.items()
    )
    head = (
        "<th>method<th>figure<th>value<th>mean of draws<th>range<th>draws below<th>draws above<th>p"
    )
    return (
        f"<h3>Among {len(draws)} draws of {control}</h3><div"
        f" class='plots'>{_svg(figure)}</div><div"
        f" class='wide'><table><tr>{head}</tr>{rows}</table></div><small>Bars: the draws. p: the"
        " chance that one more draw lies as far out, on either side.</small>"
    )


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :]


def _photos(run: Run, dialect: Dialect) -> str:
    shown = [
        f'<div class="photo"><div>{_thumbnail(Path(run.record["photos"][str(before.image_id)]))}'
        f"<small>{before.image_id}</small></div>"
        f"<div><b>{BASE}</b><p>{_marked(before)}</p></div>"
        f"<div><b>{escape(method)}</b><p>{_marked(after)}</p></div></div>"
        for method, before, after in changed_most(run, dialect)
    ]
    return (
        "<h2>The photos that changed most</h2><p>Invented words are struck through.</p>"
        + "".join(shown)
    )


def _thumbnail(path: Path) -> str:
    try:
        image = open_image(path)
    except LvlmFixError as error:
        return f"<p>{escape(str(error))}</p>"
    image.thumbnail((320, 320))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return (
        f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
    )


def _marked(judgement: Judgement) -> str:
    words = [escape(word) for word in judgement.caption.split()]
    for mention in judgement.invented:
        for place in range(mention.first, mention.last + 1):
            if not words[place].startswith("<mark>"):
                words[place] = f"<mark>{words[place]}</mark>"
    return " ".join(words)
