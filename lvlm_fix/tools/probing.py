"""What was probed to work, family by family; `python -m lvlm_fix.tools.probing` probes anew and
writes it down.

Values are never guessed. A method "works" on a family where, on a tiny random-weight model, neutral
settings are bit-equal, acting settings change the logits without NaN and a left-padded batch gives
what its samples give one by one; "refused" is our own error; anything else is "unknown", with the
reason.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import traceback
from collections import Counter
from dataclasses import dataclass
from importlib.resources import files
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from lvlm_fix.attach import fix
from lvlm_fix.errors import LvlmFixError
from lvlm_fix.families.family import family_of
from lvlm_fix.method import AtLayer, Method
from lvlm_fix.methods import (
    ACT,
    ADHH,
    DAMRO,
    EAH,
    HGAI,
    ICD,
    ILVAD,
    M3ID,
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
from lvlm_fix.tools.miniature import FAMILIES, IMAGE, inputs_for, model_of, sample

__all__ = ["PROBES", "APART", "probe", "read_probed"]

FILE = Path(__file__).parent / "probed.json"
PAGE = Path(__file__).parents[2] / "docs" / "families.md"
INTRO = """# What works with which family

Every image-text-to-text architecture of transformers {}, probed on tiny random-weight models by
`python -m lvlm_fix.tools.probing`. *yes*: neutral settings are bit-equal, acting settings change
the logits without NaN, a left-padded batch gives what its samples give one by one. *no*: refused,
with the reason. *?*: could not be determined. Random weights say that an edit arrives, not that it
helps. *Rows*: the rows that edits recompute are the model's own. *Batch* and *cache* (decoding
gives what one pass gives, under VAR) are given where they could be told.
"""
SECONDS, BYTES = 20, 8 << 30  # what one family may take: processor time, memory
CLOSE: dict[str, Any] = {"atol": 5e-5, "rtol": 1e-3}
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
# methods with tests of their own: a random model has no words to be asked in and no token that ends
# its text, what acts on written text does nothing at first, and vectors are made for one model
APART = frozenset(
    {
        "adaiat",
        "guide",
        "eos-boost",
        "iat",
        "random-vector",
        "savva",
        "steer",
        "truncate",
        "vti",
        "yes-push",
    }
)


def read_probed() -> list[dict[str, Any]]:
    """`{"family", "methods": {name: "works" | "refused" | "unknown"}, "checks", "notes"}` of every
    probed family.
    """
    return json.loads((files("lvlm_fix.tools") / FILE.name).read_text())["families"]


@torch.no_grad()
def probe(family: str) -> dict[str, Any]:
    """Probe every method on one family; never raises."""
    torch.manual_seed(0)
    row: dict[str, Any] = {
        "family": family,
        "methods": dict.fromkeys(PROBES, "unknown"),
        "checks": {},
        "notes": {},
    }
    try:
        model = model_of(family)
        try:
            family_of(model)
        except LvlmFixError as error:
            row["notes"]["family"] = str(error)
            row["methods"] = dict.fromkeys(PROBES, "refused")
            return row
        inputs = inputs_for(model)
        row["checks"]["image_tokens"] = int((inputs["input_ids"] == IMAGE).sum()) // len(
            inputs["input_ids"]
        )
        plain = model(**inputs).logits
        if plain.isnan().any():
            raise ArithmeticError("the unmodified miniature gives NaN")
        batched = _batched(model, inputs)
        row["checks"]["batch"] = (
            "works" if batched else "unknown: the unmodified model itself differs"
        )
        for name, (neutral, acting) in PROBES.items():
            try:
                row["methods"][name], note = _judge(model, inputs, plain, neutral, acting, batched)
            except LvlmFixError as error:
                row["methods"][name], note = "refused", str(error)
            except Exception as error:
                note = _line(error)
            if note:
                row["notes"][name] = note
        row["checks"]["rows"] = _rows(model, inputs)
        row["checks"]["cache"] = _cached(model)
    except Exception as error:
        row["notes"]["family"] = _line(error)
    return row


def _judge(
    model: PreTrainedModel,
    inputs: dict[str, Tensor],
    plain: Tensor,
    neutral: Method,
    acting: Method,
    batched: bool,
) -> tuple[str, str]:
    """ "works", or "unknown" with the reason."""
    with fix(model, neutral):
        if not torch.equal(model(**inputs).logits, plain):
            return "unknown", "neutral settings change the logits"
    with fix(model, acting) as handle:
        changed = model(**inputs).logits
        if changed.isnan().any():
            return "unknown", "acting settings give NaN"
        if torch.equal(changed, plain):
            return (
                "unknown",
                f"acting settings change nothing: {handle.report()[0].note or 'no reason known'}",
            )
        if batched and not _batched(model, inputs):
            return "unknown", "a padded batch differs from its samples one by one"
    return "works", ""


def _batched(model: PreTrainedModel, inputs: dict[str, Tensor]) -> bool:
    """Whether a left-padded batch gives what its samples give one by one."""
    together = model(**inputs).logits[:, -1]
    alone = torch.cat(
        [model(**sample(inputs, number)).logits[:, -1] for number in range(len(together))]
    )
    return torch.allclose(together, alone, **CLOSE)


@dataclass(frozen=True)
class HalfWeights(Method):
    """Half of every weight: in the last layer of the prompt, in all layers of a new token."""

    def attention_weights(self, weights: Tensor, at: AtLayer) -> Tensor:
        return weights / 2 if not at.prefill or at.layer == at.layers - 1 else weights


@dataclass(frozen=True)
class HalfOutputs(Method):
    """The same by the heads' outputs: equal to half the weights where rows are computed as the
    model computes them.
    """

    def head_outputs(self, outputs: Tensor, at: AtLayer) -> Tensor:
        return outputs / 2 if not at.prefill or at.layer == at.layers - 1 else outputs


def _rows(model: PreTrainedModel, inputs: dict[str, Tensor]) -> str:
    """Whether rows that edits recompute are what the model's attention computes, mask, scale and
    window included.
    """
    options = {
        "max_new_tokens": 2,
        "min_new_tokens": 2,
        "do_sample": False,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    found = []
    try:
        for half in (HalfWeights(), HalfOutputs()):
            with fix(model, half):
                out: Any = model.generate(**inputs, **options)  # type: ignore[operator]
                found.append(torch.stack(out.logits))
    except Exception as error:
        return f"unknown: {_line(error)}"
    same = torch.allclose(found[0], found[1], **CLOSE)
    return "works" if same else "unknown: recomputed rows are not the model's"


def _cached(model: PreTrainedModel) -> str:
    """Whether decoding from the cache gives what one pass over prompt and text gives, under VAR.

    VAR alone, since most others look at the end of the prompt, which a longer prompt moves.
    """
    inputs = inputs_for(model, samples=1)
    acting = PROBES["var"][1]
    try:
        if not _continues(model, inputs):
            return "unknown: the unmodified model itself differs"
        with fix(model, acting):
            return "works" if _continues(model, inputs) else "unknown: cached and uncached differ"
    except Exception as error:
        return f"unknown: {_line(error)}"


def _continues(model: PreTrainedModel, inputs: dict[str, Tensor]) -> bool:
    options = {
        "max_new_tokens": 3,
        "do_sample": False,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    out: Any = model.generate(**inputs, **options)  # type: ignore[operator]
    ids = out.sequences[:, :-1]
    longer = dict(inputs, input_ids=ids, attention_mask=torch.ones_like(ids))
    for name in ("token_type_ids", "mm_token_type_ids"):
        if name in inputs:
            longer[name] = (ids == IMAGE).long() if inputs[name].any() else torch.zeros_like(ids)
    return torch.allclose(out.logits[-1], model(**longer).logits[:, -1], **CLOSE)


def _line(error: Exception) -> str:
    """An exception in one line, with the place that raised it."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words[:160]} ({Path(last.filename).name}:{last.lineno})"


def _alone(family: str) -> dict[str, Any]:
    """Probe a family in a process of its own, so that a crash, a hang or want of memory ends only
    that process.
    """
    here, there = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_send, args=(family, there))
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
            "methods": dict.fromkeys(PROBES, "unknown"),
            "checks": {},
            "notes": {"family": reason},
        }


def _send(family: str, there: Connection) -> None:
    import resource  # not on every system

    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    there.send(probe(family))


def page(rows: list[dict[str, Any]]) -> str:
    """The page of the results."""
    names = list(PROBES)

    def count(name: str) -> int:
        return sum(row["methods"].get(name) == "works" for row in rows)

    sign = {"works": "yes", "refused": "no", "unknown": "?"}
    lines = [
        INTRO.format(transformers.__version__),
        (
            f"Works on, of {len(rows)} families:"
            f" {', '.join(f'{name} {count(name)}' for name in names)}."
        ),
        "",
        f"| family | image tokens | {' | '.join(names)} | rows | batch | cache |",
        "|" + "---|" * (len(names) + 5),
    ]
    notes = []
    for row in rows:
        checks = row["checks"]
        told = [
            sign.get(str(checks.get(key, "unknown")).split(":")[0], "?")
            for key in ("rows", "batch", "cache")
        ]
        signs = [sign[row["methods"].get(name, "unknown")] for name in names]
        lines.append(
            f"| `{row['family']}` | {checks.get('image_tokens', '?')} |"
            f" {' | '.join(signs + told)} |"
        )
        reasons = Counter(row["notes"].values())
        for reason, _ in reasons.items():
            who = [name for name, note in row["notes"].items() if note == reason]
            notes.append(
                f"- `{row['family']}`"
                + ("" if who == ["family"] else f", {', '.join(who)}")
                + f": {reason}"
            )
        notes += [
            f"- `{row['family']}`, {k}: {v}"
            for k, v in checks.items()
            if str(v).startswith("unknown")
        ]
    known = {row["family"] for row in rows}
    if missing := [f"`{name}`" for name in FAMILIES if name not in known]:
        notes.append(f"- not probed yet, so nothing is known of them: {', '.join(missing)}")
    return "\n".join([*lines, "", "## Why not", "", *notes, ""])


def main() -> None:
    """Probe the families named on the command line, or all; data and page are written
    after each.
    """
    from rich.progress import track

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    chosen = sys.argv[1:] or FAMILIES
    rows = {} if chosen is FAMILIES else {row["family"]: row for row in read_probed()}
    probe("llava")  # what all families import is imported once, before the processes part
    for family in track(chosen, "probing"):
        rows[family] = _alone(family)
        ordered = [rows[name] for name in FAMILIES if name in rows]
        found = {"transformers": transformers.__version__, "families": ordered}
        FILE.write_text(json.dumps(found, indent=1) + "\n")
        PAGE.write_text(page(ordered))
        print(
            family,
            *(f"{name}: {note}" for name, note in rows[family]["notes"].items()),
            sep="\n  ",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
