"""Options that several commands of `lvlm-fix eval` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "AsJson", "BatchSize", "Data", "DialectName", "Ids", "Images", "Limit", "Model", "Prompt",
    "Revision", "RuleName", "Seed", "Split", "SynonymsFile", "TruthFile",
]  # fmt: skip

AsJson = Annotated[bool, typer.Option("--json", help="print one JSON document on standard output")]
DialectName = Annotated[str, typer.Option(help="published (comparable) or strict")]
RuleName = Annotated[str, typer.Option(help="published (comparable) or strict")]
Data = Annotated[Path, typer.Option(help="COCO folder, or a folder of photos with an objects file")]
Model = Annotated[str, typer.Option(help='a hub name, a folder, or "tiny"')]
Revision = Annotated[str | None, typer.Option(help="commit of the model")]
Images = Annotated[
    Path | None, typer.Option(help="folder of photos; default: val2014, val2017 or images")
]
TruthFile = Annotated[
    Path | None, typer.Option(help="objects file; default: the annotations of DATA")
]
SynonymsFile = Annotated[
    Path | None,
    typer.Option(help="JSON: a category of the truth -> an object of CHAIR, or null"),
]
Limit = Annotated[int | None, typer.Option(help="draw this many photos, by the seed")]
Split = Annotated[
    str | None,
    typer.Option(help="a list in DATA/splits.json, short for --ids DATA/splits.json:SPLIT"),
]
Seed = Annotated[int, typer.Option(help="seed of the subset, the questions and the bootstrap")]
Ids = Annotated[str | None, typer.Option(help="file.json or file.json:name")]
BatchSize = Annotated[int, typer.Option(help="samples at a time")]
Prompt = Annotated[str, typer.Option(help="what to ask for a caption")]
