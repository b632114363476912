"""The language model under `small`: one GGUF file, checked, and what is read from it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lvlm_fix.errors import ModelError

__all__ = ["LOCAL", "Base", "base_file"]

REPOSITORY = "Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF"
REVISION = "ebb2015119c907b064c512bf053e945850b5875f"
FILE = "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"
SHA256 = "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"
SIZE = 491_400_064  # bytes
LOCAL = "LVLM_FIX_SMALL_BASE"
LAYERS = 24
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|image_pad|>")
"""What ends, opens and closes a turn, and stands for a patch: the last tokens, in this order."""


def base_file() -> Path:
    """The GGUF file, checked: `LVLM_FIX_SMALL_BASE` (the file or its folder), or from the hub.

    The hub's client keeps the file in its cache, shows a progress bar, and goes on with a download
    that was cut off. Raises `ModelError`.
    """
    given = os.environ.get(LOCAL)
    file = Path(given).expanduser() if given else download()
    return checked(file / FILE if file.is_dir() else file)


def download() -> Path:
    """The file at its pinned revision, out of the hub's cache where it is there."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(REPOSITORY, FILE, revision=REVISION))
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise ModelError(
            f'the model "small" needs {FILE} ({SIZE / 1e6:.0f} MB) of {REPOSITORY}, and it cannot '
            f"be fetched ({type(error).__name__}); connect to the hub once, or set {LOCAL} to the "
            "file or to the folder that holds it"
        ) from error


def checked(file: Path) -> Path:
    """The same path, if this is the very file that the adapter was trained on."""
    if not file.is_file():
        raise ModelError(f"{LOCAL} names no file {file}: give {FILE} or the folder that holds it")
    found = file.stat().st_size
    if found != SIZE:
        raise ModelError(f"{file} has {found} bytes, not {SIZE}: give {FILE} of {REPOSITORY}")
    with file.open("rb") as source:
        digest = hashlib.file_digest(source, "sha256").hexdigest()
    if digest != SHA256:
        raise ModelError(
            f"{file} has sha256 {digest}, not {SHA256}: give {FILE} of {REPOSITORY} at {REVISION}"
        )
    return file


class Base:
    """What a GGUF file holds, with the vocabulary narrowed to the tokens `kept` (and `SPECIAL`)."""

    def __init__(self, file: Path, kept: Tensor) -> None:
        try:
            from gguf import GGUFReader
        except ImportError as error:
            raise ModelError(
                'the model "small" is made from a GGUF file, and the package gguf is not '
                "installed: pip install 'lvlm-fix[small]'"
            ) from error
        self.reader: Any = GGUFReader(file)
        self.tokens: list[str] = self.reader.fields["tokenizer.ggml.tokens"].contents()
        self.rows = [*kept.tolist(), *(self.tokens.index(token) for token in SPECIAL)]

    def tokenizer(self) -> Any:
        """A byte-level BPE that splits as Qwen's does and numbers the tokens that are left."""
        from tokenizers import AddedToken, Tokenizer
        from tokenizers.models import BPE
        from transformers import Qwen2Tokenizer

        words = {self.tokens[row]: n for n, row in enumerate(self.rows[: -len(SPECIAL)])}
        merges: list[tuple[str, str]] = []
        for line in self.reader.fields["tokenizer.ggml.merges"].contents():
            left, right = line.split(" ")
            if left in words and right in words and left + right in words:
                merges.append((left, right))
        made: Any = Tokenizer(BPE(vocab=words, merges=merges))
        stock: Any = Qwen2Tokenizer().backend_tokenizer
        made.normalizer, made.pre_tokenizer = stock.normalizer, stock.pre_tokenizer
        made.decoder = stock.decoder
        made.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
        return made

    def config(self) -> Any:
        """Of `Qwen2Model`, with embeddings that are the output matrix too."""
        from transformers import Qwen2Config

        size = len(self.rows)
        return Qwen2Config(
            vocab_size=size,
            hidden_size=896,
            intermediate_size=4864,
            num_hidden_layers=LAYERS,
            num_attention_heads=14,
            num_key_value_heads=2,
            rms_norm_eps=1e-6,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6},
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=size - 2,
            pad_token_id=size - 4,
        )

    def weights(self) -> dict[str, Tensor]:
        """Weights of `Qwen2Model` by its names, bfloat16."""
        from gguf import MODEL_ARCH, get_tensor_name_map
        from transformers import Qwen2Model

        with torch.device("meta"):
            names = list(Qwen2Model(self.config()).state_dict())
        known = get_tensor_name_map(MODEL_ARCH.QWEN2, LAYERS)
        stored = {tensor.name: tensor for tensor in self.reader.tensors}
        # the file stores the output matrix more finely than the embeddings, which are the same
        table = {"embed_tokens.weight": "output.weight"}
        found: dict[str, Tensor] = {}
        for name in names:
            theirs = table.get(name) or known.get_name(f"model.{name}", (".weight", ".bias"))
            found[name] = self.values(stored[theirs], name in table)
        return found

    def values(self, tensor: Any, narrowed: bool) -> Tensor:
        """A tensor in bfloat16, its kept rows only where it is `narrowed`."""
        from gguf import dequantize

        shape = [int(size) for size in reversed(tensor.shape)]
        raw = np.asarray(tensor.data).reshape(shape[0], -1)
        raw = raw[self.rows] if narrowed else raw
        full = dequantize(np.ascontiguousarray(raw), tensor.tensor_type)
        return torch.from_numpy(full.reshape(len(raw), *shape[1:]).copy()).bfloat16()
