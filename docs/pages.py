"""Pages of the site that are made, not written: one for every method, from its docstrings, and the
API, whose names come from the package and whose text mkdocstrings reads.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
import sys

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from lvlm_fix import ROOMS
from lvlm_fix.methods import METHODS

FIELD = re.compile(r"^([A-Z][a-z]+) {2,}(.*?)(?=^\S|\Z)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds `methods/NAME.md` for every method of this package and of installed ones, and
    `api.md`.
    """
    names = list(METHODS)
    for name in names:
        files.append(File.generated(config, f"methods/{name}.md", content=page(name)))
    lines = "".join(f"- [`{name}`]({name}.md): {first(name)}\n" for name in names)
    index = f"# Methods\n\nEvery page is made from the method's own docstrings.\n\n{lines}"
    files.append(File.generated(config, "methods/index.md", content=index))
    files.append(File.generated(config, "api.md", content=api()))
    return files


def api() -> str:
    """Every public name of `lvlm_fix` but the methods, by the module that owns it."""
    parts = ["# API\n\nAll names are found in `lvlm_fix`: `import lvlm_fix as lf`.\n"]
    for room, names in ROOMS.items():
        parts.append(f"## {room.removeprefix('lvlm_fix.')}\n")
        parts += [f"::: {room}.{name}\n" for name in names]
    return "\n".join(parts)


def page(name: str) -> str:
    """A method's equations, its source and departures, its settings and its cost, as Markdown."""
    kind = METHODS[name]
    about = inspect.cleandoc(sys.modules[kind.__module__].__doc__ or "")
    equations = inspect.cleandoc(kind.__doc__ or "")
    said = "".join(
        f"- **{key}**: {plain(' '.join(text.split()))}\n" for key, text in FIELD.findall(about)
    )
    rows = "".join(setting(field) for field in dataclasses.fields(kind) if field.metadata)
    head = "| setting | default | meaning | from | range |\n|---|---|---|---|---|\n"
    settings = head + rows if rows else "It has none.\n"
    return (
        f"# {name}\n\n{plain(about.split(chr(10) * 2)[0])}\n\n"
        f"## Equations\n\n{equations}\n\n## Source, needs, departures\n\n{said}\n"
        f"## Settings\n\n{settings}\nChange one with `--set {name}.SETTING=VALUE`.\n\n"
        f"## Cost\n\nWhat it needs is what it costs. `lvlm-fix bench --method {name}` measures it"
        f" on your machine, as a ratio to the unmodified model. [Figures](../benchmarks.md) of some"
        f" machines are kept.\n"
    )


def plain(text: str) -> str:
    """Words of a docstring, with signs that Markdown would take for its own kept as they are."""
    return re.sub(r"([*<\[\]])", r"\\\1", text)


def first(name: str) -> str:
    """The first sentence of a method's module, without the method's name."""
    about = " ".join((sys.modules[METHODS[name].__module__].__doc__ or "").split("\n\n")[0].split())
    return about.partition(": ")[2] or about


def setting(field: dataclasses.Field[object]) -> str:
    """One row of the table of settings."""
    about = field.metadata
    ends = [f"{about[end]:g}" if math.isfinite(about[end]) else "" for end in ("low", "high")]
    span = ", ".join(about["options"]) or (" to ".join(ends) if any(ends) else "any")
    cells = (f"`{field.name}`", f"`{field.default!r}`", about["doc"], about["source"], span)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"
