"""The subcommands `lvlm-fix vectors ...`."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from lvlm_fix.errors import DataError, SettingError
from lvlm_fix.files import can_be_written
from lvlm_fix.prompts import DESCRIBE

if TYPE_CHECKING:
    from lvlm_fix.tools.effects import Labelled
    from lvlm_fix.tools.nullu import Pair
    from lvlm_fix.tools.photos import Broken

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, help="Make and show vectors that steer hidden states.")
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON document on standard output")]


@app.callback()
def group() -> None:
    """Make and show vectors that steer hidden states."""


@app.command()
def make(
    images: Annotated[Path, typer.Option(help="folder of the texts' photos")],
    out: Annotated[
        Path,
        typer.Option(
            help="the vectors to write: .safetensors, or .gguf without layer 0",
            callback=can_be_written,
        ),
    ],
    words: Annotated[
        Path | None,
        typer.Option(
            help='JSON lines with "image", "text", "grounded", "invented": `eval score chair '
            "--words` writes them"
        ),
    ] = None,
    pairs: Annotated[
        Path | None, typer.Option(help='instead: JSON lines with "image", "value", "h_value"')
    ] = None,
    model: Annotated[str, typer.Option(help='a hub name, a folder, or "tiny"')] = "tiny",
    kind: Annotated[str, typer.Option(help="mean (difference), or vti")] = "mean",
    prompt: Annotated[str, typer.Option(help="what was asked")] = DESCRIBE,
    limit: Annotated[
        int | None, typer.Option(help="only this many lines, drawn at random", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="seed of that draw")] = 0,
    as_json: AsJson = False,
) -> None:
    """Measure the direction in which a model's states differ between right and invented words.

    Example: lvlm-fix vectors make --images photos --words words.jsonl --out vectors.safetensors
    """
    if not images.is_dir():
        raise DataError(f"--images takes a folder of photos, got {str(images)!r}")
    if (words is None) == (pairs is None):
        raise SettingError("vectors are made from --words FILE or from --pairs FILE: name one")
    file = words or pairs
    assert file is not None
    import lvlm_fix as lf
    from lvlm_fix.tools.making import KINDS
    from lvlm_fix.tools.making import make as measure
    from lvlm_fix.tools.photos import Broken

    if kind not in KINDS:
        raise SettingError(f"--kind takes {' or '.join(KINDS)}, got {kind!r}")
    broken = Broken()
    texts, about = _texts(file, images, words is not None, limit, seed, broken)
    loaded, processor = lf.load(model)
    shown = track(texts, "measuring", console=Console(stderr=True))
    found = measure(loaded, processor, shown, kind=kind, prompt=prompt, name=model, about=about)
    found.save(out)
    if as_json:
        print(json.dumps({"out": str(out), "layers": len(found.rows)} | dict(found.about)))
    else:
        print(
            f"{len(found.rows)} vectors from {found.about['texts']} of {len(texts)} texts -> {out}",
            file=sys.stderr,
        )
    broken.end()


def _texts(
    file: Path, images: Path, words: bool, limit: int | None, seed: int, broken: Broken
) -> tuple[list[Labelled] | list[Pair], dict[str, str]]:
    """The texts of a file, all or some drawn by seed; and what the manifest says of them."""
    from lvlm_fix.tools.checkpoint import sha256_of
    from lvlm_fix.tools.effects import read_labelled
    from lvlm_fix.tools.nullu import read_pairs

    try:
        lines = dict(enumerate(file.read_text().splitlines(), 1))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {str(file)!r}: {error}") from None
    if limit is not None:
        chosen = random.Random(seed).sample(list(lines), min(limit, len(lines)))
        lines = {number: lines[number] for number in chosen}
    reader: Any = read_labelled if words else read_pairs
    texts = list(reader(file, images, lines, broken))
    about = {
        "from": "words" if words else "pairs", "sha256": sha256_of(file),
        "lines": str(len(texts)), "seed": "" if limit is None else str(seed),
        "photos": str(len({json.loads(line)["image"] for line in lines.values()})),
    }  # fmt: skip
    return texts, about


@app.command()
def show(
    file: Annotated[
        Path, typer.Argument(help="safetensors, a gguf control vector, or a folder of repsteer")
    ],
    counting: Annotated[
        str, typer.Option(help="how the file counts layers, if it does not say: decoder or "
                               "hidden_states")
    ] = "file",
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Show the vectors in a file: layers (from 0), lengths, likeness to the one before, manifest.

    Example: lvlm-fix vectors show vectors.safetensors
    """
    from torch import cosine_similarity

    from lvlm_fix.vectors.vectors import COUNTINGS, Vectors

    if counting not in ("file", *COUNTINGS):
        raise SettingError(f"--counting takes file, {', '.join(COUNTINGS)}, got {counting!r}")
    found = Vectors.load(file, counting)
    norms, rows = found.norms(), found.rows
    like = {
        layer: float(cosine_similarity(rows[layer], rows[layer - 1], dim=0))
        for layer in norms
        if layer - 1 in rows
    }
    if as_json:
        return print(
            json.dumps(
                {"file": str(file), "width": found.width, "about": dict(found.about),
                 "norms": norms, "cosine_with_layer_before": like}
            )
        )  # fmt: skip
    console = Console()
    console.print(f"{len(rows)} vectors, {found.width} wide", markup=False)
    for key, value in sorted(found.about.items()):
        console.print(f"{key}: {value}", markup=False, highlight=False)
    table = Table("layer", "length", "cosine with the layer before")
    for layer, norm in norms.items():
        table.add_row(str(layer), f"{norm:.4g}", f"{like[layer]:.3f}" if layer in like else "")
    console.print(table)
