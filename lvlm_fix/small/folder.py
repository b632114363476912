"""The model `small` as a stock LLaVA folder, made once from the base, the adapter and the tower."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoProcessor,
    GenerationConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from lvlm_fix.small.base import SPECIAL, Base, base_file

__all__ = ["assembled", "folder", "merged", "processor_of", "small_adapter"]

KEPT = "kept_tokens"
PROJECTOR = "multi_modal_projector."
CHAT = (
    "{% for turn in messages %}{{ '<|im_start|>' + turn.role + '\n' }}"
    "{% if turn.content is string %}{{ turn.content }}{% else %}"
    "{% for part in turn.content if part.type == 'image' %}{{ '<|image_pad|>\n' }}{% endfor %}"
    "{% for part in turn.content if part.type == 'text' %}{{ part.text }}{% endfor %}"
    "{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def small_adapter() -> Path:
    """The shipped adapter: LoRA (B times its scale), projector, and the tokens that are kept."""
    return Path(str(files("lvlm_fix") / "small" / "adapter.safetensors"))


def folder() -> Path:
    """The folder of `small`, 0.8 GB, made in a minute where it is not there yet.

    It lies in the hub's cache, under a name that changes with the adapter. Raises `ModelError`.
    """
    from huggingface_hub.constants import HF_HOME

    adapter = small_adapter()
    mark = hashlib.sha256(adapter.read_bytes()).hexdigest()[:16]
    made = Path(HF_HOME) / "lvlm_fix" / f"small-{mark}"
    if not made.exists():
        write(base_file(), adapter, made)
    return made


def write(base: Path, adapter: Path, out: Path) -> None:
    """Write the folder under another name first: what lies at `out` is whole."""
    parts = load_file(adapter)
    source = Base(base, parts.pop(KEPT))
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f"{out.name}.", suffix=".partial", dir=out.parent))
    try:
        assembled(source, parts).save_pretrained(partial)
        processor_of(source).save_pretrained(partial)
        for file in partial.iterdir():
            file.chmod(0o644)
        partial.chmod(0o755)
        try:
            os.rename(partial, out)
        except OSError:  # another process made it meanwhile
            if not out.exists():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def merged(weights: dict[str, Tensor], adapter: dict[str, Tensor]) -> dict[str, Tensor]:
    """W + BA for every matrix that has an adapter; names are those of `Qwen2Model`."""
    out = dict(weights)
    for name in adapter:
        if name.endswith("lora_A.weight"):
            stem = name.removesuffix("lora_A.weight")
            low, high = adapter[name].float(), adapter[stem + "lora_B.weight"].float()
            mine = stem.removeprefix("model.") + "weight"
            out[mine] = (weights[mine].float() + high @ low).bfloat16()
    return out


def assembled(base: Base, adapter: dict[str, Tensor]) -> LlavaForConditionalGeneration:
    """The whole model in bfloat16: the tower of the embedded model, projector, decoder."""
    tiny: Any = LlavaForConditionalGeneration.from_pretrained(str(files("lvlm_fix") / "tiny"))
    size = len(base.rows)
    config = LlavaConfig(
        vision_config=tiny.config.vision_config,
        text_config=base.config(),
        image_token_index=size - 1,
        image_seq_length=256,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )
    model: Any = LlavaForConditionalGeneration(config)
    model.to(torch.bfloat16)
    model.model.language_model.load_state_dict(merged(base.weights(), adapter))
    model.model.vision_tower.load_state_dict(tiny.model.vision_tower.state_dict())
    projector = {
        k.removeprefix(PROJECTOR): v for k, v in adapter.items() if k.startswith(PROJECTOR)
    }
    model.model.multi_modal_projector.load_state_dict(projector)
    model.tie_weights()
    model.generation_config = GenerationConfig(
        eos_token_id=size - 2, pad_token_id=size - 4, max_new_tokens=128, do_sample=False
    )
    return model


def processor_of(base: Base) -> LlavaProcessor:
    """The photos of the embedded model, squeezed to 224 pixels; one image token a patch."""
    shown = logging.get_verbosity()
    logging.set_verbosity_error()  # one warning per image processor where torchvision is absent
    try:
        tiny: Any = AutoProcessor.from_pretrained(str(files("lvlm_fix") / "tiny"))
    finally:
        logging.set_verbosity(shown)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=base.tokenizer(),
        eos_token=SPECIAL[2],
        pad_token=SPECIAL[0],
        additional_special_tokens=[SPECIAL[1], SPECIAL[3]],
        padding_side="left",
        model_max_length=8192,
    )
    return LlavaProcessor(
        tiny.image_processor,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT,
        image_token=SPECIAL[3],
    )
