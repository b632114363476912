"""The command `export`: a plain checkpoint with the gain folded in."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lvlm_fix.errors import InputError, SettingError
from lvlm_fix.tools.options import AsJson, counts_in, emit, out

__all__ = ["export"]


def export(
    model: Annotated[str, typer.Argument(help='a hub name, a folder, or "tiny"')],
    folder: Annotated[
        Path | None, typer.Argument(help="the new checkpoint", metavar="OUT", show_default=False)
    ] = None,
    table: Annotated[
        Path | None, typer.Option("--heads", help="a table made by `heads score`")
    ] = None,
    strength: Annotated[float, typer.Option(help="factor on the chosen heads' outputs")] = 1.5,
    layers: Annotated[
        str | None, typer.Option(help="layers to act in, as 1,4,5; default: VHR's")
    ] = None,
    count: Annotated[
        int, typer.Option(help="how many heads; 0 takes those above their layer's median")
    ] = 0,
    revision: Annotated[str | None, typer.Option(help="commit of the model")] = None,
    check: Annotated[
        Path | None, typer.Option(help="compare this export with MODEL; write nothing")
    ] = None,
    method_: Annotated[
        str, typer.Option("--method", help="vhr (a gain of heads), or nullu (--pairs, --images)")
    ] = "vhr",
    pairs: Annotated[
        Path | None, typer.Option(help='nullu: JSON lines with "image", "value", "h_value"')
    ] = None,
    images: Annotated[Path | None, typer.Option(help="nullu: folder of the pairs' photos")] = None,
    rank: Annotated[int, typer.Option(help="nullu: directions removed from each layer")] = 4,
    as_json: AsJson = False,
) -> None:
    """Write a plain checkpoint with a static gain of chosen heads folded in.

    With --method nullu, remove directions of invention from it instead. With --check, prove that an
    exported gain equals MODEL under that gain.

    Example: lvlm-fix export tiny exported --heads heads.json --strength 2
    """
    from lvlm_fix.methods import VHR
    from lvlm_fix.tools import export as exporting
    from lvlm_fix.tools.export_check import check as compared

    if check is not None:
        equality = compared(check, model, revision)
        if as_json:
            emit(equality.as_dict())
        else:
            out.print(
                f"{'equal' if equality.holds else 'NOT equal'}: {equality.photos} photos, logits"
                f" differ by at most {equality.logits_difference:.1e}, {equality.texts_equal} texts"
                " are the same, the weights are"
                f" {'as written' if equality.digest_equal else 'NOT those that were written'}"
            )
        raise SystemExit(0 if equality.holds else 1)
    if method_ not in ("vhr", "nullu"):
        raise SettingError(f"--method takes vhr or nullu, got {method_!r}")
    if method_ == "nullu":
        from lvlm_fix.tools import nullu

        if folder is None or pairs is None or images is None:
            raise InputError(
                "export --method nullu takes MODEL, OUT, --pairs FILE and --images DIR"
            )
        record = nullu.export(model, folder, pairs, images, rank, revision)
        if as_json:
            return emit({"out": str(folder)} | record)
        return print(
            f"{rank} directions out of {len(record['layers'])} layers, by {record['pairs']} pairs "
            f"-> {folder}",
            file=sys.stderr,
        )
    if folder is None or table is None:
        raise InputError("export takes MODEL, OUT and --heads TABLE; or --check OUT and MODEL")
    numbers = None if layers is None else counts_in("--layers", layers)
    method = VHR(strength=strength, table=str(table), top=count, layers=numbers)
    record = exporting.export(model, folder, table, method, revision)
    if as_json:
        return emit({"out": str(folder)} | record)
    chosen = sum(map(len, record["heads"].values()))
    print(
        f"{chosen} heads in {len(record['heads'])} layers times {strength:g} -> {folder}",
        file=sys.stderr,
    )
