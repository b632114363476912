"""Two ways to the same figures of one model, and whether they agree.

They differ by rounding: they may differ by four times what the unmodified model's own do there, or
by a thousandth of the largest logit (a twentieth in half precision).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lvlm_fix.private import go_on, start

__all__ = ["Found", "apart", "batches", "caches", "compared", "most", "passes", "texts"]

GREEDY: dict[str, Any] = {
    "max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, "output_logits": True,
    "return_dict_in_generate": True,
}  # fmt: skip
MASKED = 0.01  # share of the vocabulary that rounding may move over a plausibility cut

Found = tuple[bool, str, dict[str, Any]]  # whether it holds, in words, in figures


def texts(model: PreTrainedModel, inputs: Mapping[str, Any], **options: Any) -> Any:
    """A greedy text of the stock `generate`, with its logits."""
    serve: Any = model.generate
    return serve(**inputs, **(GREEDY | options))


def passes(
    model: PreTrainedModel,
    inputs: Mapping[str, Any],
    token: Tensor | None = None,
    around: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits at the prompt's end and behind one more token (the likeliest, or the one given), and
    that token; `around` is a context of the token's pass.
    """
    found: list[Tensor] = []

    def own(model: Any, input_ids: Tensor, generation_config: Any, **given: Any) -> Tensor:
        for name in ("logits_processor", "stopping_criteria"):
            given.pop(name, None)
        logits, grown = start(model, input_ids, generation_config, given)
        new = logits.argmax(-1) if token is None else token
        ids = torch.cat((input_ids, new[:, None]), 1)
        with around():
            step, _ = go_on(model, ids, grown)
        found.extend((logits, step, new))
        return ids

    serve: Any = model.generate
    serve(**inputs, do_sample=False, max_new_tokens=2, custom_generate=own)
    first, step, new = found
    return first, step, new


def batches(
    model: PreTrainedModel, together: Mapping[str, Any], alone: Sequence[Mapping[str, Any]]
) -> tuple[list[Tensor], list[Tensor]]:
    """A batch, and its samples one by one: logits at the prompt's end and a token on."""
    *batch, token = passes(model, together)
    each = [passes(model, one, token[n : n + 1])[:2] for n, one in enumerate(alone)]
    return batch, [torch.cat(parts) for parts in zip(*each, strict=True)]


def caches(model: PreTrainedModel, inputs: Mapping[str, Any]) -> tuple[list[Tensor], list[Tensor]]:
    """A text with cache and one without: logits, as long as both take the same words."""
    cached, whole = (texts(model, inputs, use_cache=use) for use in (True, False))
    width = inputs["input_ids"].shape[1]
    same = (cached.sequences[:, width:] == whole.sequences[:, width:]).all(0).long().cumprod(0)
    count = 1 + int(same[:-1].sum())  # as long as both are given the same words
    return list(cached.logits[:count]), list(whole.logits[:count])


def compared(
    found: Sequence[Tensor], wanted: Sequence[Tensor], own: float, *, half: bool = False
) -> Found:
    """Whether two ways agree as well as they do for the unmodified model, which differ by `own`."""
    worst, masked = apart(found, wanted)
    largest = max(float(one[one.isfinite()].abs().max()) for one in wanted)
    allowed = max(4 * own, largest * (5e-2 if half else 1e-3))
    holds = worst <= allowed and masked <= MASKED and not any(bool(o.isnan().any()) for o in found)
    words = f"largest difference {worst:.2g}, allowed {allowed:.2g}"
    return holds, words, {"difference": worst, "allowed": allowed, "masked_apart": masked}


def apart(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> tuple[float, float]:
    """The largest difference where both are finite, and the share of logits masked in one alone."""
    one, other = torch.stack(tuple(found)), torch.stack(tuple(wanted))
    both = one.isfinite() & other.isfinite()
    worst = float((one - other)[both].abs().max()) if both.any() else float("inf")
    return worst, float((one.isfinite() != other.isfinite()).float().mean())


def most(one: Tensor, other: Tensor) -> float:
    """The largest change of a logit; infinite where tokens were excluded and nothing else."""
    worst, masked = apart([one], [other])
    return worst or (float("inf") if masked else 0.0)
