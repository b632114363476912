"""SAVVA: by hand, and against plain full passes in which each row's edit is written out."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from beams import scores_are_those_of_the_texts
from torch import Tensor
from transformers.models.llama import modeling_llama

import lvlm_fix as lf
from lvlm_fix.method import AtLayer
from lvlm_fix.tools.miniature import IMAGE, miniature
from lvlm_fix.watches import Written
from lvlm_fix.watches.risk import risk_of

STEPS = 6
GREEDY: dict[str, Any] = {
    "max_new_tokens": STEPS, "min_new_tokens": STEPS, "do_sample": False,
    "suppress_tokens": [IMAGE], "output_logits": True, "return_dict_in_generate": True,
}  # fmt: skip


def test_the_risk_by_hand() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.25]]).log()
    grounded = torch.tensor([[0.75, 0.0, 0.0]])
    unsure = 1.5 * math.log(2) / math.log(3)  # H = ½·log 2 + ½·log 4
    found = risk_of(logits, grounded, 0.5, 2.0)
    torch.testing.assert_close(found, torch.tensor([(unsure / 2 + 0.25 / 2) / 2]))
    assert risk_of(logits, grounded, 0.5, 0.01).tolist() == [1.0]


def test_both_factors_by_hand() -> None:
    method = lf.SAVVA(image=1.5, text=2.0)
    # keys: the prompt's text, two image tokens, one written; the second sample has no risk
    image = torch.tensor([[False, True, True, False]] * 2)
    at = AtLayer(0, 5, False, image, image, torch.ones(2, 1, dtype=torch.bool), queries=1)
    written = torch.tensor([[False, False, False, True]])
    at.values = {method.risk(): torch.tensor([0.5, 0.0]), Written(): written}
    logits = torch.tensor([4.0, 4.0, -4.0, 4.0]).expand(2, 1, 1, 4)
    found = method.attention_logits(logits, at)[:, 0, 0]
    assert found.tolist() == [[2.0, 5.0, -5.0, 4.0], [4.0, 4.0, -4.0, 4.0]]


@torch.no_grad()
def test_every_step_equals_a_full_pass_in_which_each_row_has_its_own_risk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, inputs = miniature("llava")
    method = lf.SAVVA(image=1.5)
    with lf.fix(model, method):
        out = model.generate(**inputs, **GREEDY)
    model.set_attn_implementation({"text_config": "eager"})
    risks: list[float] = []
    ids: list[int] = []
    prompt = 0

    def attention(module, query, key, value, attention_mask, scaling, **kwargs):
        groups = query.shape[1] // key.shape[1]
        keys, values = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        logits = query @ keys.transpose(2, 3) * scaling
        for row in range(prompt, len(ids)) if module.layer_idx < 2 else ():
            if (risk := risks[row - prompt]) > 0:
                for j in range(prompt):
                    factor = 1 + 0.5 * risk if ids[j] == IMAGE else 1 / 1.7
                    logits[0, :, row, j] *= factor
        rows = torch.arange(len(ids))
        weights = logits.masked_fill(rows > rows[:, None], -math.inf).softmax(-1)
        return (weights @ values).transpose(1, 2).contiguous(), weights

    monkeypatch.setattr(modeling_llama, "eager_attention_forward", attention)
    changed, width = 0.0, inputs["input_ids"].shape[1]
    for sample in range(2):
        photo = inputs["pixel_values"][sample : sample + 1]
        real = inputs["attention_mask"][sample].bool()
        start = inputs["input_ids"][sample][real].tolist()
        prompt, risks = len(start), []
        grounded: Tensor | None = None
        for step, found in enumerate(out.logits):
            ids = start + out.sequences[sample, width : width + step].tolist()
            logits = model(input_ids=torch.tensor([ids]), pixel_values=photo).logits[0]
            if grounded is None:
                image = [j for j, token in enumerate(ids) if token == IMAGE]
                grounded = logits[image].softmax(-1).amax(0)
            torch.testing.assert_close(found[sample], logits[-1], atol=1e-5, rtol=0)
            p = logits[-1].softmax(-1)
            entropy = -float((p * p.log()).sum()) / math.log(len(p))
            risk = (0.5 * entropy + 0.5 * (1 - float(grounded[p.argmax()]))) / 0.5
            risks.append(min(1.0, risk))
            changed = max(changed, risk)
    assert changed > 0.1


def test_drafts_and_passes_without_cache_are_refused() -> None:
    model, inputs = miniature("llava", samples=1)
    with lf.fix(model, "savva"):
        for options in ({"use_cache": False}, {"prompt_lookup_num_tokens": 3}):
            with pytest.raises(lf.InputError, match="one token a pass"):
                model.generate(**inputs, **GREEDY, **options)


@torch.no_grad()
def test_the_risk_follows_beams_and_cuts() -> None:
    scores_are_those_of_the_texts(lf.SAVVA(image=1.5), GREEDY)
