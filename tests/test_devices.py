"""Layers in several places: offloaded to memory or disk, and on two devices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from test_routes import measured

import lvlm_fix as lf
from lvlm_fix.tools.miniature import miniature

VAR = lf.VAR(threshold=1.4, ratio=0.1, image_share=0.1)
METHODS = [[VAR, lf.VHR()], [lf.PAI(), lf.VAR(rule="received", received=1.2, ratio=0.0)]]
GREEDY: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "output_logits": True}


@pytest.mark.parametrize("where", ["memory", "disk"])
@pytest.mark.parametrize("methods", METHODS)
def test_an_offloaded_model_gives_the_same(
    methods: list[lf.Method], where: str, tmp_path: Path
) -> None:
    model, inputs = miniature("llava")
    with lf.fix(model, methods) as handle:
        wanted = model.generate(**inputs, **GREEDY, return_dict_in_generate=True)
        reports = handle.report()
    if where == "disk":
        disk_offload(model, str(tmp_path), execution_device=torch.device("cpu"))
    else:
        cpu_offload(model, execution_device=torch.device("cpu"))
    assert model.get_decoder().layers[3].self_attn.o_proj.weight.device.type == "meta"
    with lf.fix(model, methods) as handle:
        found = model.generate(**inputs, **GREEDY, return_dict_in_generate=True)
        assert handle.report() == reports
    for one, other in zip(found.logits, wanted.logits, strict=True):
        assert torch.equal(one, other)


def test_edits_stay_on_the_device_of_their_layer() -> None:
    for name, places in measured("devices").items():
        assert {layer for layer, _ in places} == {"pretended:0", "pretended:1"}, name
        assert all(layer == found for layer, found in places), name
