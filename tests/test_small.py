"""The model `small`: the base is found, checked and narrowed; faults are named."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from lvlm_fix.errors import ModelError
from lvlm_fix.small import base as source
from lvlm_fix.small import folder as made


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that stands for the base: right name, size and hash."""
    file = tmp_path / source.FILE
    file.write_bytes(b"a language model")
    monkeypatch.setattr(source, "SIZE", 16)
    monkeypatch.setattr(source, "SHA256", hashlib.sha256(b"a language model").hexdigest())
    return file


@pytest.mark.parametrize("by", ["file", "folder"])
def test_the_base_is_a_given_file_or_lies_in_a_given_folder(
    fake: Path, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(source.LOCAL, str(fake if by == "file" else fake.parent))
    assert source.base_file() == fake


def test_another_file_is_refused(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(source.LOCAL, str(fake))
    fake.write_bytes(b"A language model")
    with pytest.raises(ModelError, match=r"has sha256 .*, not "):
        source.base_file()
    fake.write_bytes(b"short")
    with pytest.raises(ModelError, match="has 5 bytes, not 16"):
        source.base_file()
    fake.unlink()
    with pytest.raises(ModelError, match=r"names no file .*give qwen.*\.gguf"):
        source.base_file()


def test_offline_there_is_one_error_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    def absent(*_: Any, **__: Any) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("offline")

    monkeypatch.delenv(source.LOCAL, raising=False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", absent)
    with pytest.raises(ModelError, match=f"cannot be fetched.*set {source.LOCAL}"):
        source.base_file()


def test_the_hub_is_asked_for_the_pinned_revision(
    fake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    asked: list[Any] = []

    def fetched(*words: Any, **settings: Any) -> str:
        asked.append((words, settings))
        return str(fake)

    monkeypatch.delenv(source.LOCAL, raising=False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetched)
    assert source.base_file() == fake
    assert asked == [((source.REPOSITORY, source.FILE), {"revision": source.REVISION})]


def test_without_gguf_the_extra_is_named(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ModelError, match=r"lvlm-fix\[small\]"):
        source.Base(fake, torch.tensor([0]))


def test_a_matrix_with_an_adapter_is_w_plus_b_a() -> None:
    weights = {"layers.0.x.weight": torch.ones(2, 3).bfloat16(), "norm.weight": torch.ones(3)}
    adapter = {
        "model.layers.0.x.lora_A.weight": torch.tensor([[1.0, 2.0, 4.0]]),
        "model.layers.0.x.lora_B.weight": torch.tensor([[1.0], [-1.0]]),
    }
    out = made.merged(weights, adapter)
    assert out["layers.0.x.weight"].tolist() == [[2.0, 3.0, 5.0], [0.0, -1.0, -3.0]]
    assert out["norm.weight"] is weights["norm.weight"]
    assert weights["layers.0.x.weight"].tolist() == [[1.0] * 3] * 2


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise ModelError("no")

    monkeypatch.setattr(made, "Base", lambda *_: None)
    monkeypatch.setattr(made, "assembled", broken)
    with pytest.raises(ModelError, match="no"):
        made.write(tmp_path, made.small_adapter(), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))
    calls: list[Path] = []

    def written(_: Path, __: Path, out: Path) -> None:
        out.mkdir(parents=True)
        calls.append(out)

    monkeypatch.setattr(made, "base_file", lambda: tmp_path)
    monkeypatch.setattr(made, "write", written)
    assert made.folder() == made.folder() == calls[0]
    assert len(calls) == 1


@pytest.mark.skipif(
    not os.environ.get(source.LOCAL), reason=f"needs the base: set {source.LOCAL} to the GGUF file"
)
def test_small_loads_and_answers(
    tmp_path: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import lvlm_fix as lf

    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))
    model, processor = lf.load("small", dtype=torch.bfloat16)
    image = lf.open_image(photos[0])
    (text,) = lf.answer(
        model, processor, [image], ["Is there a person in the image?"], max_new_tokens=3
    )
    assert text in {"Yes", "No"}
