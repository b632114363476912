"""The sizes of tiny configurations, by their names, and what names cannot tell of a family."""

from __future__ import annotations

from typing import Any

__all__ = [
    "BOTH", "DIM", "ENTRIES", "FIRST", "IMAGE", "KNOWN", "LAST", "LAYERS", "PARTS", "SPECIAL",
    "TEXT", "TOP", "VISION",
]  # fmt: skip

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
    "apertus1p5": {
        "image_token_offset": 100, "audio_token_offset": 108,
        "audio_config": {"codebook_dim": 32, "codebook_size": 8},
    },
    "aria": {"projector_patch_to_query_dict": {16: 4}},
    "chameleon": {
        "vocabulary_map": {"<image>": IMAGE}
        | {f"IMGIMG{chr(65 + i)}Z": 100 + i for i in range(8)}
    },
    "cohere_compass": {"text_config": {"rope_parameters": {"full_attention": ROPE,
    "sliding_attention": ROPE}}},
    "dots3_note": {
        "text_config": EQUAL | {"swa_num_attention_heads": HEADS, "swa_num_key_value_heads": HEADS},
        "vision_config": {"adapter_in_dim": 32, "adapter_out_dim": HEADS * DIM},
        "audio_config": {"adapter_input_size": 32, "adapter_out_dim": HEADS * DIM},
    },
    "emu3": {
        "vq_config": {"hidden_size": 128},
        "vocabulary_map": {"<image>": IMAGE, "<|extra_200|>": 127}
        | {f"<|visual token {i:06d}|>": 100 + i for i in range(8)}
    },
    "gemma4_unified": {
        "vision_config": {
            "patch_size": 4, "mm_embed_dim": 32, "output_proj_dims": 32, "mm_posemb_size": 8,
        }
    },
    "deepseek_ocr2": {
        "text_config": {
            "mlp_layer_types": ["dense", *["sparse"] * (LAYERS - 1)], "num_experts_per_tok": 2,
        },
        "vision_config": {"sam_config": {"downsample_channels": [16, 32]}},
    },
    "ernie4_5_vl_moe": MROPE,
    "glm46v": WHOLE, "glm4v": WHOLE, "glm4v_moe": WHOLE, "glm_ocr": WHOLE, "glmga": WHOLE,
    "glm5_next": {
        "text_config": EQUAL
        | {
            "linear_head_dim": 8, "linear_num_heads": 2, "index_head_dim": 8, "index_n_heads": 2,
            "index_topk": 64, "hc_mult": 2,
        },
        "vision_config": {"projection_intermediate_size": 40},
    },
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
    "hy_v4_vl": {
        "text_config": {
            "qk_rope_head_dim": 8, "index_head_dim": 8, "index_n_heads": 2, "index_topk": 64,
            "hc_mult": 2,
        }
    },
    "inkling2": {
        "text_config": {"unpadded_vocab_size": WORDS},
        "vision_config": {"patch_size": 4, "projection_hidden_dim": 32},
    },
    "inkling2_loop": {
        "text_config": {"unpadded_vocab_size": WORDS},
        "vision_config": {"patch_size": 4, "projection_hidden_dim": 32},
    },
    "inkling_mm_model": {
        "text_config": {"unpadded_vocab_size": WORDS}, "audio_config": {"text_hidden_size": 48},
        "vision_config": {"patch_size": 4, "n_layers": 4},
    },
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
    "molmo2": {
        "image_patch_id": IMAGE,
        "vision_config": {"image_size": [56, 56], "num_position_embeddings": 16},
        "adapter_config": {"vision_feature_layer": [0, 1]},
    },
    "muse_glimmer": {"out_hidden_size": 128},
    "muse_spark": {"out_hidden_size": 128},
    "nemotron_h_omni": {
        "vision_hidden_size": 32,
        "text_config": {
            "layers_block_type": ["mamba", "full_attention", "moe", "full_attention", "mamba"],
            "mamba_num_heads": 6, "mamba_head_dim": 16, "ssm_state_size": 8, "n_groups": 1,
            "chunk_size": 8, "moe_shared_expert_intermediate_size": 16,
        },
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
    "unlimited_ocr": {"vision_config": {"sam_config": {"downsample_channels": [16, 32]}}},
    "step3p7": {"text_config": {"sliding_window": 8}},
}  # fmt: skip


# parts that a family's default configuration leaves out
PARTS: dict[str, dict[str, Any]] = {
    "diffusion_gemma": {
        "text_config": {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 16},
        "vision_config": {"model_type": "gemma4_vision"},
    },
    "gemma4": {"vision_config": {}},
    "gemma4_unified": {"vision_config": {}},
}
