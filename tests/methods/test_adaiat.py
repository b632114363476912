"""AdaIAT by hand and against full maps, and the curves that it goes by."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import literal
import numpy as np
import pytest
import torch
from cases import curves_of

import lvlm_fix as lf
from lvlm_fix.heads.curves import Curves, shipped_curves
from lvlm_fix.images import sample_photos
from lvlm_fix.method import AtLayer
from lvlm_fix.models import DESCRIBE, prepare
from lvlm_fix.objects.extract import surfaces
from lvlm_fix.tools.curving import measure_curves, shares
from lvlm_fix.tools.miniature import IMAGE, miniature
from lvlm_fix.watches import Levels, Written


def test_adaiat_raises_written_keys_by_each_heads_ratio_where_there_is_little() -> None:
    # two heads, keys 2 and 3 written; means .1 and .2, sum .3
    weights = torch.tensor([[[[0.5, 0.3, 0.1, 0.1]], [[0.4, 0.2, 0.1, 0.3]]]])
    none = torch.zeros(1, 4, dtype=torch.bool)
    written = torch.tensor([[False, False, True, True]])
    levels = Levels(torch.tensor([0.3, 0.1]), torch.tensor([0.2, 0.2]))  # M: 1.5 and .5; sums .4
    method = lf.AdaIAT(strength=2.0, level=0.5)
    at = AtLayer(3, 7, False, none, none, ~none[:, :1], {Written(): written}, queries=1)
    at.values = {Written(): written, method.calibrated: levels}
    at.logits = torch.zeros(1, 2, 1, 4)
    found = method.attention_weights(weights, at)  # τ = .4: it acts; factors 2 and 0
    first, second = [0.5, 0.3, 0.2, 0.2], [0.4, 0.2, 0.0, 0.0]
    wanted = [[x / 1.2 for x in first], [x / 0.6 for x in second]]
    torch.testing.assert_close(found[0, :, 0], torch.tensor(wanted))
    at.values = at.values | {method.calibrated: Levels(torch.tensor([0.1, 0.1]), levels.invented)}
    assert torch.equal(method.attention_weights(weights, at), weights)  # τ = .2 + .1: enough
    assert lf.AdaIAT(strength=0.0).attention_weights(weights, at) is weights


@pytest.mark.parametrize("samples", [1, 2])
def test_adaiat_equals_full_maps(samples: int) -> None:
    model, inputs = miniature("llava", samples=samples)
    curves = curves_of(5, 6)
    method = lf.AdaIAT(curves=curves, level=0.5)
    prompt, layer = inputs["input_ids"].shape[1], iter(range(10**6))
    options: dict[str, Any] = {
        "max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "output_logits": True,
        "return_dict_in_generate": True, "suppress_tokens": [IMAGE],
    }  # fmt: skip
    raised: list[bool] = []

    def edit(logits: Any, weights: Any, image: list[int], before: list[int]) -> torch.Tensor:
        # called for layers 1 and 2, every row, sample by sample
        at = 1 + (next(layer) // samples) % 2
        keys = range(prompt, weights.shape[1])
        if not keys:
            return weights
        inv, real = sum(curves.invented[at]), sum(curves.real[at])
        mean = sum(sum(float(weights[h, j]) for j in keys) / len(keys) for h in range(6))
        raised.append(mean < inv + 0.5 * (real - inv))
        if raised[-1]:
            for h in range(6):
                ratio = curves.real[at, h] / curves.invented[at, h]
                for j in keys:
                    weights[h, j] *= max(0.0, 1 + 6 * (ratio - 1))
                weights[h] /= weights[h].sum()
        return weights

    with torch.no_grad(), lf.fix(model, method):
        found = model.generate(**inputs, **options)
    ids = inputs["input_ids"]
    with torch.no_grad(), literal.rows(model, ids, IMAGE, edit, {1, 2}, True, True):
        wanted = model.generate(**inputs, **options)
    assert any(raised)
    for ours, theirs in zip(found.logits, wanted.logits, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_curves_are_what_full_maps_say_and_are_kept(tiny: Any, tmp_path: Path) -> None:
    model, processor = tiny
    photo = lf.open_image(sample_photos()[0])
    inputs = prepare(model, processor, [photo], [DESCRIBE])
    ids = processor.tokenizer("a cat on a bed", add_special_tokens=False)["input_ids"]
    found = shares(model, inputs, ids)
    whole = torch.cat((inputs["input_ids"], torch.tensor([ids])), 1)
    more = dict(inputs) | {"input_ids": whole, "attention_mask": torch.ones_like(whole)}
    for name in ("token_type_ids", "mm_token_type_ids"):
        if name in inputs:
            more[name] = torch.nn.functional.pad(inputs[name], (0, len(ids)))
    plain = model.get_decoder().config._attn_implementation
    model.set_attn_implementation("eager")
    with torch.no_grad():
        maps = model(**more, output_attentions=True).attentions
    model.set_attn_implementation(plain)
    start = inputs["input_ids"].shape[1]
    for token in range(1, len(ids)):
        row = start + token - 1
        for layer, one in enumerate(maps):
            wanted = one[0, :, row, start : row + 1].mean(-1)
            torch.testing.assert_close(found[token, layer], wanted, atol=1e-5, rtol=1e-4)
    curves = measure_curves(model, processor, [(photo, set(surfaces())), (photo, set())])
    assert curves.n_real and curves.n_invented and curves.photos == 2
    curves.save(tmp_path / "curves.json")
    read = Curves.load(tmp_path / "curves.json")
    np.testing.assert_allclose(read.real, curves.real, atol=1e-8)
    assert lf.AdaIAT(curves=str(tmp_path / "curves.json")).calibrated.curves is not None


def test_what_cannot_be_gone_by_is_refused(tmp_path: Path) -> None:
    model, _ = miniature("llava")
    with pytest.raises(lf.ModelError, match="no measured curves"):
        lf.fix(model, "adaiat")
    with pytest.raises(lf.DataError, match="6 × 8 layers × heads, this model has 5 × 6"):
        lf.fix(model, lf.AdaIAT(curves=curves_of(6, 8)))
    path = tmp_path / "bad.json"
    for text in ("{", '{"format": "lvlm-fix curves 1", "real": [[0]], "invented": [[1]]}'):
        path.write_text(text)
        with pytest.raises(lf.DataError, match=r"bad\.json"):
            lf.AdaIAT(curves=str(path))
    curves = shipped_curves("tiny")
    assert curves is not None and math.prod(curves.real.shape) == 48
