"""The figures of one method at one batch size, from the seconds of its rounds."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from lvlm_fix.tools.bench_rivals import Plan
from lvlm_fix.tools.measuring import spread

__all__ = ["Row", "Times", "row_of"]


@dataclass(frozen=True)
class Row:
    """One method at one batch size. Ratios are to the unmodified model of the same round: median,
    quartiles.
    """

    method: str
    batch: int
    prefill_seconds: float  # median, of a first prompt: with what is done once
    decode_seconds: float  # median, per step of the whole batch
    tokens_per_second: float  # decoded
    prefill_ratio: tuple[float, float, float]
    again_ratio: tuple[
        float, float, float
    ]  # another question: what stands in front of the image is known
    no_image_ratio: tuple[
        float, float, float
    ]  # of that, the pass without image; 0 where there is none
    no_image_share: float  # text tokens of all tokens of the prompt
    decode_ratio: tuple[float, float, float]  # of a round, the median over turns of one token
    tokens_per_second_ratio: tuple[float, float, float]
    peak_mib: float  # weights and the most that tensors took at once, prefill and a few tokens
    memory_ratio: float
    rounds: int
    acted: bool  # the report counts rows edited


@dataclass
class Times:
    """Seconds of one round of one method."""

    prefill: float  # of the first prompt
    again: float  # of another question
    no_image: float  # of that, seconds in the pass without image
    steps: list[float]
    acted: bool


def row_of(
    name: str,
    batch: int,
    rounds: list[dict[str, Times]],
    peaks: dict[str, float],
    share: float,
    plan: Plan,
) -> Row:
    """The figures of one method, from its rounds and those of the unmodified model."""
    own, plain = [times[name] for times in rounds], [times["none"] for times in rounds]
    prefill, decode = [t.prefill for t in own], [statistics.median(t.steps) for t in own]
    ratios = [  # turn by turn; another package's loop may end its text early
        statistics.median(a / b for a, b in zip(one.steps, other.steps, strict=False))
        for one, other in zip(own, plain, strict=True)
    ]
    return Row(
        method=name,
        batch=batch,
        prefill_seconds=statistics.median(prefill),
        decode_seconds=statistics.median(decode),
        tokens_per_second=batch / statistics.median(decode),
        prefill_ratio=spread([a / b.prefill for a, b in zip(prefill, plain, strict=True)]),
        again_ratio=spread([a.again / b.again for a, b in zip(own, plain, strict=True)]),
        no_image_ratio=spread([a.no_image / b.again for a, b in zip(own, plain, strict=True)]),
        no_image_share=share,
        decode_ratio=spread(ratios),
        tokens_per_second_ratio=spread([1 / ratio for ratio in ratios]),
        peak_mib=peaks[name] / 2**20,
        memory_ratio=peaks[name] / peaks["none"],
        rounds=len(rounds),
        acted=all(t.acted for t in own),
    )
