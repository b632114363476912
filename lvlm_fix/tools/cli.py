"""Describe photos with methods acting, measure what the methods change, and serve them.

With `--json`, standard output holds one JSON document and nothing else.
"""

from __future__ import annotations

import os
import sys
from importlib.metadata import entry_points
from typing import NoReturn

import typer

from lvlm_fix.errors import LvlmFixError
from lvlm_fix.tools import (
    asking,
    benching,
    captioning,
    checking,
    exporting,
    head_scores,
    serving,
    tables,
    vectoring,
)
from lvlm_fix.tools.options import settings_of

__all__ = ["app", "main", "settings_of"]

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(head_scores.app, name="heads")
app.add_typer(asking.app, name="ask")
app.add_typer(vectoring.app, name="vectors")
app.command("check")(checking.check)
app.command("caption")(captioning.caption)
app.command("methods")(tables.methods)
app.command("families")(tables.families)
app.command("bench")(benching.bench)
app.command("export")(exporting.export)
app.command("serve")(serving.serve)

COMPLETING, TYPED = "_LVLM_FIX_COMPLETE", "_TYPER_COMPLETE_ARGS"
ROOMS = {
    "eval": "Measure hallucination: run, score, compare, report.",
    "demo": "Look at one photo on a page: before, after, and where the model looked.",
    "reproduce": "Run a published table, and show its figures beside ours.",
}
EXTRAS = {  # what an extra brings -> the extra
    "greenlet": "bench", "gradio": "demo", "matplotlib": "eval", "optuna": "eval",
    "pycocotools": "eval", "statsmodels": "eval",
    "pydantic": "serve", "starlette": "serve", "uvicorn": "serve",
}  # fmt: skip


def main() -> None:
    """Run the command line; an expected error is one line on standard error and exit code 2.

    Rooms above the library bring commands of their own; only the one that is asked for is loaded.
    """
    words = sys.argv[1:]
    if COMPLETING in os.environ:  # a shell asks what may follow the words that are typed
        words = (os.environ.get("COMP_WORDS") or os.environ.get(TYPED) or "").split()[1:]
    asked = next((word for word in words if not word.startswith("-")), "")
    try:
        for command in entry_points(group="lvlm_fix.commands"):
            if command.name == asked:
                app.add_typer(command.load(), name=command.name)
            else:
                about = ROOMS.get(command.name, "A command of another package.")
                app.add_typer(typer.Typer(help=about), name=command.name, help=about)
        app(prog_name="lvlm-fix")  # however it was started: completion goes by this name
    except LvlmFixError as error:
        _stop(str(error))
    except KeyboardInterrupt:  # while a room is loaded; a command that is at work says more
        _stop("stopped", 130)
    except OSError as error:  # a full disk, a folder that may not be written, a name too long
        if error.strerror is None:
            raise
        where = f"{error.filename}: " if error.filename else ""
        _stop(f"cannot read or write {where}{error.strerror}")
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in EXTRAS:
            raise
        _stop(f"this needs {missing}: pip install 'lvlm-fix[{EXTRAS[missing]}]'")


def _stop(why: str, code: int = 2) -> NoReturn:
    """One line on standard error, and the exit code."""
    print(f"lvlm-fix: {why}", file=sys.stderr)
    raise SystemExit(code) from None


if __name__ == "__main__":
    main()
