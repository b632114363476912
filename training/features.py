"""Patch features of every photo and of some views of it, computed once and kept on disk.

View 0 is the photo, view 1 its mirror image, the others are mild random crops.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm
from transformers import Dinov2Model

from training.tower import SIDE, pixels

__all__ = ["compute"]

PATCHES, WIDTH = (SIDE // 14) ** 2, 384


def view_of(image: Image.Image, view: int, seed: int) -> Image.Image:
    """One view of a photo; crops are seeded by photo and view."""
    if view == 0:
        return image
    chance = random.Random(seed * 100 + view)
    if view > 1:
        share = chance.uniform(0.75, 1.0)
        width, height = (
            round(image.width * share),
            round(image.height * chance.uniform(max(share - 0.1, 0.7), 1.0)),
        )
        left, top = chance.randint(0, image.width - width), chance.randint(0, image.height - height)
        image = image.crop((left, top, left + width, top + height))
    return (
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if view == 1 or chance.random() < 0.5
        else image
    )


@torch.no_grad()
def compute(
    tower: Dinov2Model, photos: list[Path], view: int, out: Path, batch: int = 16
) -> np.memmap:
    """Features of one view of all photos: photo patch width, float16; made unless `out` is
    complete. Crops are seeded by the number that a file is named by.
    """
    shape = (len(photos), PATCHES, WIDTH)
    if out.exists():
        return np.memmap(out, np.float16, "r", shape=shape)
    partial = out.with_suffix(".partial")
    features = np.memmap(partial, np.float16, "w+", shape=shape)
    for start in tqdm(range(0, len(photos), batch), desc=f"features, view {view}", mininterval=10):
        some = photos[start : start + batch]
        images = [
            pixels(view_of(Image.open(file).convert("RGB"), view, int(file.stem))) for file in some
        ]
        hidden = tower(torch.stack(images), output_hidden_states=True).hidden_states[-1]
        features[start : start + len(some)] = hidden[:, 1:].float().numpy().astype(np.float16)
    features.flush()
    partial.rename(out)
    return np.memmap(out, np.float16, "r", shape=shape)
