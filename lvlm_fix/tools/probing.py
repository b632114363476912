"""What was probed to work, family by family; `python -m lvlm_fix.tools.probing` probes anew and
writes it down.

Values are never guessed. A method "works" on a family where, on a tiny random-weight model, neutral
settings are bit-equal, acting settings change the logits without NaN and a left-padded batch gives
what its samples give one by one; "refused" is our own error; "unbuilt" wants a package that is
not installed; anything else is "unknown", with the reason.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from collections.abc import Collection
from importlib.resources import files
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import transformers

from lvlm_fix.errors import LvlmFixError
from lvlm_fix.families.family import family_of
from lvlm_fix.method import Method
from lvlm_fix.methods import (
    ACT,
    ADHH,
    DAMRO,
    EAH,
    HGAI,
    ICD,
    ILVAD,
    M3ID,
    ONLY,
    PAI,
    PAINT,
    SID,
    SLA,
    SPIN,
    VAF,
    VAR,
    VCD,
    VHR,
    VISTA,
    DeCo,
    DoLa,
    MoD,
    PlausibleOnly,
    RandomHeads,
)
from lvlm_fix.tools.miniature import FAMILIES, IMAGE, inputs_for, model_of
from lvlm_fix.tools.probing_checks import batch_is_alike, cached, judge, line, rows_are_alike
from lvlm_fix.tools.probing_page import PAGE, page

__all__ = ["PROBES", "APART", "probe", "read_probed"]

FILE = Path(__file__).parent / "probed.json"
SECONDS, BYTES = 20, 8 << 30  # what one family may take: processor time, memory
# by method: settings that must change nothing, and settings loose enough to act on random weights;
# for the tests too
PROBES: dict[str, tuple[Method, Method]] = {
    "act": (ACT(remaining=1.0, threshold=1.2), ACT(threshold=1.2)),
    "adhh": (ADHH(least=1.1), ADHH(least=0.1)),
    "damro": (DAMRO(strength=0.0, plausible=0.0), DAMRO(share=0.2)),
    "deco": (DeCo(strength=0.0), DeCo()),
    "dola": (DoLa(strength=0.0, plausible=0.0), DoLa()),
    "eah": (EAH(threshold=1.0), EAH()),
    "hgai": (HGAI(strength=0.0), HGAI()),
    "icd": (ICD(strength=0.0, plausible=0.0), ICD(tokens=(5, 6, 7))),
    "ilvad": (ILVAD(strength=0.0), ILVAD(factor=1.1)),
    "m3id": (M3ID(decay=0.0), M3ID(decay=0.2)),
    "mod": (MoD(agreeing=0.0, contrast=0.0, plausible=0.0), MoD()),
    "only": (ONLY(agreeing=0.0, contrast=0.0, plausible=0.0), ONLY()),
    "pai": (PAI(strength=0.0, contrast=1.0), PAI()),
    "paint": (PAINT(local=0.0, summary=0.0, contrast=1.0), PAINT()),
    "plausible-only": (PlausibleOnly(least=0.0), PlausibleOnly()),
    "random-heads": (RandomHeads(strength=1.0), RandomHeads()),
    "sid": (SID(strength=0.0, plausible=0.0), SID(share=0.2)),
    "sla": (SLA(strength=0.0), SLA()),
    "spin": (SPIN(damping=1.0), SPIN()),
    "vaf": (VAF(image=1.0, system=1.0), VAF()),
    "var": (VAR(share=0.0, threshold=1.4), VAR(threshold=1.4, ratio=0.1, image_share=0.05)),
    "vcd": (VCD(strength=0.0, plausible=0.0), VCD()),
    "vhr": (VHR(strength=1.0), VHR()),
    "vista": (VISTA(strength=0.0), VISTA()),
}
# methods that one forward of a random model does not show: it has no words to be asked in and no
# token that ends its text, what acts on written text does nothing at first, vectors are made for
# one model, and some decode
APART = frozenset(
    {
        "adaiat", "guide", "eos-boost", "iat", "opera", "pti", "random-vector", "savva", "steer",
        "truncate", "vti", "yes-push",
    }
)  # fmt: skip


def read_probed() -> list[dict[str, Any]]:
    """`{"family", "methods", "checks", "notes"}` of every probed family; of each method by name
    "works", "refused", "unbuilt" or "unknown".
    """
    return json.loads((files("lvlm_fix.tools") / FILE.name).read_text())["families"]


@torch.no_grad()
def probe(family: str, names: Collection[str] = PROBES) -> dict[str, Any]:
    """Probe every method of these names on one family; never raises."""
    torch.manual_seed(0)
    row: dict[str, Any] = {
        "family": family,
        "methods": dict.fromkeys(names, "unknown"),
        "checks": {},
        "notes": {},
    }
    try:
        model = model_of(family)
        try:
            family_of(model)
        except LvlmFixError as error:
            row["notes"]["family"] = str(error)
            row["methods"] = dict.fromkeys(names, "refused")
            return row
        inputs = inputs_for(model)
        row["checks"]["image_tokens"] = int((inputs["input_ids"] == IMAGE).sum()) // len(
            inputs["input_ids"]
        )
        plain = model(**inputs).logits
        if plain.isnan().any():
            raise ArithmeticError("the unmodified miniature gives NaN")
        batched = batch_is_alike(model, inputs)
        row["checks"]["batch"] = (
            "works" if batched else "unknown: the unmodified model itself differs"
        )
        for name in names:
            neutral, acting = PROBES[name]
            try:
                row["methods"][name], note = judge(model, inputs, plain, neutral, acting, batched)
            except LvlmFixError as error:
                row["methods"][name], note = "refused", str(error)
            except Exception as error:
                note = line(error)
            if note:
                row["notes"][name] = note
        if len(names) < len(PROBES):
            return row
        row["checks"]["rows"] = rows_are_alike(model, inputs)
        row["checks"]["cache"] = cached(model, PROBES["var"][1])
    except ImportError as error:
        row["methods"], row["notes"]["family"] = dict.fromkeys(names, "unbuilt"), line(error)
    except Exception as error:
        row["notes"]["family"] = line(error)
    return row


def _alone(family: str, names: Collection[str]) -> dict[str, Any]:
    """Probe a family in a process of its own, so that a crash, a hang or want of memory ends only
    that process.
    """
    here, there = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_send, args=(family, names, there))
    process.start()
    there.close()
    try:
        return here.recv()
    except EOFError:
        process.join()
        reason = (
            f"the process ended with code {process.exitcode} (it may take {SECONDS} s and"
            f" {BYTES >> 30} GiB)"
        )
        return {
            "family": family,
            "methods": dict.fromkeys(names, "unknown"),
            "checks": {},
            "notes": {"family": reason},
        }


def _send(family: str, names: Collection[str], there: Connection) -> None:
    import resource  # not on every system

    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    there.send(probe(family, names))


def _joined(old: dict[str, Any] | None, new: dict[str, Any]) -> dict[str, Any]:
    """A family's row with what was probed anew; of methods that no longer are, nothing."""
    if old is None:
        return new
    methods, again = old["methods"] | new["methods"], new["methods"]
    notes = {k: n for k, n in old["notes"].items() if k == "family" or k in {*PROBES} - {*again}}
    return {
        "family": new["family"],
        "methods": {name: methods[name] for name in PROBES if name in methods},
        "checks": old["checks"] | new["checks"],
        "notes": notes | new["notes"],
    }


def main() -> None:
    """Probe the families named on the command line, or all; `--missing` probes the methods alone
    that a family's row lacks. Data and page are written after each.
    """
    from rich.progress import track

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    missing, named = "--missing" in sys.argv, [one for one in sys.argv[1:] if one != "--missing"]
    if unknown := {*named} - {*FAMILIES}:
        raise SystemExit(f"no such family here: {', '.join(sorted(unknown))}")
    chosen = named or FAMILIES
    rows = {row["family"]: row for row in read_probed()} if named or missing else {}
    before = json.loads(FILE.read_text())["transformers"]
    if rows and before != transformers.__version__:
        raise SystemExit(f"the others were probed on transformers {before}: install it")
    probe("llava")  # what all families import is imported once, before the processes part
    for family in track(chosen, "probing"):
        old = rows.get(family) if missing else None
        names = [name for name in PROBES if old is None or name not in old["methods"]]
        if not names:
            continue
        rows[family] = _joined(old, _alone(family, names))
        ordered = [rows[name] for name in FAMILIES if name in rows]
        found = {"transformers": transformers.__version__, "families": ordered}
        FILE.write_text(json.dumps(found, indent=1) + "\n")
        PAGE.write_text(page(found))
        print(
            family,
            *(f"{name}: {note}" for name, note in rows[family]["notes"].items()),
            sep="\n  ",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
