"""DeCo, SLA and the plausibility control: by hand, and against plain full passes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import lvlm_fix as lf
from lvlm_fix.method import AtToken
from lvlm_fix.methods.deco import candidates
from lvlm_fix.tools.miniature import IMAGE, miniature


def test_candidates_are_the_fewest_that_reach_the_share() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    assert candidates(logits, 0.8, 20).tolist() == [[True, True, False, False]]
    assert candidates(logits, 0.85, 20).tolist() == [[True, True, True, False]]
    assert candidates(logits, 0.85, 1).tolist() == [[True, False, False, False]]


def test_deco_takes_the_layer_that_is_surest_of_a_candidate() -> None:
    last = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    # the second layer is surest of token 1 (.7); the third is surer of token 3, no candidate
    early = torch.tensor([[[0.4, 0.3, 0.2, 0.1], [0.1, 0.7, 0.1, 0.1], [0.1, 0.05, 0.05, 0.8]]])
    method = lf.DeCo(strength=0.5, share=0.9)
    at = AtToken(5, 0, dict.fromkeys(method.watches(5), early.log()))
    found = method.next_token_logits(last, at)
    wanted = last + 0.5 * 0.7 * early[:, 1].log()
    torch.testing.assert_close(found[:, :3], wanted[:, :3])
    assert found[0, 3] == -math.inf
    assert method.early(32).layers == tuple(range(20, 29))


def test_sla_mixes_the_mean_of_its_window() -> None:
    method = lf.SLA(strength=0.25)
    early = torch.tensor([[[4.0, 0.0, 2.0], [0.0, 4.0, 2.0]]])
    at = AtToken(5, 0, dict.fromkeys(method.watches(5), early))
    found = method.next_token_logits(torch.tensor([[1.0, 2.0, 3.0]]), at)
    torch.testing.assert_close(found, torch.tensor([[1.25, 2.0, 2.75]]))
    assert method.early(32).layers == tuple(range(26, 32))


def test_plausible_only_drops_the_unlikely() -> None:
    logits = torch.tensor([[0.5, 0.4, 0.1]]).log()
    found = lf.PlausibleOnly(least=0.5).next_token_logits(logits, AtToken(5))
    assert torch.equal(found[:, :2], logits[:, :2]) and found[0, 2] == -math.inf


def literal(method: Any, model: Any, ids: Tensor, photo: Tensor) -> Tensor:
    """The edited logits of the next token, from one plain full pass."""
    mask = torch.ones_like(ids)
    out = model(input_ids=ids, attention_mask=mask, pixel_values=photo, output_hidden_states=True)
    last, norm, head = out.logits[:, -1], model.get_decoder().norm, model.lm_head
    states = [state[:, -1] for state in out.hidden_states]  # what enters each layer
    if isinstance(method, lf.SLA):
        window = [head(states[layer]) for layer in method.early(5).layers]
        return 0.3 * sum(window) / len(window) + 0.7 * last
    best, chosen = torch.tensor(-1.0), last
    order = last.softmax(-1).sort(descending=True)
    count = int((order.values.cumsum(-1) < 0.9).sum()) + 1
    kept = order.indices[0, : min(count, 20)]
    for layer in method.early(5).layers:
        logits = head(norm(states[layer]))
        sure = logits.softmax(-1)[0, kept].max()
        if sure > best:
            best, chosen = sure, logits
    out_of = torch.full_like(last, -math.inf)
    out_of[0, kept] = (last + 0.6 * best * chosen)[0, kept]
    return out_of


@pytest.mark.parametrize("method", [lf.DeCo(), lf.SLA()])
@torch.no_grad()
def test_every_step_equals_a_full_pass(method: lf.Method) -> None:
    model, inputs = miniature("llava", samples=1)
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    with lf.fix(model, method):
        out = model.generate(
            **inputs, **options, suppress_tokens=[IMAGE], output_logits=True,
            return_dict_in_generate=True,
        )  # fmt: skip
    width = inputs["input_ids"].shape[1]
    for step, found in enumerate(out.logits):
        ids = out.sequences[:, : width + step]
        wanted = literal(method, model, ids, inputs["pixel_values"])
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
