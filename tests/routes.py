"""Fast routes against the plain one, printed as JSON; run by `test_routes.py` in a process of its
own.

Of its own, because the shape checks of the tests wrap every function, which a compiler cannot
trace.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from typing import Any

import numpy as np
import torch
from cases import CASES as EVERY
from cases import SOME
from torch._dynamo import config, reset
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
from transformers import CompileConfig
from transformers.utils import logging

import lvlm_fix as lf
from lvlm_fix.core.passes import prompt_pass
from lvlm_fix.tools.miniature import miniature

logging.set_verbosity_error()
OPTIONS: dict[str, Any] = {
    "max_new_tokens": 6, "do_sample": False, "output_logits": True, "return_dict_in_generate": True,
}  # fmt: skip
VAR = lf.VAR(threshold=1.4, ratio=0.1, image_share=0.1)
SHAPE = np.arange(30, dtype=float).reshape(5, 6)
TABLE = lf.HeadTable("vhd", SHAPE, np.zeros_like(SHAPE), 1, "made-up", None, "", {})
CASES: dict[str, list[lf.Method]] = {
    "vhr": [lf.VHR()],
    "var+vhr": [VAR, lf.VHR(strength=1.5)],
    "pai": [lf.PAI()],
}


def difference(one: Any, other: Any) -> float:
    """The largest difference of the logits of two generated texts; tokens that both exclude hold
    −inf.
    """
    pairs = (
        (a.nan_to_num(neginf=-1e9), b.nan_to_num(neginf=-1e9))
        for a, b in zip(one.logits, other.logits, strict=True)
    )
    return max(float((a - b).abs().max()) for a, b in pairs)


def compiled() -> dict[str, Any]:
    """A static cache and a compiled decoding step: whole graphs, and an error where a token
    compiles anew.
    """
    out = {}
    how = CompileConfig(
        fullgraph=True, backend="eager", mode=None
    )  # the tracing is what can break; no C compiler
    how._compile_all_devices = True  # a CPU too
    static = OPTIONS | {"cache_implementation": "static", "compile_config": how}
    config.error_on_recompile = True
    steering = {"vista+steer": [lf.VISTA(), lf.Steer(vectors=SOME)]}
    for name, methods in (CASES | steering).items():
        reset()
        counters.clear()
        model, inputs = miniature("llava")
        with lf.fix(model, methods) as handle:
            wanted = model.generate(**inputs, **OPTIONS)
            edited = [report.rows_edited for report in handle.report()]
            found = model.generate(**inputs, **static)
            same = edited == [report.rows_edited for report in handle.report()]
            graphs = counters["stats"]["unique_graphs"]
            again = model.generate(**inputs, **static)
        out[name] = {
            "difference": max(difference(wanted, found), difference(wanted, again)),
            "edited": edited,
            "same_report": same,
            "graphs": graphs,
            "graphs_of_a_second_text": counters["stats"]["unique_graphs"] - graphs,
            "breaks": sum(counters["graph_break"].values()),
        }
    return out


def wrapped(part: int = 0, parts: int = 1) -> dict[str, float]:
    """A model that was compiled before it was fixed, and one that was compiled inside the block."""
    out = {}
    config.error_on_recompile = False
    for name, (_, methods) in list(EVERY.items())[part::parts]:
        reset()
        model, inputs = miniature("llava", samples=1)
        outer = torch.compile(model, backend="eager")
        plain = outer(**inputs).logits
        with lf.fix(model, methods):
            wanted = model(**inputs).logits
        with lf.fix(outer, methods):
            found = outer(**inputs).logits
            again = torch.compile(model, backend="eager")(**inputs).logits
        after = outer(**inputs).logits
        pairs = ((found, wanted), (again, wanted), (after, plain))
        floor = [(a.nan_to_num(neginf=-1e9), b.nan_to_num(neginf=-1e9)) for a, b in pairs]
        out[name] = max(float((a - b).abs().max()) for a, b in floor)
        out[f"{name} acts"] = float((floor[0][0] - plain).abs().max())
    return out


def int8() -> dict[str, Any] | None:
    """Weights in int8 against the same weights made floating again; None without torchao."""
    if importlib.util.find_spec("torchao") is None:
        return None
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    out = {}
    model, inputs = miniature("llava")
    quantize_(model.get_decoder(), Int8WeightOnlyConfig())
    plain, _ = miniature("llava")
    for name, parameter in plain.named_parameters():
        quantised = model.get_parameter(name)
        parameter.data = (
            quantised.dequantize() if type(quantised.data) is not torch.Tensor else quantised.data
        )
    bare = model.generate(**inputs, **OPTIONS)
    for name, methods in CASES.items():
        with lf.fix(model, methods):
            found = model.generate(**inputs, **OPTIONS)
        with lf.fix(plain, methods):
            wanted = plain.generate(**inputs, **OPTIONS)
        with lf.fix(model, lf.VHR(strength=1.0)):
            neutral = model.generate(**inputs, **OPTIONS)
        out[name] = {
            "difference": difference(wanted, found),
            "neutral": difference(bare, neutral),
            "acts": difference(bare, found),
        }
    return out


def devices() -> dict[str, list[tuple[str, str]]]:
    """Where each layer was and where its edited output is, with layers on two devices that are not
    there.

    Their tensors hold no data, and refuse to mix devices as real ones do. A real prefill's state is
    moved to the first device (and what belongs to a layer to that layer's); then every layer's
    attention passes, prefill and decoding.
    """
    _setup_privateuseone_for_python_backend("pretended")
    out = {}
    others = {"spin+vaf": [lf.SPIN(), lf.VAF()], "table": [lf.VHR(table=TABLE)]}
    for name, methods in (CASES | others).items():
        for prefill in (True, False):
            model, inputs = miniature("llava")
            with lf.fix(model, methods) as handle:
                model(**inputs, use_cache=True)
                follower = handle._follower
                text = follower.last
                assert text is not None
                ids, width = inputs["input_ids"], inputs["input_ids"].shape[1]
                now = (
                    prompt_pass(text, ids, 0, width)
                    if prefill
                    else text.advance(ids[:, :1], None, None)
                )
                with FakeTensorMode(allow_non_fake_inputs=True) as mode:
                    places = [torch.device("pretended", int(layer > 2)) for layer in range(5)]
                    moved(mode, (text, now), places[0])
                    for state in text.kept.values():
                        if (
                            prefill
                            and name != "table"
                            and isinstance(state.__dict__.get("found"), dict)
                        ):
                            state.__dict__["found"].clear()  # to be chosen in this pass
                        for found in vars(state).values():
                            for layer, one in found.items() if isinstance(found, dict) else ():
                                if isinstance(one, torch.Tensor):
                                    found[layer] = mode.from_tensor(one.clone()).to(places[layer])
                                else:
                                    moved(mode, (one,), places[layer])
                    text.device = places[0]
                    found = []
                    follower.turns.now = now
                    rows, keys = (width, width) if prefill else (1, width + 1)
                    for place, module in zip(places, handle.family.attentions, strict=True):
                        query, key, value = (
                            torch.empty(len(ids), heads, n, 8, device=place)
                            for heads, n in ((6, rows), (2, keys), (2, keys))
                        )
                        mask = torch.ones(len(ids), 1, rows, keys, dtype=torch.bool, device=place)
                        site = module.__dict__["_lvlm_fix"]
                        output, _ = site.attend(
                            unedited, module, query, key, value, mask, scaling=0.3
                        )
                        found.append((str(place), str(output.device)))
                    follower.turns.now = None
            out[f"{name}, {'prefill' if prefill else 'decoding'}"] = found
    return out


def moved(mode: FakeTensorMode, holders: Any, place: torch.device) -> None:
    """Tensors of these objects, on another device; what lies on the CPU on purpose stays."""
    for held in holders:
        for field, value in list(vars(held).items()):
            if isinstance(value, torch.Tensor) and field not in ("shown", "valid", "prompt_ids"):
                setattr(held, field, mode.from_tensor(value.clone()).to(place))


def unedited(_: Any, query: torch.Tensor, *rest: Any, **more: Any) -> tuple[torch.Tensor, None]:
    """An attention of the right shape."""
    return query.transpose(1, 2), None


if __name__ == "__main__":
    route, *part = sys.argv[1:]
    routes: dict[str, Any] = {
        "compiled": compiled, "wrapped": wrapped, "int8": int8, "devices": devices
    }  # fmt: skip
    with torch.no_grad():
        print(json.dumps(routes[route](*map(int, part))))
