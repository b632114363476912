"""PTI by hand, against the cache turned step by step, and its files."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import SHIFTS, cache_of, held
from safetensors.torch import save_file
from torch import Tensor

import lvlm_fix as lf
from lvlm_fix.core.text import Pass, Text
from lvlm_fix.method import AtLayer
from lvlm_fix.methods.pti import read_shifts
from lvlm_fix.tools.miniature import IMAGE, miniature


def test_one_head_by_hand() -> None:
    # x = (3, 4) against v = (−1, 0): cos(x, −v) = .6, so that n(x) + .5·1.6·n(v) = (−.2, .8)
    text = Text(None, (IMAGE,), 1, False, torch.device("cpu"))
    text.length = text.end = 3
    none = torch.zeros(1, 0, dtype=torch.bool)
    now = Pass(text, 0, 3, 3, True, True, None, none, none, torch.tensor([2]))
    image = torch.tensor([[True, False, False]])
    at = AtLayer(0, 1, True, image, ~image, image, prompt_rows=3, queries=3, now=now)
    shift = torch.tensor([-1.0, 0.0]).expand(2, 2, 1, 2)
    keys = torch.tensor([3.0, 4.0]).expand(1, 1, 3, 2)
    size = 5 / math.hypot(0.2, 0.8)
    moved, plain = [-0.2 * size, 0.8 * size], [3.0, 4.0]
    for where, rows in (
        ("both", [moved, moved, plain]),
        ("image", [moved, plain, plain]),
        ("text", [plain, moved, plain]),  # the last of the prompt is not in the cache yet
    ):
        method = lf.PTI(keys=0.5, values=0.0, where=where, vectors={0: shift})
        found, values = method.prompt_cache(keys, keys, at)
        torch.testing.assert_close(found[0, 0], torch.tensor(rows))
        assert values is keys


def turn(x: Tensor, v: Tensor, weight: float) -> Tensor:
    """The paper's edit of one row of one head."""
    size, long = float(x.norm()), float(v.norm())
    cosine = float(x @ v) / (size * long)
    moved = x / size + weight * (1 + max(0.0, -cosine)) * v / long
    return moved / float(moved.norm()) * size


@torch.no_grad()
def literally(model: Any, inputs: dict[str, Tensor], where: str, tokens: int) -> list[Tensor]:
    """Logits of a greedy text: the prompt without its last token, its cache turned row by row."""
    ids = inputs["input_ids"]
    short = {**inputs, "input_ids": ids[:, :-1], "attention_mask": torch.ones_like(ids[:, :-1])}
    for name in short:
        if name.endswith("type_ids"):
            short[name] = short[name][:, :-1]
    cache = cache_of(model(**short, use_cache=True))
    for layer, shift in SHIFTS.items():
        for which, weight in ((0, 0.1), (1, 0.6)):
            held_here = cache.layers[layer]
            states = held_here.values if which else held_here.keys
            for column in range(states.shape[2]):
                on_image = bool(ids[0, column] == IMAGE)
                last = column == states.shape[2] - 1
                place = 0 if on_image else 1
                if ("text" if place else "image") not in (
                    where,
                    where.replace("both", "image"),
                    where.replace("both", "text"),
                ):
                    continue  # fmt: skip
                if on_image or last:
                    for head in range(states.shape[1]):
                        v = shift[place, which, head]
                        states[0, head, column] = turn(states[0, head, column], v, weight)
    found, new = [], ids[:, -1:]
    for _ in range(tokens):
        found.append(model(input_ids=new, use_cache=True, **held(model, cache)).logits[:, -1])
        new = found[-1].argmax(-1, keepdim=True)
    return found


@pytest.mark.parametrize("where", ["both", "image", "text"])
def test_pti_equals_a_cache_turned_row_by_row(where: str) -> None:
    model, inputs = miniature("llava", samples=1)
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    with lf.fix(model, lf.PTI(vectors=SHIFTS, where=where)):
        out = model.generate(
            **inputs, **options, output_logits=True, return_dict_in_generate=True
        ).logits
    for ours, theirs in zip(out, literally(model, inputs, where, 4), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_a_copied_cache_is_not_turned_again_and_the_first_rows_stay() -> None:
    model, inputs = miniature("llava", samples=1)
    with torch.no_grad():
        plain = model(**inputs).logits
        with lf.fix(model, lf.PTI(vectors=SHIFTS)):
            out = model(**inputs, use_cache=True)
            assert torch.equal(out.logits[:, :-1], plain[:, :-1])
            cache = cache_of(out)
            other = copy.deepcopy(cache)
            kept = cache.layers[1].keys.clone()
            found = [
                model(input_ids=torch.tensor([[5]]), use_cache=True, **held(model, one)).logits
                for one in (cache, other)
            ]
            assert torch.equal(cache.layers[1].keys[:, :, :-1], kept)
            with pytest.raises(lf.InputError, match="pass it again"):
                cache.crop(-9)
        torch.testing.assert_close(*found)


def test_what_it_cannot_do_is_refused(tmp_path: Path) -> None:
    model, inputs = miniature("llava", samples=1)
    path = tmp_path / "shifts.safetensors"
    with pytest.raises(lf.SettingError, match=r"pti\.vectors=FILE"):
        lf.fix(model, "pti")
    with pytest.raises(lf.SettingError, match="hgai edits attention_logits by the old ones"):
        lf.fix(model, [lf.PTI(vectors=SHIFTS), lf.HGAI()])
    save_file({f"layer.{layer}": row for layer, row in SHIFTS.items()}, path)
    assert lf.PTI(vectors=str(path)).settings()["vectors"] == str(path)
    torch.testing.assert_close(read_shifts(path), SHIFTS)
    for tensors, said in (
        ({"layer.1": torch.zeros(2, 2, 3)}, r"layer\.1 must be 2 × 2"),
        ({"layer.1": torch.full((2, 2, 1, 1), math.nan)}, "finite"),
        ({"up.1": torch.zeros(2, 2, 1, 1)}, r"shifts\.safetensors"),
        ({}, "no vectors"),
    ):
        save_file(tensors, path)
        with pytest.raises(lf.DataError, match=said):
            lf.PTI(vectors=str(path))
    wide = {1: torch.ones(2, 2, 3, 8)}
    with (
        pytest.raises(lf.DataError, match="3 heads of 8, layer 1 of this model has 2 of 8"),
        lf.fix(model, lf.PTI(vectors=wide)),
    ):
        model(**inputs)
