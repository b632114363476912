"""The commands `heads`: score attention heads, and look at the scores."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import track
from rich.table import Table

from lvlm_fix.errors import DataError, SettingError
from lvlm_fix.files import can_be_written
from lvlm_fix.prompts import DESCRIBE
from lvlm_fix.tools.options import AsJson, Model, emit, err, out

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Score attention heads, and look at the scores.")


@app.command("score")
def heads_score(
    images: Annotated[Path, typer.Option(help="a folder of photos")],
    out_: Annotated[
        Path, typer.Option("--out", help="the table to write (JSON)", callback=can_be_written)
    ],
    model: Model = "tiny",
    metric: Annotated[
        str,
        typer.Option(
            help=(
                "vhd, image-centric, spin, retrieval-picture, retrieval-prompt; over words:"
                " knock-out-grounded, "
                "knock-out-invented, ad-hh, act"
            )
        ),
    ] = "vhd",
    words: Annotated[
        Path | None,
        typer.Option(
            help='for scores over words: JSON lines with "image", "text", "grounded", "invented"'
        ),
    ] = None,
    prompt: Annotated[str, typer.Option(help="what to ask")] = DESCRIBE,
    limit: Annotated[int | None, typer.Option(help="only the first photos by name")] = None,
) -> None:
    """Score every head on a folder of photos, or on labelled texts about them.

    The table holds the mean, the deviation and n.

    Example: lvlm-fix heads score --images photos/ --metric vhd --out heads.json
    """
    import lvlm_fix as lf
    from lvlm_fix.images import SUFFIXES
    from lvlm_fix.tools.effects import EFFECTS, read_labelled
    from lvlm_fix.tools.photos import Broken
    from lvlm_fix.tools.scoring import score_words

    if not images.is_dir():
        raise DataError(f"--images takes a folder of photos, got {str(images)!r}")
    if (metric in EFFECTS) != (words is not None):
        raise SettingError(
            f"--words goes with the scores over words ({', '.join(EFFECTS)}), got --metric {metric}"
        )
    broken = Broken()
    if words is not None:
        labelled = list(islice(read_labelled(words, images, broken=broken), limit))
        loaded, processor = lf.load(model)
        texts = track(labelled, "scoring heads", console=err)
        table = score_words(loaded, processor, texts, metric=metric, prompt=prompt, name=model)
        table.save(out_)
        print(f"{table.n} of {len(labelled)} texts -> {out_}", file=sys.stderr)
        return broken.end()
    paths = sorted(path for path in images.iterdir() if path.suffix.lower() in SUFFIXES)[:limit]
    if not paths:
        raise DataError(f"there are no photos ({', '.join(SUFFIXES)}) in {str(images)!r}")
    loaded, processor = lf.load(model)
    shown = track(paths, "scoring heads", console=err)
    photos = (image for _, image in broken.opened((None, path) for path in shown))
    table = lf.score_heads(loaded, processor, photos, metric=metric, prompt=prompt, name=model)
    table.save(out_)
    print(f"{table.n} photos -> {out_}", file=sys.stderr)
    broken.end()


@app.command("curves")
def heads_curves(
    images: Annotated[Path, typer.Option(help="a folder of photos, named <id>.jpg")],
    truth: Annotated[Path, typer.Option(help="objects file: image id -> objects")],
    out_: Annotated[
        Path, typer.Option("--out", help="the curves to write (JSON)", callback=can_be_written)
    ],
    model: Model = "tiny",
    ids: Annotated[str | None, typer.Option(help="file.json:name, a list of ids")] = None,
    limit: Annotated[int | None, typer.Option(help="only the first photos by id")] = None,
    prompt: Annotated[str, typer.Option(help="what to ask")] = DESCRIBE,
    max_new_tokens: Annotated[int, typer.Option(help="longest text, tokens")] = 128,
) -> None:
    """Measure the curves that AdaIAT reads.

    They say how much attention each head gives the text written so far, at right and at invented
    object words.

    Example: lvlm-fix heads curves --images photos/ --truth objects.json --out curves.json
    """
    import lvlm_fix as lf
    from lvlm_fix.tools.asking import photos_of, truth_of
    from lvlm_fix.tools.curving import measure_curves
    from lvlm_fix.tools.photos import Broken

    paths, known = photos_of(images, ids)[:limit], truth_of(truth)
    if missing := [key for key, _ in paths if key not in known]:
        raise DataError(f"the objects of photo {missing[0]} are unknown; see --truth")
    loaded, processor = lf.load(model)
    broken = Broken()
    shown = track(paths, "measuring", console=err)
    photos = ((image, known[key]) for key, image in broken.opened(shown))
    curves = measure_curves(
        loaded, processor, photos, prompt=prompt, name=model, max_new_tokens=max_new_tokens
    )
    curves.save(out_)
    print(
        f"{curves.n_real} right and {curves.n_invented} invented words in {curves.photos} texts "
        f"-> {out_}",
        file=sys.stderr,
    )
    broken.end()


@app.command("show")
def heads_show(
    table: Annotated[Path, typer.Argument(help="a table made by `heads score`")],
    png: Annotated[Path | None, typer.Option(help="write a heat map here")] = None,
    top: Annotated[int, typer.Option(help="how many heads to list")] = 10,
) -> None:
    """Show a head table: the highest scores, and a heat map.

    Example: lvlm-fix heads show heads.json --top 5 --png heads.png
    """
    from lvlm_fix.heads.table import HeadTable

    scores = HeadTable.load(table)
    out.print(
        f"{scores.metric} of {scores.model}, n = {scores.n} images, prompt {scores.prompt!r}",
        markup=False,
    )
    shown = Table("layer", "head", "mean", "deviation")
    for layer, head in scores.top(top):
        shown.add_row(
            str(layer),
            str(head),
            f"{scores.mean[layer, head]:.4g}",
            f"{scores.deviation[layer, head]:.4g}",
        )
    out.print(shown)
    if png is not None:
        scores.draw(png)
        print(f"heat map -> {png}", file=sys.stderr)


@app.command("compare")
def heads_compare(
    one: Annotated[Path, typer.Argument(help="a table made by `heads score`", metavar="A.json")],
    other: Annotated[
        Path, typer.Argument(help="another table of the same model", metavar="B.json")
    ],
    top: Annotated[int, typer.Option(help="how many of the highest heads to compare")] = 10,
    as_json: AsJson = False,
) -> None:
    """Compare two head tables: rank correlation, and the highest heads that both share.

    Example: lvlm-fix heads compare heads.json other.json --top 12
    """
    from lvlm_fix.heads.table import HeadTable, compare

    tables = [HeadTable.load(one), HeadTable.load(other)]
    found = compare(*tables, top=top)
    if as_json:
        return emit({"tables": [str(table) for table in tables]} | found)
    rank = (
        "undefined: one table has one value only"
        if found["spearman"] is None
        else f"{found['spearman']:.3f}"
    )
    out.print(f"{tables[0]} against {tables[1]}", markup=False)
    out.print(f"Spearman's rank correlation over {found['heads']} heads: {rank}")
    shared = ", ".join(f"{layer}.{head}" for layer, head in found["shared"])
    out.print(f"of the top {top}, {found['overlap']:.0%} in both: {shared or 'none'}", markup=False)
