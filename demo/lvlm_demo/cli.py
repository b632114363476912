"""`lvlm-fix demo`: the page; `lvlm-fix demo picture`: a photo before and after, as a picture."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from lvlm_fix.files import can_be_written

__all__ = ["app"]

app = typer.Typer(
    help="Look at one photo on a page: before, after, and where the model looked.\n\n"
    "Example: lvlm-fix demo --model tiny --port 7860"
)
Model = Annotated[
    str, typer.Option(help='a hub name, a folder, or "tiny", the embedded small test model')
]


@app.callback(invoke_without_command=True)
def demo(
    context: typer.Context,
    model: Model = "tiny",
    host: Annotated[
        str, typer.Option(help="address to listen on; beyond this machine, only --model is served")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port to listen on", min=1, max=65535)] = 7860,
) -> None:
    """Serve the demo's page until Ctrl-C."""
    if context.invoked_subcommand is None:
        from lvlm_demo.app import serve
        from lvlm_fix.errors import InputError

        try:
            serve(model, host, port)
        except OSError as error:
            raise InputError(
                f"cannot listen on {host}:{port}: {error}; take another --port"
            ) from error


@app.command()
def picture(
    photo: Annotated[Path, typer.Argument(help="a photo")],
    out: Annotated[Path, typer.Option(help="the PNG to write", callback=can_be_written)],
    model: Model = "tiny",
    method: Annotated[str, typer.Option(help="methods joined by +, in order")] = "var+vhr",
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="method.setting=value, repeatable")
    ] = None,
    objects: Annotated[
        str | None,
        typer.Option(
            help="COCO objects in the photo, joined by commas; not needed for the samples"
        ),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="longest text, tokens")] = 64,
) -> None:
    """Draw a photo with its caption before and after; invented words are struck through.

    Example: lvlm-fix demo picture photo.jpg --out before_after.png --method vhr
    """
    import lvlm_fix as lf
    from lvlm_demo import present
    from lvlm_demo.engine import Asked, Engine, objects_of
    from lvlm_fix.errors import InputError
    from lvlm_fix.files import written_whole
    from lvlm_fix.models import DESCRIBE
    from lvlm_fix.tools.cli import settings_of

    methods = lf.parse_methods(method, settings_of(set_ or []))
    given = {name.strip() for name in objects.split(",")} if objects else None
    engine, asked = Engine(given), Asked(photo, DESCRIBE, model, tokens=max_new_tokens)
    opened = engine.check(asked)
    if given is None and objects_of(opened) is None:
        raise InputError(
            "the objects in this photo are not known: name its COCO objects, as in"
            " --objects 'cup,dining table'"
        )
    *_, told = engine.one_by_one(asked, [(), methods], threading.Event())
    figure = present.before_after(
        opened, list(zip(("Before", f"After: {method}"), told, strict=True))
    )
    with written_whole(out) as part:
        figure.savefig(part, format="png", dpi=100)
    print(f"picture -> {out}", file=sys.stderr)
