"""Tiny configurations of every family, from the families' own default ones."""

from __future__ import annotations

from typing import Any

from transformers import CONFIG_MAPPING, PretrainedConfig

from lvlm_fix.tools.miniature_sizes import (
    BOTH,
    DIM,
    ENTRIES,
    KNOWN,
    LAYERS,
    PARTS,
    SPECIAL,
    TEXT,
    TOP,
    VISION,
)

__all__ = ["config_of"]


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
    default = kind(**PARTS.get(family, {}))
    role = TOP if {"text_config", "encoder"} & set(default.sub_configs) else TEXT
    settings = _shrink(default.to_dict(), default, role, {})
    if "image_grid_pinpoints" in settings:
        side = settings["vision_config"]["image_size"]
        settings["image_grid_pinpoints"] = [[side, 2 * side]]
    return kind(**_merge(settings, ENTRIES.get(family, {})))
