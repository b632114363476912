"""Nullu: the projection by hand and slowly, and an export that plain transformers loads."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lvlm_fix as lf
from lvlm_fix.families import family_of, mlp_of
from lvlm_fix.images import sample_photos
from lvlm_fix.models import DESCRIBE, prepare
from lvlm_fix.tools.miniature import miniature
from lvlm_fix.tools.nullu import Pair, directions, export, project, read_pairs, upper_layers

CAPTIONS = [
    ("A woman in a suit.", "A woman with a dog."),
    ("A cat on a bed.", "A cat on a bed by a bottle."),
    ("A cup of coffee.", "A cup and a fork and a cake."),
]


def pairs() -> list[Pair]:
    photos = sample_photos()
    return [Pair(lf.open_image(p), *c) for p, c in zip(photos, CAPTIONS, strict=False)]


def last(model: Any, layer: int) -> Tensor:
    return mlp_of(family_of(model).layers[layer]).down_proj.weight


def test_a_direction_is_taken_out_of_what_the_mlp_writes() -> None:
    model, _ = miniature("llava")
    before, other = last(model, 4).clone(), last(model, 3).clone()
    along = torch.zeros(1, len(before))
    along[0, 2] = 1.0  # the third channel of the width
    project(model, {4: along})
    before[2] = 0.0
    torch.testing.assert_close(last(model, 4), before)
    assert torch.equal(last(model, 3), other)
    assert upper_layers(32) == tuple(range(16, 32))


def test_the_export_equals_the_slow_equations(tiny: Any, tmp_path: Path) -> None:
    model, processor = tiny
    lines = [
        {"image": photo.name, "value": value, "h_value": wrong}
        for photo, (value, wrong) in zip(sample_photos(), CAPTIONS, strict=False)
    ]
    listed = tmp_path / "pairs.jsonl"
    listed.write_text("\n".join(map(json.dumps, lines)))
    folder = sample_photos()[0].parent
    record = export("tiny", tmp_path / "out", listed, folder, rank=2)
    found, _ = lf.load(str(tmp_path / "out"))
    assert record["layers"] == [3, 4, 5] and record["pairs"] == 3
    assert not list((tmp_path / "out").glob("*.bin"))
    exact = copy.deepcopy(model)
    project(exact, directions(exact, processor, read_pairs(listed, folder), (3, 4, 5), rank=2))
    for layer in range(6):
        if layer < 3:
            assert torch.equal(last(found, layer), last(model, layer))
            continue
        rows = []
        for pair in pairs():
            parts = []
            for text in (pair.value, pair.h_value):
                inputs = prepare(model, processor, [pair.image], [DESCRIBE])
                ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
                whole = torch.cat((inputs["input_ids"], torch.tensor([ids])), 1)
                more = dict(inputs) | {"input_ids": whole, "attention_mask": whole * 0 + 1}
                with torch.no_grad():
                    states = model(**more, output_hidden_states=True).hidden_states[layer + 1][0]
                parts.append(sum(states) / len(states))
            rows.append((parts[0] - parts[1]) / 2)
        stacked = torch.stack(rows)
        values, vectors = torch.linalg.eigh((stacked.T @ stacked).double())  # rising
        kept = vectors[:, values.argsort(descending=True)[:2]].float()
        wanted = (torch.eye(len(kept)) - kept @ kept.T) @ last(model, layer).float()
        torch.testing.assert_close(last(exact, layer), wanted, atol=1e-5, rtol=0)
        torch.testing.assert_close(last(found, layer).float(), wanted, atol=1e-5, rtol=1e-3)
    with pytest.raises(lf.DataError, match="exists already"):
        export("tiny", tmp_path / "out", listed, folder)


def test_half_precision_is_multiplied_in_full() -> None:
    model, _ = miniature("llava")
    model.bfloat16()
    before = last(model, 4).float()
    v = torch.nn.functional.normalize(torch.randn(1, len(before)), dim=-1)
    project(model, {4: v})
    wanted = (torch.eye(len(before)) - v.T @ v) @ before
    assert last(model, 4).dtype == torch.bfloat16
    torch.testing.assert_close(last(model, 4), wanted.bfloat16(), atol=1e-3, rtol=8e-3)


def test_what_cannot_be_projected_is_refused_and_nothing_changes(tiny: Any, tmp_path: Path) -> None:
    model, _ = miniature("llava")
    before = last(model, 3).clone()
    vector = torch.nn.functional.normalize(torch.ones(1, len(before)), dim=-1)

    class Adapted(nn.Linear):
        """As an adapter library wraps one."""

    part: Any = mlp_of(family_of(model).layers[4])
    part.down_proj = Adapted(*part.down_proj.weight.shape[::-1], bias=False)
    with pytest.raises(lf.ModelError, match="adapters merged"):
        project(model, {3: vector, 4: vector})
    assert torch.equal(last(model, 3), before)
    with pytest.raises(lf.DataError, match="as many pairs"):
        directions(*tiny, pairs(), (5,), rank=4)
    with pytest.raises(lf.DataError, match="fewer than 2 directions"):
        directions(*tiny, pairs()[:1] * 2, (5,), rank=2)
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"image": "cat.jpg", "value": "A cat."}')
    with pytest.raises(lf.DataError, match=r"bad\.jsonl, line 1"):
        list(read_pairs(bad, tmp_path))
