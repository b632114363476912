"""`lvlm-fix check`: whether methods act rightly on this machine, model and release."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console

from lvlm_fix.errors import SettingError

__all__ = ["check"]


def check(
    model: Annotated[
        str, typer.Argument(help='"tiny", "small", a hub name, a folder, or a geometry of bench')
    ],
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda; default: cuda if there is one")
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16")] = "auto",
    method: Annotated[
        list[str] | None,
        typer.Option(help="repeatable; default: all methods, with settings that act on any model"),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="method.setting=value, repeatable")
    ] = None,
    rounds: Annotated[int, typer.Option(help="rounds in which time is measured")] = 4,
    as_json: Annotated[
        bool, typer.Option("--json", help="print one JSON document on standard output")
    ] = False,
) -> None:
    """Check whether methods act correctly here, and what they cost. Exit code 1 if one does not.

    Example: lvlm-fix check tiny --method vhr --rounds 2
    """
    import torch

    from lvlm_fix.tools.check import cases
    from lvlm_fix.tools.check import check as lines
    from lvlm_fix.tools.cli import settings_of
    from lvlm_fix.tools.geometries import GEOMETRIES, subject
    from lvlm_fix.tools.measuring import machine

    if dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise SettingError(f"--dtype takes auto, float32, bfloat16 or float16, got {dtype!r}")
    if device not in (None, "cpu") and not torch.cuda.is_available():
        raise SettingError(f"--device {device}: torch sees no GPU here")
    if rounds < 1:
        raise SettingError(f"rounds must be >= 1, got {rounds}")
    if set_ and not method:
        raise SettingError("--set goes with --method")
    settings = settings_of(set_ or [])
    chosen = cases(method or (), settings)
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    auto = "auto" if model not in GEOMETRIES else "bfloat16" if where == "cuda" else "float32"
    kind = auto if dtype == "auto" else dtype
    checked = subject(model, dtype="auto" if kind == "auto" else getattr(torch, kind), device=where)
    found, out = [], Console(highlight=False, soft_wrap=True)
    for line in lines(checked, chosen, rounds):
        found.append(line)
        if not as_json:
            sign = "ok  " if line.holds else "FAIL"
            out.print(f"{sign} {line.method}: {line.promise}: {line.found}", markup=False)
    holds = all(line.holds for line in found)
    if as_json:
        document = {"machine": machine(checked), "holds": holds}
        print(json.dumps(document | {"lines": [asdict(line) for line in found]}))
    if not holds:
        raise SystemExit(1)
