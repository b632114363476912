"""Write the trained parts as a stock LLaVA folder that plain transformers loads, torchvision or
not.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from tokenizers import processors
from torch import Tensor
from transformers import (
    CLIPImageProcessorPil,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from training.tower import MEAN, SIDE, STD, load_tower

__all__ = ["export"]

TEMPLATE = (
    "{% for message in messages %}{{ message['role'].upper() }}: {% if message['content'] is string"
    " %}{{ message['content'] }}{% else %}{% for part in message['content'] if part['type'] =="
    " 'image' %}<image>\n{% endfor %}{% for part in message['content'] if part['type'] == 'text'"
    " %}{{ part['text'] }}{% endfor %}{% endif %}{% if message['role'] == 'user' %}{{ ' ' }}{% else"
    " %}{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{%"
    " endif %}"
)


def export(
    decoder: dict[str, Tensor],
    projector: dict[str, Tensor],
    config: LlamaConfig,
    tokenizer: PreTrainedTokenizerFast,
    out: Path,
) -> None:
    """Write the model and its processor to `out` in float16; files already there (the
    card) stay.
    """
    tower = load_tower()
    image = tokenizer.convert_tokens_to_ids("<image>")
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=tower.config,
            text_config=config,
            image_token_index=image,
            image_seq_length=(SIDE // 14) ** 2,
            vision_feature_layer=-1,
            vision_feature_select_strategy="default",
            tie_word_embeddings=True,
        )
    )
    model.model.vision_tower.load_state_dict(tower.state_dict())
    model.model.multi_modal_projector.load_state_dict(projector)
    model.model.language_model.load_state_dict(
        {k[6:]: v for k, v in decoder.items() if k.startswith("model.")}
    )
    model.tie_weights()
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=128,
        do_sample=False,
    )
    bos = tokenizer.bos_token
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, tokenizer.bos_token_id)]
    )
    square = {"height": SIDE, "width": SIDE}
    processor = LlavaProcessor(
        CLIPImageProcessorPil(
            size=square,
            crop_size=square,
            do_center_crop=False,
            image_mean=list(MEAN),
            image_std=list(STD),
        ),
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    partial = out.with_name(out.name + ".partial")
    model.to(torch.float16).save_pretrained(partial)
    processor.save_pretrained(partial)
    out.mkdir(parents=True, exist_ok=True)
    for file in partial.iterdir():
        file.chmod(0o644)
        file.replace(out / file.name)
    shutil.rmtree(partial)
