"""A caption as a picture: its words coloured by how well they are grounded, and where one looked.

The colours go from dark to light and differ for colour-blind readers too; weak words are underlined
as well, so that nothing rests on colour alone.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from lvlm_fix.errors import InputError
from lvlm_fix.files import written_whole
from lvlm_fix.grounding import Grounding

__all__ = ["draw", "place_of"]

INK, STEP, LEFT, RIGHT = "#1e293b", 0.085, 0.42, 0.98


def place_of(found: Grounding, word: str) -> int:
    """The number of the first such word. Raises `InputError` naming the words there are."""
    names = [one.text.lower() for one in found.words]
    if word.lower() not in names:
        raise InputError(f"the text has no word {word!r}; it has: {', '.join(names)}")
    return names.index(word.lower())


def draw(photo: Image.Image, found: Grounding, out: Path, word: int | None = None) -> None:
    """Writes a PNG of 1200 × 450 pixels: the photo, and the text beside it.

    With `word` the attention of the heads that the image moves most lies over the photo, upscaled
    to its size. Raises `InputError` where the patches form no known grid.
    """
    figure = Figure(figsize=(12, 4.5), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.01, 0.1, 0.38, 0.85))
    axes.imshow(photo)
    axes.set_axis_off()
    if word is not None:
        axes.imshow(_heat(photo.size, found, word), cmap="cividis", alpha=0.65)
    _text(figure, found, word)
    note = "blue to yellow: weaker to stronger; underlined: "
    note += "least grounded quarter" if found.ask is None else "objects that are probably not there"
    if word is not None:
        note += f"; over the photo: attention for “{found.words[word].text}”"
    figure.text(0.01, 0.03, note, fontsize=10, color="#475569")
    with written_whole(out) as part:
        figure.savefig(part, format="png", dpi=100)


def _heat(size: tuple[int, int], found: Grounding, word: int) -> np.ndarray:
    """Attention of the eighth of heads with the largest VHD, as rows × columns of the photo."""
    mean = found.vhd.mean(0)
    best = mean.flatten().topk(max(1, mean.numel() // 8)).indices.tolist()
    heat = found.look(word, [divmod(int(i), mean.shape[1]) for i in best]).numpy()
    small = Image.fromarray((255 * heat / max(float(heat.max()), 1e-12)).astype(np.uint8))
    return np.asarray(small.resize(size, Image.Resampling.BICUBIC))


def _text(figure: Figure, found: Grounding, picked: int | None) -> None:
    """The words in lines, each on a ground as light as it is well grounded; words that were not
    asked about are plain.
    """
    scores, low = np.array(found.scores()), found.doubtful()
    told = ~np.isnan(scores)
    ranks = np.full(len(scores), np.nan)
    ranks[told] = np.argsort(np.argsort(scores[told])) / max(1, told.sum() - 1)
    paint = colormaps["cividis"]
    x, y = LEFT, 0.88
    for number, word in enumerate(found.words):
        colour = paint(0.15 + 0.85 * ranks[number]) if told[number] else "white"
        ink = "white" if ranks[number] < 0.5 else INK
        drawn = figure.text(
            x, y, word.text, fontsize=14, color=ink, va="baseline",
            fontweight="bold" if number == picked else "normal",
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 2.5},
        )  # fmt: skip
        box = drawn.get_window_extent().transformed(figure.transFigure.inverted())
        if box.x1 > RIGHT and x > LEFT:
            x, y = LEFT, y - STEP
            drawn.set_position((x, y))
            box = drawn.get_window_extent().transformed(figure.transFigure.inverted())
        if low[number]:
            line = Line2D((box.x0, box.x1), (y - 0.024,) * 2, color="#b45309", linewidth=2)
            figure.add_artist(line)
        x = box.x1 + 0.012
