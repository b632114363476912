"""A run that is killed and goes on gives the weights of one that is not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("onnx", reason="training needs the extra `train`")
from training import train

NAMES = ["dog", "cat", "pizza", "car", "person", "kite"]


def trained(coco: Path, work: Path) -> dict[str, Tensor]:
    trainer = train.Trainer(coco, work, held=1)
    trainer.row = {number: row for row, number in enumerate(sorted(trainer.data.ids))}
    views = [np.random.default_rng(0).normal(size=(6, train.PATCHES, 384)).astype(np.float16)]
    trainer.align(views, 1)
    trainer.joint(views, 4, size=2)
    return trainer.everything()


def test_a_killed_run_goes_on_as_an_unbroken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions = [
        {"image_id": i, "caption": f"A {name} on a street."} for i, name in enumerate(NAMES)
    ]
    (tmp_path / "captions_val2017.json").write_text(json.dumps({"annotations": captions}))
    (tmp_path / "splits.json").write_text(json.dumps({"train": list(range(6)), "test": []}))
    objects = {str(i): [name] for i, name in enumerate(NAMES)}
    (tmp_path / "objects_trainval2014.nltk.json").write_text(json.dumps(objects))
    monkeypatch.setattr(train, "KEEP", 2)
    whole = trained(tmp_path, tmp_path / "whole")
    update, calls = train.update, []

    def killed(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        update(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(train, "update", killed)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "align.safetensors").write_bytes(
        (tmp_path / "whole" / "align.safetensors").read_bytes()
    )
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, tmp_path / "broken")
    monkeypatch.setattr(train, "update", update)
    broken = trained(tmp_path, tmp_path / "broken")
    assert all(torch.equal(value, broken[name]) for name, value in whole.items())
