"""Which of a photo's objects its features show: a small detector that never saw the
photo says so.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["confidence"]

FOLDS, EPOCHS, BATCH, PEAK = 4, 10, 32, 6e-3


class Detector(nn.Module):
    """An object's score is that of the patches that show it best, and of the photo's mean."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.norm, self.patch, self.mean = (
            nn.LayerNorm(width),
            nn.Linear(width, classes),
            nn.Linear(width, classes),
        )
        nn.init.constant_(self.patch.bias, -4.0)

    def forward(self, features: Tensor) -> Tensor:
        normal = self.norm(features)
        pooled = torch.logsumexp(self.patch(normal) * 4, dim=1) - math.log(features.shape[1])
        return pooled / 4 + self.mean(F.dropout(normal.mean(1), 0.2, self.training))


def confidence(views: list[np.memmap], truth: np.ndarray, file: Path) -> np.ndarray:
    """Chance of each class in each photo: photo class, by detectors trained on the other folds;
    kept in `file`.
    """
    if file.exists():
        return np.load(file)
    found = np.zeros(truth.shape, np.float32)
    fold = np.random.default_rng(0).permutation(len(truth)) % FOLDS
    for number in range(FOLDS):
        torch.manual_seed(number)
        detector = fit(views, truth, np.flatnonzero(fold != number))
        rest = np.flatnonzero(fold == number)
        with torch.no_grad():
            for some in np.array_split(rest, len(rest) // BATCH + 1):
                found[some] = (
                    detector(torch.from_numpy(views[0][some].astype(np.float32))).sigmoid().numpy()
                )
        print(
            f"detector {number}: object mAP {precision(found[rest], truth[rest]):.3f}", flush=True
        )
    np.save(file, found)
    return found


def fit(views: list[np.memmap], truth: np.ndarray, rows: np.ndarray) -> Detector:
    detector, chance = Detector(views[0].shape[-1], truth.shape[1]), np.random.default_rng(0)
    optimizer = torch.optim.AdamW(detector.parameters(), lr=PEAK, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK, EPOCHS * (len(rows) // BATCH))
    for _ in range(EPOCHS):
        for some in chance.permutation(rows)[: len(rows) // BATCH * BATCH].reshape(-1, BATCH):
            view = views[chance.integers(len(views))]
            logits = detector(torch.from_numpy(view[some].astype(np.float32)))
            loss = (
                F.binary_cross_entropy_with_logits(logits, torch.from_numpy(truth[some]))
                * truth.shape[1]
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return detector.eval()


def precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Mean over classes of the average precision."""
    out = []
    for column, true in zip(scores.T, truth.T, strict=True):
        if true.any():
            hits = true[np.argsort(-column)]
            out.append((np.cumsum(hits) / np.arange(1, len(hits) + 1))[hits > 0].mean())
    return float(np.mean(out))
