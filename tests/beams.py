"""Beams held to their own texts."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

import lvlm_fix as lf
from lvlm_fix.tools.miniature import miniature


def scores_are_those_of_the_texts(method: lf.Method, greedy: dict[str, Any]) -> None:
    """The score of every beam is that of its text, written token by token.

    `greedy` are options of `generate` that give logits and so many tokens, neither more nor less.
    """
    model, inputs = miniature("llava", samples=1)
    steps = greedy["max_new_tokens"]
    options = greedy | {"num_beams": 3, "num_return_sequences": 3, "output_scores": True}
    with lf.fix(model, method):
        out = model.generate(**inputs, **options)
        width = inputs["input_ids"].shape[1]
        for sequence, score in zip(out.sequences, out.sequences_scores, strict=True):
            answer, total = sequence[width:].tolist(), 0.0

            def forced(_: int, ids: Tensor, answer: list[int] = answer) -> list[int]:
                return [answer[min(len(ids) - width, steps - 1)]]

            alone = model.generate(**inputs, **greedy, prefix_allowed_tokens_fn=forced)
            for token, logits in zip(answer, alone.logits, strict=True):
                total += float(logits[0].log_softmax(-1)[token])
            assert float(score) == pytest.approx(total / steps, abs=1e-4)
