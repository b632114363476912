"""Results -> what the screen shows: HTML and pictures. Pure: no model, no page, no clock."""

from __future__ import annotations

import base64
import dataclasses
import io
import math
from collections.abc import Sequence
from html import escape

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from lvlm_demo.engine import Marks, Told
from lvlm_fix.errors import SettingError
from lvlm_fix.grounding import Grounding, words_of
from lvlm_fix.method import Method

__all__ = [
    "adjustable",
    "answers",
    "before_after",
    "chosen_heads",
    "compared",
    "head_map",
    "heading",
    "hint",
    "legend",
    "levels",
    "looked",
    "settable",
    "shades",
    "slider_range",
    "status",
    "telling",
]

LEVELS = ("weakest", "weaker", "stronger", "strongest")  # only the first two are marked
TITLE = (
    "<header><h1>lvlm-fix</h1><p>What does the model invent, and what changes when a method"
    " acts?</p></header>"
)
EVERY = (
    "<p class=empty>Every method, with its own defaults, on the photo and prompt at the side.</p>"
)
CASE = (
    "<p class=empty>One file with the photo, the settings and both texts. Any browser shows it.</p>"
)
SIGNS = {
    "ask": "the model’s own answer",
    "t_vhd": "T-VHD",
    "log_probability": "log-probability",
    "image_gain": "gain by the image",
}
SIGNAL = "ask"  # what tells invented object words best, docs/grounding.md


def levels(scores: Sequence[float]) -> list[int]:
    """0 for the lowest quarter of the scores to 3 for the highest; by rank, so that every text has
    all of them.
    """
    order = np.argsort(np.argsort(scores, kind="stable"), kind="stable")
    return [int(4 * rank // len(scores)) for rank in order]


def heading(names: Sequence[str]) -> str:
    """What acts on one side, above its text."""
    if not names:
        return "<h2>Unmodified <small>no method acts</small></h2>"
    return f"<h2>{escape(' + '.join(names))}</h2>"


def shades(found: Grounding | Marks, signal: str) -> list[tuple[str, str]]:
    """Class and tooltip of every word. By the model's answers objects alone are shaded, by the
    chance that they are there; by another signal every word is, by its quarter of the text.
    """
    if isinstance(found, Marks):
        return list(found.by_signal[signal])
    values = found.scores(signal)
    if signal != "ask":
        names = [LEVELS[level] for level in levels(values)]
        return [
            (n, f"{n}: {SIGNS[signal]} {value:.2f}") for n, value in zip(names, values, strict=True)
        ]
    out: list[tuple[str, str]] = []
    for odds, chance in zip(values, found.chances(), strict=True):
        if math.isnan(odds):
            out.append(("", "no object: not asked about"))
            continue
        sure = 1 / (1 + math.exp(-odds)) if chance is None else chance
        name = LEVELS[sum(sure >= limit for limit in (0.5, 0.75, 0.9))]
        said = f"log-odds of Yes {odds:+.1f}, uncalibrated" if chance is None else f"{sure:.0%}"
        out.append((name, f"{name}: {said}" + ("" if chance is None else " that it is there")))
    return out


def telling(told: Told, side: int, signal: str, going: bool = False, *, still: bool = False) -> str:
    """One text: a button a word where it is grounded, shaded and underlined by level; invented
    objects struck. With `still` there is nothing to click.
    """
    if not told.text:
        empty = (
            _caret()
            if going
            else f"<p class=empty>{escape(told.note) or 'The text appears here.'}</p>"
        )
        return f'<div class="text">{empty}</div>'
    words = words_of(range(1, len(told.text) + 1), told.text)
    shade = shades(told.grounding, signal) if told.grounding else None
    out, place = [], 0
    for number, word in enumerate(words):
        out.append(escape(told.text[place : word.start]))
        inner = escape(word.text)
        if told.invented is not None and number in told.invented:
            inner = (
                f'<s title="not in the photo">{inner}</s><sup aria-label="not in the photo">✗</sup>'
            )
        if shade is None:
            out.append(f"<span>{inner}</span>")
        else:
            name, title = shade[number]
            kind, title = f'class="{f"w {name}".strip()}"', f'title="{escape(title)}"'
            pick = f'data-pick="word:{side}:{number}"'
            out.append(
                f"<span {kind} {title}>{inner}</span>"
                if still
                else f'<button type="button" {kind} {pick} {title}>{inner}</button>'
            )
        place = word.end
    out.append(escape(told.text[place:]))
    return (
        f'<div class="text"><p>{"".join(out)}{_caret() if going else ""}</p>'
        f"{'' if going else _facts(told)}</div>"
    )


def legend() -> str:
    """What shade and line mean, in words."""
    samples = "".join(f'<span class="w {name}">{name}</span>' for name in LEVELS[:2])
    return (
        '<div class="legend"><span>Objects with a chance below ½ and below ¾ to be there; by'
        f" another score a text’s least grounded quarters:</span> {samples} <span><s>object</s>"
        "<sup>✗</sup> not in the photo (known for the samples)</span></div>"
    )


def hint(from_file: bool = False) -> str:
    """In place of the heat map, until a word is picked."""
    line = "Click a word of a finished text to see where the model looked for it."
    if from_file:
        line = "A file keeps no heat maps. Press Describe to see where the model looked."
    return f"<p class=empty>{line}</p>"


def adjustable(kind: type[Method]) -> list[str]:
    """The settings that have a control. Lists have none, nor has free text, which may name a file
    of the server.
    """
    names = list[str]()
    for field in dataclasses.fields(kind):
        given, default = field.metadata, field.default
        if not given or not (given["options"] or isinstance(default, bool | int | float)):
            continue
        if given["options"] or isinstance(default, bool):
            names.append(field.name)
        elif isinstance(default, int | float):
            high = slider_range(default, given["low"], given["high"])[1]
            names += [field.name] if settable(kind, field.name, high) else []
    return names


def slider_range(default: float, low: float, high: float) -> tuple[float, float, float]:
    """Least, greatest and step of a slider from a setting's default and declared range.

    Where the range is open the slider ends at twice the default (at least 1, for whole numbers 10)
    from it.
    """
    whole = isinstance(default, int)
    reach = max(2 * abs(default), 10 if whole else 1)
    low = low if math.isfinite(low) else default - reach
    high = high if math.isfinite(high) else default + reach
    low, high = round(low, 6), round(high, 6)
    return low, high, 1 if whole else 10 ** math.floor(math.log10((high - low) / 100) + 0.001)


def settable(kind: type[Method], name: str, value: float) -> bool:
    """Whether one setting may be changed alone; some go with another that has no control."""
    try:
        kind(**{name: value})
    except SettingError:
        return False
    return True


def _caret() -> str:
    return '<span class="caret" aria-hidden="true"></span>'


def _facts(told: Told) -> str:
    """What there is to count of a finished text."""
    facts = [f"{len(told.text.split())} words"]
    if told.invented is not None:
        words = told.text.split()
        names = [words[i].strip(".,;:!?") for i in sorted(told.invented)]
        facts.append(f"<b>{len(names)} invented</b>" if names else "<b>nothing invented</b>")
    if told.seconds:
        facts.append(f"{told.seconds:.1f} s")
    note = f"<p class=note>{escape(told.note)}</p>" if told.note else ""
    return f'<p class="facts">{" · ".join(facts)}</p>{note}'


def status(message: str, busy: bool = False, error: bool = False) -> str:
    """The line above the texts: what is done now, or what was wrong."""
    if not message:
        return '<div class="status" role="status"></div>'
    kind, role = ("error", "alert") if error else ("busy" if busy else "done", "status")
    sign = "<span class=sign aria-hidden=true>!</span>" if error else ""
    return (
        f'<div class="status {kind}"'
        f' role="{role}">{sign}<span>{escape(message[:1].upper() + message[1:])}</span></div>'
    )


# where it looked
# -----------------------------------------------------------------------------------------------


def chosen_heads(found: Grounding, share: float = 1 / 8) -> list[tuple[int, int]]:
    """The heads whose output the image moves most over the whole text: the highest `share` by mean
    VHD.
    """
    mean = found.vhd.mean(0).numpy()
    count = max(1, round(mean.size * share))
    return [
        (int(i) // mean.shape[1], int(i) % mean.shape[1])
        for i in np.argsort(-mean, axis=None)[:count]
    ]


def sinks(found: Grounding, factor: float = 5.0) -> list[tuple[int, int]]:
    """Patches (row, column) that draw attention whatever is said: above `factor` times the mean
    patch.
    """
    assert found.looks is not None and found.grid is not None
    rows, columns = found.grid
    mean = found.looks.float().mean((0, 1, 2))[: rows * columns].reshape(rows, columns).numpy()
    return [(int(r), int(c)) for r, c in np.argwhere(mean > factor * mean.mean())]


def looked(
    photo: Image.Image, found: Grounding, word: int, head: tuple[int, int] | None = None
) -> str:
    """The photo under a heat map of where the chosen heads, or one head, looked for a word; sinks
    are ringed.
    """
    heads = [head] if head else chosen_heads(found)
    heat = found.look(word, heads).numpy()
    rows, columns = heat.shape
    small = photo.copy()
    small.thumbnail((640, 640))
    level = heat / heat.max() if heat.max() > 0 else heat
    smooth = (
        np.asarray(
            Image.fromarray((level * 255).astype(np.uint8)).resize(
                small.size, Image.Resampling.BICUBIC
            )
        )
        / 255
    )
    paint = colormaps["inferno"](smooth)
    paint[..., 3] = 0.15 + 0.75 * smooth
    top = np.unravel_index(int(heat.argmax()), heat.shape)
    marks = [
        f'<circle cx="{(c + 0.5) / columns:.1%}" cy="{(r + 0.5) / rows:.1%}" r="7" class="sink"/>'
        for r, c in sinks(found)
    ]
    x, y = (float(top[1]) + 0.5) / columns, (float(top[0]) + 0.5) / rows
    marks.append(f'<text x="{x:.1%}" y="{y:.1%}" class="most">+</text>')
    who = f"head {head[1]} of layer {head[0]}" if head else f"{len(heads)} heads"
    text = escape(found.words[word].text)
    rings = " ○ draws attention for every word (visual sink)." if len(marks) > 1 else ""
    heat_map = _data(Image.fromarray((paint * 255).astype(np.uint8)), "PNG")
    return (
        f'<figure class="look"><div class="stack"><img src="{_data(small, "JPEG")}" alt="the'
        f' photo"><img class="heat" src="{heat_map}" alt="heat map for'
        f' {text}"><svg>{"".join(marks)}</svg></div><figcaption>Where {who} looked for'
        f" <b>“{text}”</b>: {heat.sum():.0%} of the attention is on the picture. + is the brightest"
        f" patch.{rings}</figcaption></figure>"
    )


def head_map(found: Grounding, word: int, head: tuple[int, int] | None = None) -> str:
    """Layers × heads, the square as large as the head's VHD for a word; the chosen heads ringed,
    one to click each.
    """
    values = found.heads(word).numpy()
    ringed, most = set(chosen_heads(found)), float(values.max()) or 1.0
    rows = []
    for layer in reversed(range(values.shape[0])):
        cells = "".join(
            f'<button type="button" data-pick="head:{layer}:{i}"'
            f' class="h{" ringed" if (layer, i) in ringed else ""}'
            f'{" picked" if (layer, i) == head else ""}"'
            f' title="layer {layer}, head {i}: VHD {values[layer, i]:.2f}" aria-label="layer'
            f' {layer}, head {i}"><i style="--v:{values[layer, i] / most:.2f}"></i></button>'
            for i in range(values.shape[1])
        )
        rows.append(f'<div class="layer"><span>{layer}</span>{cells}</div>')
    text = escape(found.words[word].text)
    return (
        '<figure class="heads"><div class="grid"'
        f' style="--n:{values.shape[1]}">{"".join(rows)}</div><figcaption>How far the image moves'
        f" each head for <b>“{text}”</b> (VHD): layers upwards, heads to the right, larger is"
        " further. Ringed: the heads of the heat map. Click one to see where it alone"
        " looked.</figcaption></figure>"
    )


def _data(image: Image.Image, kind: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


# the other tabs
# ------------------------------------------------------------------------------------------------


def compared(names: Sequence[str], done: Sequence[Told], going: bool) -> str:
    """One card a method, in the order they are asked."""
    cards = []
    for number, name in enumerate(names):
        last = going and number == len(done) - 1
        body = (
            telling(done[number], 0, "t_vhd", last and not done[number].seconds)
            if number < len(done)
            else "<p class=empty>waiting</p>"
        )
        cards.append(f'<section class="card"><h3>{escape(name)}</h3>{body}</section>')
    return f'<div class="cards">{"".join(cards)}</div>'


def answers(question: str, names: Sequence[str], done: Sequence[Told]) -> str:
    """A yes/no question and its answers."""
    cards = "".join(
        f'<section class="card answer"><h3>{escape(name)}</h3><p'
        f' class="big">{escape(told.text) or "…"}</p></section>'
        for name, told in zip(names, done, strict=False)
    )
    return f'<p class="question">{escape(question)}</p><div class="cards two">{cards}</div>'


# the picture
# ----------------------------------------------------------------------------------------------


def before_after(photo: Image.Image, sides: Sequence[tuple[str, Told]]) -> Figure:
    """The photo and its texts side by side; invented words red and struck through. 1200 × 420
    pixels at 100 dpi.
    """
    figure = Figure(figsize=(12, 4.2), dpi=100, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    picture = figure.add_axes((0.015, 0.05, 0.3, 0.9))
    picture.imshow(photo)
    picture.set_axis_off()
    renderer = canvas.get_renderer()
    width = 0.655 / len(sides)
    for number, (title, told) in enumerate(sides):
        left, right = 0.335 + number * width, 0.335 + (number + 1) * width - 0.025
        figure.text(left, 0.9, title, fontsize=15, fontweight="bold", va="top", color="#0f172a")
        x, y = left, 0.78
        for place, word in enumerate(told.text.split()):
            wrong = told.invented is not None and place in told.invented
            drawn = figure.text(
                x, y, word, fontsize=13, va="baseline", color="#b91c1c" if wrong else "#1e293b"
            )
            box = drawn.get_window_extent(renderer).transformed(figure.transFigure.inverted())
            if box.x1 > right and x > left:
                x, y = left, y - 0.075
                drawn.set_position((x, y))
                box = drawn.get_window_extent(renderer).transformed(figure.transFigure.inverted())
            if wrong:
                middle = y + 0.016
                figure.add_artist(_line((box.x0, box.x1), (middle, middle)))
            x = box.x1 + 0.006
        count = len(told.invented or ())
        figure.text(
            left,
            0.06,
            f"{count} invented" if count else "nothing invented",
            fontsize=12,
            color="#64748b",
        )
    return figure


def _line(x: tuple[float, float], y: tuple[float, float]) -> Line2D:
    return Line2D(x, y, color="#b91c1c", linewidth=1.8)
