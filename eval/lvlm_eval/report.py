"""One self-contained HTML page of a run: tables, plots, and the photos whose caption changed most."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from lvlm_eval.chair import Judgement
from lvlm_eval.chair.extract import Dialect
from lvlm_eval.compare import BASE, Run, compare
from lvlm_eval.pope import Rule
from lvlm_fix import open_image
from lvlm_fix.errors import LvlmFixError

__all__ = ["COUNTS", "cell", "changed_most", "render"]

COUNTS = frozenset({"n", "length", "unreadable", "tp", "fp", "tn", "fn"})
"""Figures that are no shares."""
_SHOWN = {
    "chair": ("chair_s", "chair_i", "recall", "precision", "f1", "length", "repetition"),
    "pope": ("accuracy", "precision", "recall", "f1", "yes_ratio", "unreadable"),
}
_PERCENT = "<small>Percent; 95 % bootstrap intervals over photos.</small>"
_POINTS = "<small>Points; p after Holm's correction over methods.</small>"
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .25rem .7rem; text-align: right }
th:first-child, td:first-child { text-align: left } tr { border-bottom: 1px solid #ddd } small { color: #555 }
.photo { display: grid; grid-template-columns: 200px 1fr 1fr; gap: 1rem; margin: 1.5rem 0 } .photo img { width: 100% }
mark { background: #ffd5d0; text-decoration: line-through } svg { max-width: 100%; height: auto }
"""


def render(run: Run, dialect: Dialect = "published", rule: Rule = "published") -> str:
    """The page. Needs the photos only for their thumbnails; one that is gone is named instead of shown."""
    record, result = run.record, compare(run, dialect, rule)
    what = (
        f"{record['model']}, {len(record['image_ids'])} photos, prompt {record['prompt']!r}"
        if run.captions
        else (f"{record['model']}, {len(record['image_ids'])} photos")
    )
    note = "<p>This is the small embedded test model; its figures say nothing about a large model.</p>"
    body = [f"<h1>{record['task'].upper()}</h1><p>{escape(what)}</p>", note if record["model"] == "tiny" else ""]
    for title, part in result["splits"].items() if "splits" in result else [("", result)]:
        body.append(f"<h2>{escape(title)}</h2>" if title else "")
        body.append(_figures(part["methods"], _SHOWN[record["task"]]))
        body.append(f"<h3>Against {BASE}, paired over photos</h3>" + _differences(part["differences"]))
        if "length_matched" in part:
            body.append("<h3>The same at equal length</h3><p>Both texts cut to the words of the shorter.</p>")
            body.append(_differences(part["length_matched"]))
            body.append(_plot(part["methods"]))
    if run.captions:
        body.append(_photos(run, dialect))
    made = {key: record[key] for key in ("command", "commit", "model_revision", "settings", "seed", "versions")}
    made |= {"dialect": dialect} if run.captions else {"rule": rule}
    rows = "".join(f"<tr><td>{escape(key)}<td>{escape(str(value))}" for key, value in made.items())
    body.append(f"<h2>How it was made</h2><table>{rows}</table>")
    head = f'<meta charset="utf-8"><title>{escape(what)}</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(body)}</body></html>\n'


def cell(name: str, value: float | None, ends: Sequence[float | None] | None = None) -> str:
    """A figure for a table: shares in percent, counts and lengths as they are, with the interval behind."""
    if value is None:
        return "–"
    scale = 1 if name in COUNTS else 100
    text = f"{value * scale:.0f}" if isinstance(value, int) else f"{value * scale:.1f}"
    if ends and None not in ends:
        text += " [" + ", ".join(f"{end * scale:.1f}" for end in ends if end is not None) + "]"
    return text


def changed_most(run: Run, dialect: Dialect = "published", count: int = 10) -> list[tuple[str, Judgement, Judgement]]:
    """(method, before, after) of the photos whose number of invented mentions changed most; by id where equal."""
    before = {judgement.image_id: judgement for judgement in run.judgements(BASE, dialect)}
    best: dict[int, tuple[str, Judgement, Judgement]] = {}
    for method in run.methods:
        for after in run.judgements(method, dialect) if method != BASE else []:
            entry = (method, before[after.image_id], after)
            if after.caption != entry[1].caption and _change(entry) > _change(best.get(after.image_id)):
                best[after.image_id] = entry
    return sorted(best.values(), key=lambda entry: (-_change(entry), entry[1].image_id))[:count]


def _change(entry: tuple[str, Judgement, Judgement] | None) -> int:
    return -1 if entry is None else abs(len(entry[1].invented) - len(entry[2].invented))


def _figures(methods: Mapping[str, Mapping[str, Any]], shown: Sequence[str]) -> str:
    head = "".join(f"<th>{name.replace('_', ' ')}" for name in shown)
    rows = "".join(
        f"<tr><td>{escape(method)}<td>{figures['n']}"
        + "".join(f"<td>{cell(name, figures[name], figures['ci'][name])}" for name in shown)
        for method, figures in methods.items()
    )
    return f"<table><tr><th>method<th>n{head}</tr>{rows}</table>{_PERCENT}"


def _differences(methods: Mapping[str, Mapping[str, Any]]) -> str:
    if not methods:
        return "<p>No other method ran.</p>"
    names = list(next(iter(methods.values())))
    head = "".join(f"<th>{name.replace('_', ' ')}" for name in names)
    rows = "".join(
        f"<tr><td>{escape(method)}"
        + "".join(
            f"<td>{cell(name, each['difference'], each['ci'])}<br><small>p {each['p_holm']:.3f}</small>"
            for name, each in found.items()
        )
        for method, found in methods.items()
    )
    return f"<table><tr><th>method{head}</tr>{rows}</table>{_POINTS}"


def _plot(methods: Mapping[str, Mapping[str, Any]]) -> str:
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for method, figures in methods.items():
        if figures["chair_i"] is None or figures["recall"] is None:
            continue
        x, y = 100 * figures["chair_i"], 100 * figures["recall"]
        (left, right), (low, high) = ([100 * end for end in figures["ci"][name]] for name in ("chair_i", "recall"))
        axes.errorbar(
            x, y, xerr=[[max(0, x - left)], [max(0, right - x)]], yerr=[[max(0, y - low)], [max(0, high - y)]], fmt="o"
        )
        axes.annotate(method, (x, y), textcoords="offset points", xytext=(6, 6))
    axes.set_xlabel("CHAIR_I, % (fewer inventions to the left)")
    axes.set_ylabel("recall, %")
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    return "<h3>Recall against CHAIR_I</h3>" + svg[svg.index("<svg") :]


def _photos(run: Run, dialect: Dialect) -> str:
    shown = [
        f'<div class="photo"><div>{_thumbnail(Path(run.record["photos"][str(before.image_id)]))}'
        f"<small>{before.image_id}</small></div>"
        f"<div><b>{BASE}</b><p>{_marked(before)}</p></div><div><b>{escape(method)}</b><p>{_marked(after)}</p></div></div>"
        for method, before, after in changed_most(run, dialect)
    ]
    return "<h2>The photos that changed most</h2><p>Invented words are struck through.</p>" + "".join(shown)


def _thumbnail(path: Path) -> str:
    try:
        image = open_image(path)
    except LvlmFixError as error:
        return f"<p>{escape(str(error))}</p>"
    image.thumbnail((320, 320))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def _marked(judgement: Judgement) -> str:
    words = [escape(word) for word in judgement.caption.split()]
    for mention in judgement.invented:
        for place in range(mention.first, mention.last + 1):
            if not words[place].startswith("<mark>"):
                words[place] = f"<mark>{words[place]}</mark>"
    return " ".join(words)
