"""`Grounding`: the words of a finished text and how well each rests on the picture.

A word's T-VHD is the mean over its tokens (k is not given in the paper), its log-probabilities are
sums: ours. The other scores are those of its first token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from lvlm_fix.errors import InputError, SettingError
from lvlm_fix.grounding.formulas import t_vhd
from lvlm_fix.grounding.words import Word, weak

if TYPE_CHECKING:
    from lvlm_fix.ask.calibration import Calibration

__all__ = ["SIGNALS", "Grounding", "pooled"]

K = 1  # ours: what told invented object words best, docs/log.md 2026-11-24
SIGNALS = {
    "t_vhd": "mean",
    "log_probability": "sum",
    "image_gain": "sum",
    "nll": "first",
    "entropy": "first",
    "svar": "first",
    "pas": "first",
    "ic": "first",
    "glsim": "first",
}
"""Signal -> how the numbers of a word's tokens become one."""


def pooled(signal: str, values: Float[Tensor, " tokens"]) -> float:
    """One number from those of a word's tokens."""
    match SIGNALS[signal]:
        case "mean":
            return float(values.mean())
        case "sum":
            return float(values.sum())
        case _:
            return float(values[0])


@dataclass(frozen=True)
class Grounding:
    """What was measured. Tokens are those of the text, not of the prompt."""

    text: str
    words: tuple[Word, ...]
    vhd: Float[Tensor, "tokens layers heads"]  # distance of head outputs with and without image
    tokens: Mapping[str, Float[Tensor, " tokens"]]  # as `Measured.tokens`
    looks: Float[Tensor, "tokens layers heads image"] | None = None  # attention, fraction 0–1
    grid: tuple[int, int] | None = (
        None  # rows and columns of patches that the first rows × columns image tokens form
    )
    ask: Mapping[int, float] | None = (
        None  # word -> log-odds of Yes, for object words; None: not asked
    )
    curve: Calibration | None = None  # of the model: from log-odds to chance

    @property
    def best(self) -> str:
        """The best measured signal for telling invented object words (docs/grounding.md)."""
        return "log_probability" if self.ask is None else "ask"

    @property
    def signals(self) -> tuple[str, ...]:
        """The signals that were measured, best first."""
        own = [n for n in SIGNALS if n in ("t_vhd", "nll") or n in self.tokens]
        return tuple(dict.fromkeys((self.best, *own)))

    def by_token(self, signal: str, k: int = K) -> Float[Tensor, " tokens"]:
        """The numbers of every token; T-VHD sums the k largest heads of each layer."""
        if signal not in self.signals or signal == "ask":
            names = ", ".join(name for name in self.signals if name != "ask")
            raise SettingError(f"signal must be one of {names}, got {signal!r}")
        if signal == "t_vhd":
            return t_vhd(self.vhd, k)
        return self.tokens["log_probability" if signal == "nll" else signal]

    def scores(self, signal: str | None = None, k: int = K) -> list[float]:
        """One number per word, larger if the word rests more on the picture; by default the best
        signal's. For `ask` it is NaN if a word names no object. Raises `SettingError`.
        """
        signal = signal or self.best
        if signal == "ask" and self.ask is not None:
            return [self.ask.get(i, math.nan) for i in range(len(self.words))]
        values = self.by_token(signal, k)
        return [pooled(signal, values[slice(*word.tokens)]) for word in self.words]

    def chances(self) -> list[float | None]:
        """The chance (0–1) that each word's object is there; None for words that were not asked
        about, and without a calibration.
        """
        asked, curve = self.ask or {}, self.curve
        return [
            curve.chance(asked[i]) if curve and i in asked else None for i in range(len(self.words))
        ]

    def doubtful(self) -> list[bool]:
        """Which words to doubt: the objects that are more likely absent than there. Without
        answers, the lowest quarter by the best other signal.
        """
        if self.ask is None:
            return weak(self.scores())
        limit = 0.0 if self.curve is None else self.curve.threshold()
        return [score < limit for score in self.scores("ask")]

    def heads(self, word: int) -> Float[Tensor, "layers heads"]:
        """VHD of every head for one word: the mean over its tokens."""
        return self.vhd[slice(*self.words[word].tokens)].mean(0)

    def look(self, word: int, heads: Sequence[tuple[int, int]]) -> Float[Tensor, "rows columns"]:
        """Where these heads (layer, head) looked for one word: mean attention per patch, fraction
        0–1.
        """
        if self.looks is None or self.grid is None:
            raise InputError(
                "where the model looked was not recorded: ground the text with looks=True"
            )
        layers, numbers = (torch.tensor(part) for part in zip(*heads, strict=True))
        rows, columns = self.grid
        part = self.looks[slice(*self.words[word].tokens)][:, layers, numbers, : rows * columns]
        return part.float().mean((0, 1)).reshape(rows, columns)

    def as_dict(self, k: int = K) -> dict[str, Any]:
        """Ready for JSON: every word with its span, its signals, the chance that its object is
        there, and whether to doubt it. `error` is the chances' error, null without a calibration.
        """
        columns = {name: self.scores(name, k) for name in self.signals}
        chances, doubtful = self.chances(), self.doubtful()
        words = [
            {"word": word.text, "start": word.start, "end": word.end}
            | {name: _rounded(values[i]) for name, values in columns.items()}
            | {"chance": _rounded(chances[i]), "weak": doubtful[i]}
            for i, word in enumerate(self.words)
        ]
        error = None if self.curve is None else [self.curve.error, *self.curve.error_ci]
        return {"signal": self.best, "k": k, "error": error, "words": words}


def _rounded(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else round(value, 5)
