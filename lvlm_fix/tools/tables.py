"""The commands `methods` and `families`: what there is, as tables."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from lvlm_fix.tools.options import AsJson, emit, out

__all__ = ["families", "methods"]


def methods(as_json: AsJson = False) -> None:
    """List the methods: their papers, the places they edit, and which are controls.

    With --json, also what they need and where they depart from the paper.

    Example: lvlm-fix methods --json
    """
    from lvlm_fix.methods import METHODS
    from lvlm_fix.tools.listing import listed

    kinds = dict(METHODS)  # those of other packages are loaded here
    rows = [listed(kind) | {"name": name} for name, kind in kinds.items()]
    none: dict[str, Any] = {"name": "none", "paper": "", "edits": []}
    plain = {"rows": 1.0, "operations": 1.0}
    rows.insert(0, none | {"needs": "", "departs": "", "control": False, "cost_per_token": plain})
    if as_json:
        return emit({"methods": rows})
    table = Table("method", "paper", "edits", "settings")
    for row in rows:
        kind = kinds.get(row["name"])
        given = "" if kind is None else ", ".join(f"{k}={v}" for k, v in kind().settings().items())
        paper = row["paper"] + (" (control)" if row["control"] else "")
        table.add_row(row["name"], paper.strip(), ", ".join(row["edits"]), given)
    out.print(table)


def families(as_json: AsJson = False) -> None:
    """List the model families, and what works with them (probed on tiny random models).

    Example: lvlm-fix families --json
    """
    from lvlm_fix.tools.probing import read_probed

    rows = read_probed()
    if as_json:
        return emit({"families": rows})
    names = sorted({name for row in rows for name in row["methods"]})
    table = Table("family", *names)
    for row in rows:
        table.add_row(row["family"], *(row["methods"].get(name, "unknown") for name in names))
    out.print(table)
