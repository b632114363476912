"""The command `serve`: an endpoint, once plain and once per method."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from lvlm_fix.errors import InputError, SettingError
from lvlm_fix.tools.options import ask_settings, settings_of

__all__ = ["serve"]


def serve(
    model: Annotated[str, typer.Argument(help='a hub name, a folder, or "tiny"')] = "tiny",
    method: Annotated[
        list[str] | None,
        typer.Option(help='methods joined by +; repeatable, each makes a name such as "tiny+vhr"'),
    ] = None,
    ask: Annotated[
        list[str] | None,
        typer.Option(
            help='also serve every name with checked texts: mark, drop or rewrite ("tiny+ask:drop")'
        ),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="method.setting=value, repeatable")
    ] = None,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port; 0 takes a free one", min=0, max=65535)] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(help="what clients must send as their key", envvar="LVLM_FIX_API_KEY"),
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="longest text, tokens", min=1)] = 4096,
    max_pixels: Annotated[int, typer.Option(help="largest picture, pixels", min=1)] = 25_000_000,
    max_size: Annotated[int, typer.Option(help="largest request, bytes", min=1)] = 20 * 2**20,
    queue: Annotated[int, typer.Option(help="most requests running or waiting", min=1)] = 256,
    continuous_batching: Annotated[
        bool, typer.Option("--continuous-batching", hidden=True)
    ] = False,
) -> None:
    """Serve MODEL over an OpenAI-style endpoint: plain, under each --method, and checked by --ask.

    Example: lvlm-fix serve tiny --method vhr --method var+vhr --ask rewrite --port 8000
    """
    import lvlm_fix as lf
    from lvlm_fix.ask.asked import asked_by
    from lvlm_fix.ask.calibration import shipped

    if continuous_batching:
        raise SettingError(
            "--continuous-batching: it goes another way through the model, where no method acts; "
            "leave it out"
        )
    if api_key is not None and not re.fullmatch(r"[!-~]+", api_key):
        raise SettingError("--api-key takes ASCII letters, digits and signs, and at least one")
    asking, own = ask_settings(settings_of(set_ or []), ask[0] if ask else None)
    for use in ask or []:
        asked_by(asking | {"use": use})
    chosen = {name: lf.parse_methods(name, own) for name in method or []}
    try:
        from lvlm_fix.tools.serve import Server, listen
    except ModuleNotFoundError as error:
        raise InputError(
            f"the server needs {error.name}, which is missing: pip install 'lvlm-fix[serve]'"
        ) from error
    from lvlm_fix.tools.serve_worker import Choice, Limits, Worker

    limits = Limits(size=max_size, pixels=max_pixels, tokens=max_tokens, queue=queue)
    worker = Worker(*lf.load(model), limits)
    plain = Path(model).name if Path(model).is_dir() else model
    acting = {f"{plain}+{name}": methods for name, methods in chosen.items() if methods}
    choices = {name: Choice(methods) for name, methods in ({plain: ()} | acting).items()}
    for use in ask or []:
        check = asked_by(asking | {"use": use}, worker.processor)
        for name, methods in ({plain: ()} | acting).items():
            choices[f"{name}+ask:{use}"] = Choice(methods, check, shipped(model))
    worker.try_out(choices.values())

    def ready(at: int) -> None:
        names = ", ".join(choices)
        print(f"lvlm-fix serves {names} on http://{host}:{at}/v1", file=sys.stderr, flush=True)
        if api_key is None and host not in ("127.0.0.1", "localhost", "::1"):
            print(
                "lvlm-fix: anyone who reaches this address can use the server; see --api-key",
                file=sys.stderr,
            )

    listen(Server(worker, choices, api_key), host, port, ready)
