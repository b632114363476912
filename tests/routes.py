"""Fast routes against the plain one, printed as JSON; run by `test_routes.py` in a process of its own.

Of its own, because the shape checks of the tests wrap every function, which a compiler cannot trace.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from typing import Any

import torch
from torch._dynamo import config, reset
from torch._dynamo.utils import counters
from transformers import CompileConfig
from transformers.utils import logging

import lvlm_fix as lf
from lvlm_fix.families.miniature import miniature

logging.set_verbosity_error()
OPTIONS: dict[str, Any] = {
    "max_new_tokens": 6, "do_sample": False, "output_logits": True, "return_dict_in_generate": True,
}  # fmt: skip
VAR = lf.VAR(threshold=1.4, ratio=0.1, image_share=0.1)
CASES: dict[str, list[lf.Method]] = {"vhr": [lf.VHR()], "var+vhr": [VAR, lf.VHR(strength=1.5)], "pai": [lf.PAI()]}


def difference(one: Any, other: Any) -> float:
    """The largest difference of the logits of two generated texts; tokens that both exclude hold −inf."""
    pairs = (
        (a.nan_to_num(neginf=-1e9), b.nan_to_num(neginf=-1e9)) for a, b in zip(one.logits, other.logits, strict=True)
    )
    return max(float((a - b).abs().max()) for a, b in pairs)


def compiled() -> dict[str, Any]:
    """A static cache and a compiled decoding step: whole graphs, and an error where a token compiles anew."""
    out = {}
    how = CompileConfig(fullgraph=True, backend="eager", mode=None)  # the tracing is what can break; no C compiler
    how._compile_all_devices = True  # a CPU too
    static = OPTIONS | {"cache_implementation": "static", "compile_config": how}
    config.error_on_recompile = True
    for name, methods in CASES.items():
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
        parameter.data = quantised.dequantize() if type(quantised.data) is not torch.Tensor else quantised.data
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


if __name__ == "__main__":
    print(json.dumps({"compiled": compiled, "int8": int8}[sys.argv[1]]()))
