"""Tiny random-weight models of every family, from the families' own default configurations: for
tests and probing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import CONFIG_MAPPING, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

__all__ = ["FAMILIES", "IMAGE", "miniature"]

FAMILIES = tuple(
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
)  # every image-text-to-text architecture installed
IMAGE, FIRST, LAST, WORDS = 90, 91, 92, 128  # ids of special tokens, and the size of the vocabulary
LAYERS, HEADS, DIM = 5, 6, 8  # of the decoder

# what a configuration's sizes become, where it has them, in the decoder and in every other part
KNOWN = {
    "image_token_id": IMAGE, "image_token_index": IMAGE, "vision_start_token_id": FIRST,
    "image_start_token_id": FIRST,
    "vision_end_token_id": LAST, "image_end_token_id": LAST,
}  # fmt: skip
SPECIAL = {"bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0, "decoder_start_token_id": 1}
BOTH: dict[str, Any] = {
    "vocab_size": WORDS, "vocab_size_per_layer_input": WORDS, "max_position_embeddings": 512,
    "initializer_range": 0.15,
    "init_std": 0.15, "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2, "moe_k": 2, "moe_topk": 2, "moe_intermediate_size": 16, "n_group": 1,
    "topk_group": 1,
    "n_shared_experts": 1, "moe_num_shared_experts": 1, "first_k_dense_replace": 1,
    "shared_expert_intermediate_size": 16,
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": DIM, "qk_rope_head_dim": 4,
    "v_head_dim": DIM,
    "qk_head_dim": 12, "sliding_window": 8, "hidden_size_per_layer_input": 8,
    "num_kv_shared_layers": 1,
    "linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "mm_tokens_per_image": 4, "vision_soft_tokens_per_image": 4, "image_seq_length": 4,
    "num_query_tokens": 5,
    "vision_feature_layer": -1, "num_mel_bins": 8,
}  # fmt: skip
TEXT: dict[str, Any] = {
    "hidden_size": HEADS * DIM, "d_model": HEADS * DIM, "embed_dim": HEADS * DIM,
    "word_embed_proj_dim": HEADS * DIM,
    "intermediate_size": 40, "ffn_dim": 40, "d_ff": 40, "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 40,
    "intermediate_size_mlp": 40,
    "dense_intermediate_size": 40, "shared_intermediate_size": 40, "num_hidden_layers": LAYERS,
    "num_layers": LAYERS,
    "layers": LAYERS, "encoder_layers": 2, "decoder_layers": LAYERS, "num_attention_heads": HEADS,
    "attention_heads": HEADS,
    "num_heads": HEADS, "encoder_attention_heads": HEADS, "decoder_attention_heads": HEADS,
    "num_key_value_heads": 2,
    "head_dim": DIM, "global_head_dim": DIM,
}  # fmt: skip
VISION: dict[str, Any] = {
    "hidden_size": 32, "d_model": 32, "embed_dim": 32, "intermediate_size": 40, "ffn_dim": 40,
    "d_ff": 40,
    "num_hidden_layers": 2, "num_layers": 2, "depth": 2, "encoder_layers": 2,
    "num_attention_heads": 4, "num_heads": 4,
    "attention_heads": 4, "encoder_attention_heads": 4, "num_key_value_heads": 4, "head_dim": DIM,
    "encoder_hidden_size": 32,
    "projection_dim": HEADS * DIM,
    "out_hidden_size": HEADS * DIM, "output_dim": HEADS * DIM,
    "text_hidden_size": HEADS * DIM,
    "deepstack_visual_indexes": [0, 1], "fullatt_block_indexes": [1], "resampler_n_latents": 5,
    "resampler_depth": 1,
    "resampler_n_heads": 4, "resampler_head_dim": DIM, "output_channels": 16,
    "global_attn_indexes": [1],
    "resolution": 32, "base_channels": 32, "num_embeddings": 8, "codebook_size": 8,
}  # fmt: skip
TOP: dict[str, Any] = {
    "hidden_size": HEADS * DIM,
    "projector_hidden_size": 32,
    "projection_dim": HEADS * DIM,
}
ROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
MROPE = {"text_config": {"rope_parameters": ROPE}}
WHOLE = {"text_config": {"rope_parameters": ROPE | {"partial_rotary_factor": 1.0}}}
EQUAL = {"num_key_value_heads": HEADS}
ENTRIES: dict[str, dict[str, Any]] = {  # what the rules cannot know of a family
    "aria": {"projector_patch_to_query_dict": {16: 4}},
    "chameleon": {
        "vocabulary_map": {"<image>": IMAGE}
        | {f"IMGIMG{chr(65 + i)}Z": 100 + i for i in range(8)}
    },
    "cohere_compass": {"text_config": {"rope_parameters": {"full_attention": ROPE,
    "sliding_attention": ROPE}}},
    "deepseek_ocr2": {"text_config": {"mlp_layer_types": ["dense", *["sparse"] * (LAYERS - 1)]}},
    "ernie4_5_vl_moe": MROPE,
    "glm46v": WHOLE, "glm4v": WHOLE, "glm4v_moe": WHOLE, "glm_ocr": WHOLE, "glmga": WHOLE,
    "glm5_next": {"text_config": EQUAL},
    "got_ocr2": {"vision_config": {"image_size": 128}},
    "pp_chart2table": {"vision_config": {"image_size": 128}},
    "granite4_vision": {
        "vision_config": {"hidden_size": 64}, "downsample_rate": "1/2", "deepstack_layer_map": [[-1,
        0]],
        "spatial_target_layers": [1, 2, 3, 4],
    },
    "granite_docling": {"vision_config": {"image_size": 128}},
    "hunyuan_vl": {"text_config": {"rope_parameters": ROPE | {"mrope_section": [1, 1, 1, 1]},
    "head_dim": DIM}},
    "instructblipvideo": {"video_token_index": IMAGE},
    "kimi_k25": {"projection_hidden_size": 32, "text_config": EQUAL | {"head_dim": 4}},
    "lfm2_vl": {"text_config": {"full_attn_idxs": [1, 3]}},
    "llama4": {
        "vision_config": {
            "vision_output_dim": 48, "projector_input_dim": 48, "projector_output_dim": 48,
            "intermediate_size": 128,
        }
    },
    "mistral_large4": {"text_config": EQUAL | {"kv_source_layers": list(range(LAYERS))}},
    "muse_glimmer": {"vision_config": {"out_hidden_size": 128}},
    "muse_spark": {"vision_config": {"out_hidden_size": 128}},
    "nemotron_h_omni": {
        "vision_hidden_size": 32,
        "text_config": {"layers_block_type": ["mamba", "full_attention", "moe", "full_attention",
        "mamba"]},
    },
    "paddleocr_vl": MROPE,
    "qwen2_5_omni_thinker": MROPE | {"vision_start_token_id": FIRST},
    "qwen3_omni_moe_thinker": {"vision_start_token_id": FIRST},
    "qwen2_5_vl": MROPE, "qwen2_vl": MROPE | {"vision_config": {"hidden_size": 48}},
    "qwen4_exp": {
        "text_config": {
            "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8,
            "indexer_budget": 64,
            "indexer_compress_ratio": 4,
        }
    },
    "step3p7": {"text_config": {"sliding_window": 8}},
}  # fmt: skip


def _shrink(
    settings: dict[str, Any],
    config: PretrainedConfig,
    role: dict[str, Any],
    special: dict[int, int],
) -> dict[str, Any]:
    """Tiny settings for `config`, read from its defaults: parts by parts, each size by its name."""
    sizes, small = BOTH | role, {}
    depth = next(
        (settings[k] for k in ("num_hidden_layers", "num_layers", "depth") if k in settings), 0
    )
    few = 2 if role is VISION else LAYERS
    for key, value in settings.items():
        if key in config.sub_configs:
            part = getattr(config, key)
            if isinstance(value, dict) and isinstance(part, PretrainedConfig):
                text = key in ("text_config", "encoder", "decoder")
                small[key] = _shrink(value, part, TEXT if text else VISION, special)
                small[key]["model_type"] = part.model_type
        elif key in SPECIAL:
            small[key] = SPECIAL[key]
        elif key in KNOWN:
            small[key] = KNOWN[key]
        elif key.endswith(("token_id", "token_index")) and isinstance(value, int):
            small[key] = special.setdefault(value, 93 + len(special))
        elif key in sizes and value:
            times = (
                few
                if isinstance(value, list) and len(value) == depth
                else len(value)
                if isinstance(value, list)
                else 0
            )
            small[key] = (
                [sizes[key]] * times if times and isinstance(sizes[key], int) else sizes[key]
            )
        elif key == "image_size":
            patch = settings.get("patch_size", 14)
            patch = patch if isinstance(patch, int) else patch[0]
            small[key] = [4 * patch, 4 * patch] if isinstance(value, list) else 4 * patch
        elif isinstance(value, list) and depth > few and len(value) == depth:
            small[key] = _thin(value, few)
        elif key in (
            "model_type",
            "transformers_version",
            "architectures",
            "id2label",
            "label2id",
            "dtype",
            "_name_or_path",
            "per_layer_config",
        ):
            pass
        else:
            small[key] = value
    if isinstance(small.get("rope_parameters"), dict):
        small["rope_parameters"] = _rope(small["rope_parameters"], small.get("head_dim") or DIM)
    return small


def _thin(kinds: list[Any], few: int) -> list[Any]:
    """A short list that alternates between the kinds of the long one."""
    each = [kind for i, kind in enumerate(kinds) if kind not in kinds[:i]]
    return [each[i % len(each)] for i in range(few)]


def _rope(rope: dict[str, Any], dim: int) -> dict[str, Any]:
    """Rotary settings whose sections fit the head."""
    rope = {
        key: _rope(value, dim) if isinstance(value, dict) else value for key, value in rope.items()
    }
    if isinstance(sections := rope.get("mrope_section"), list):
        half = int(dim * rope.get("partial_rotary_factor", 1.0)) // 2
        rope["mrope_section"] = [half // len(sections)] * (len(sections) - 1) + [
            half - half // len(sections) * (len(sections) - 1)
        ]
    return rope


def _merge(settings: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """`settings` with `more` laid over them, parts by parts; None removes."""
    out = dict(settings)
    for key, value in more.items():
        out[key] = (
            _merge(out.get(key) or {}, value)
            if isinstance(value, dict) and isinstance(out.get(key), dict)
            else value
        )
    return out


def config_of(family: str) -> PretrainedConfig:
    """The family's default configuration, made tiny."""
    kind = CONFIG_MAPPING[family]
    default = kind()
    role = TOP if {"text_config", "encoder"} & set(default.sub_configs) else TEXT
    settings = _shrink(default.to_dict(), default, role, {})
    if "image_grid_pinpoints" in settings:
        side = settings["vision_config"]["image_size"]
        settings["image_grid_pinpoints"] = [[side, 2 * side]]
    return kind(**_merge(settings, ENTRIES.get(family, {})))


def miniature(
    family: str, *, samples: int = 2, photos: int = 1, seed: int = 0
) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    """A tiny random model of a family and a left-padded batch of inputs with `photos` images in
    every sample.
    """
    model = model_of(family, seed=seed)
    return model, inputs_for(model, samples=samples, photos=photos)


def model_of(family: str, *, seed: int = 0) -> PreTrainedModel:
    """A tiny random model of a family."""
    torch.manual_seed(seed)
    kind: type[PreTrainedModel] = getattr(
        transformers, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[family]
    )
    return kind._from_config(config_of(family)).eval()


def inputs_for(model: PreTrainedModel, *, samples: int = 2, photos: int = 1) -> dict[str, Tensor]:
    """A left-padded batch of random texts of different lengths with `photos` random images in every
    sample.
    """
    makes = PIXELS.get(model.config.model_type) or _rule(model)
    tokens = _tokens(model, makes(model, 1, 1))
    rows = []
    for sample in range(samples):
        row = [1, *torch.randint(2, 80, (3,)).tolist()]
        for _ in range(photos):
            row += [
                FIRST,
                *[IMAGE] * tokens,
                LAST,
                *torch.randint(2, 80, (3 + 2 * sample,)).tolist(),
            ]
        rows.append(row)
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    inputs = {"input_ids": ids, "attention_mask": mask} | makes(model, samples, photos)
    for name in ("token_type_ids", "mm_token_type_ids"):
        if name in inspect.signature(model.forward).parameters:
            inputs[name] = (
                (ids == IMAGE).long()
                if model.config.model_type != "paligemma"
                else torch.zeros_like(ids)
            )
    return inputs


def sample(inputs: dict[str, Tensor], number: int) -> dict[str, Tensor]:
    """One sample of a batch, its padding cut off."""
    keep, samples = inputs["attention_mask"][number].bool(), len(inputs["input_ids"])
    one = {}
    for key, value in inputs.items():
        if value.shape[:2] == inputs["input_ids"].shape:
            one[key] = value[number : number + 1, keep]
        else:  # photos, patches, grids: one after the other on the first axis, or in one strip
            one[key] = value.chunk(samples, dim=0 if len(value) % samples == 0 else -1)[number]
    return one


def _tokens(model: PreTrainedModel, pixels: dict[str, Tensor]) -> int:
    """How many image tokens one photo takes: the model is asked for its features."""
    asked: Any = (
        model.base_model
        if {"get_image_features", "get_video_features"} & set(dir(model.base_model))
        else model
    )
    ask = (
        asked.get_image_features if "get_image_features" in dir(asked) else asked.get_video_features
    )
    known = inspect.signature(ask).parameters
    with torch.no_grad():
        found: Any = ask(**{key: value for key, value in pixels.items() if key in known})
    if not isinstance(found, (Tensor, list, tuple)):
        found = found.last_hidden_state if found.pooler_output is None else found.pooler_output
    parts = [found] if isinstance(found, Tensor) else list(found)
    return sum(part.numel() for part in parts) // model.config.get_text_config().hidden_size


Pixels = Callable[[PreTrainedModel, int, int], dict[str, Tensor]]


def _rule(model: PreTrainedModel) -> Pixels:
    """How a family wants its photos, read off the names in its forward."""
    known = inspect.signature(model.forward).parameters
    for name, makes in RULES.items():
        if name in known or name in model.config.to_dict():
            return makes
    return _square


def _side(model: PreTrainedModel) -> int:
    size = model.config.vision_config.image_size
    return size if isinstance(size, int) else size[0]


def _square(model: PreTrainedModel, samples: int, photos: int) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(samples * photos, 3, _side(model), _side(model))}


def _stacked(model: PreTrainedModel, samples: int, photos: int) -> dict[str, Tensor]:
    """Photos of a sample on an axis of their own."""
    return {"pixel_values": torch.randn(samples, photos, 3, _side(model), _side(model))}


def _tiles(model: PreTrainedModel, samples: int, photos: int) -> dict[str, Tensor]:
    """A photo and its two tiles, with the photos' own sizes."""
    side, count = _side(model), samples * photos
    sizes = torch.tensor([[side, 2 * side]] * count)
    return {"pixel_values": torch.randn(count, 3, 3, side, side), "image_sizes": sizes}


def _sized(model: PreTrainedModel, samples: int, photos: int) -> dict[str, Tensor]:
    side, count = _side(model), samples * photos
    return _square(model, samples, photos) | {"image_sizes": torch.tensor([[side, side]] * count)}


def _grid(model: PreTrainedModel, samples: int, photos: int) -> dict[str, Tensor]:
    """Flattened patches and their grid, 4 × 6 patches a photo."""
    vision, count = model.config.vision_config.to_dict(), samples * photos
    channels = vision.get("in_channels") or vision.get("num_channels") or 3
    frames = vision.get("temporal_patch_size") or vision.get("patch_temporal") or 1
    patches = torch.randn(24 * count, channels * frames * vision["patch_size"] ** 2)
    return {"pixel_values": patches, "image_grid_thw": torch.tensor([[1, 4, 6]] * count)}


def _shaped(*shape: int) -> Pixels:
    """Patches of one shape each, and their grid; -1 is the number of patches."""

    def makes(model: PreTrainedModel, samples: int, photos: int) -> dict[str, Tensor]:
        found, side = _grid(model, samples, photos), model.config.vision_config.patch_size
        return found | {"pixel_values": found["pixel_values"].reshape(*shape, 3, side, side)}

    return makes


def _merged(model: PreTrainedModel, samples: int, photos: int) -> dict[str, Tensor]:
    return _grid(model, samples, photos) | {
        "image_merge_sizes": torch.tensor([2] * samples * photos)
    }


def _spatial(model: PreTrainedModel, samples: int, photos: int) -> dict[str, Tensor]:
    """Patches on an axis of their own, with their grid."""
    count, side = samples * photos, model.config.vision_config.patch_size
    return {
        "pixel_values": torch.randn(count, 24, 3 * side**2),
        "spatial_shapes": torch.tensor([[4, 6]] * count),
        "pixel_attention_mask": torch.ones(count, 24, dtype=torch.long),
    }


def _strip(model: PreTrainedModel, samples: int, photos: int) -> dict[str, Tensor]:
    """All patches in one long strip, with the grids."""
    count, side = samples * photos, model.config.vision_config.patch_size
    return {
        "pixel_values": torch.randn(1, 3, side, side * 32 * count),
        "target_sizes": torch.tensor([[4, 8]] * count),
    }


def _flat(model: PreTrainedModel, samples: int, photos: int) -> dict[str, Tensor]:
    found = _grid(model, samples, photos)
    return {"pixel_values": found["pixel_values"], "image_grid_hw": found["image_grid_thw"][:, 1:]}


def _double(model: PreTrainedModel, samples: int, photos: int) -> dict[str, Tensor]:
    """Photos in low and in high resolution."""
    side = model.config.high_res_vision_config.image_size
    return _square(model, samples, photos) | {
        "high_res_pixel_values": torch.randn(samples * photos, 3, side, side)
    }


def _tiled(model: PreTrainedModel, samples: int, photos: int) -> dict[str, Tensor]:
    return _stacked(model, samples, photos) | {
        "pixel_attention_mask": torch.ones(samples, photos, dtype=torch.bool)
    }


def _instructed(model: PreTrainedModel, samples: int, photos: int) -> dict[str, Tensor]:
    """Photos, and what the query tokens are told."""
    ids = torch.randint(2, 80, (samples * photos, 4))
    return _square(model, samples, photos) | {
        "qformer_input_ids": ids,
        "qformer_attention_mask": torch.ones_like(ids),
    }


def _quantized(model: PreTrainedModel, samples: int, photos: int) -> dict[str, Tensor]:
    """Photos for a tower that turns them into words of a code book."""
    side, count = model.config.vq_config.resolution, samples * photos
    return {"pixel_values": torch.randn(count, 3, side, side)}


def _frames(model: PreTrainedModel, samples: int, photos: int) -> dict[str, Tensor]:
    """Videos of two frames, and what the query tokens are told."""
    told = _instructed(model, samples, photos)
    return told | {"pixel_values": torch.randn(samples * photos, 2, 3, _side(model), _side(model))}


def _linear(model: PreTrainedModel, samples: int, photos: int) -> dict[str, Tensor]:
    """Six flattened patches a photo, which a linear layer embeds."""
    return {"pixel_values": torch.randn(samples * photos, 6, 3 * model.config.patch_size**2)}


RULES: dict[str, Pixels] = {
    "image_grid_thw": _grid,
    "image_grid_pinpoints": _tiles,
    "qformer_input_ids": _instructed,
    "high_res_pixel_values": _double,
    "tile_fine_mask": _tiled,
    "spatial_shapes": _spatial,
    "target_sizes": _strip,
    "image_grid_hw": _flat,
    "pixel_attention_mask": _stacked,
}
PIXELS: dict[str, Pixels] = {
    "mistral3": _sized, "lighton_ocr": _sized, "mistral_large4": _sized, "aria": _square,
    "video_llama_3": _merged,
    "kimi_k25": _shaped(-1), "paddleocr_vl": _shaped(-1), "paligemma": _square,
    "chameleon": _quantized,
    "fuyu": _linear, "instructblipvideo": _frames,
}  # fmt: skip
