"""OPERA written slowly: no cache, whole attention maps, every beam a list of tokens."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor


def most(values: list[int]) -> int:
    count = Counter(values)
    return min(value for value in count if count[value] == max(count.values()))


@torch.no_grad()
def opera(
    model: Any, inputs: dict[str, Tensor], image_token: int, tokens: int, *, beams: int,
    candidates: int, scale: float, threshold: int, returns: int, early: int, strength: float,
) -> tuple[list[int], float, int]:  # fmt: skip
    """The best text of one prompt, its score, and how often the search went back."""
    prompt = inputs["input_ids"][0].tolist()

    def through(text: list[int]) -> tuple[Tensor, Tensor]:
        """Logits of the next token; rows of the last layer: the largest of all heads, to sum 1."""
        ids = torch.tensor([prompt + text])
        given = inputs | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        given |= {name: (ids == image_token).long() for name in given if name.endswith("type_ids")}
        out = model(**given, use_cache=False, output_attentions=True)
        rows = out.attentions[-1][0].amax(0)
        return out.logits[0, -1], rows / rows.sum(-1, keepdim=True)

    def judged(text: list[int]) -> tuple[float, int]:
        """The penalty of a text whose last token is a candidate, and its largest column."""
        _, rows = through(text)
        own = rows[len(prompt) :, len(prompt) :]
        scores = []
        for j in range(len(text)):
            product = 1e-7
            for i in range(j, len(text)):
                product *= scale * float(own[i, j])
            scores.append(float(torch.tensor(min(product, 65504.0)).half()))
        column = scores.index(max(scores))
        if len(text) <= early:
            image = [j for j, token in enumerate(prompt) if token == image_token]
            return -float(rows[-1, image].sum()), column
        return scores[column], column

    # after each number of tokens: the beams (text and score), and the (beam, token) that led there
    states: list[tuple[list[tuple[list[int], float]], list[tuple[int, int]]]] = [
        ([([], 0.0)] + [([], -1e9)] * (beams - 1), [])
    ]
    history: list[list[int]] = []
    visits, taken, went_back = Counter[int](), dict[int, list[tuple[int, int]]](), 0
    while len(states) <= tokens:
        running = states[-1][0]
        rows, columns = [], []
        for text, _ in running:
            logits, _ = through(text)
            best = logits.topk(candidates).indices.tolist()
            row, found = torch.full_like(logits, -999.0), []
            for token in best:
                penalty, column = judged([*text, token])
                row[token] = logits[token] - strength * penalty
                found.append(column)
            rows.append(row)
            columns.append(most(found))
        history.append(columns)
        column = most(columns)
        if column >= early and all(
            sum(step[b] == column for step in history) > threshold for b in range(beams)
        ):
            place = column + 1
            if visits[place] >= returns:
                place -= 1
            if visits[place] < returns and 0 < place < len(states) - 1:
                visits[place] += 1
                went_back += 1
                taken = {at: old for at, old in taken.items() if at <= place}
                taken.setdefault(place, []).extend(states[place + 1][1])
                states, history = states[: place + 1], history[: place + 1]
                running = states[-1][0]
                rows = []
                for b, (text, _) in enumerate(running):
                    logits, _ = through(text)
                    logits = logits - logits.min() - 999.0
                    for beam, token in taken[place]:
                        if beam == b:
                            logits[token] = -999.0
                    rows.append(logits)
        choices = [
            (score + float(value), b, token)
            for b, ((_, score), row) in enumerate(zip(running, rows, strict=True))
            for token, value in enumerate(row.log_softmax(-1))
        ]
        chosen = sorted(choices, key=lambda one: -one[0])[:beams]
        new = [([*running[b][0], token], score) for score, b, token in chosen]
        states.append((new, [(b, token) for _, b, token in chosen]))
    text, score = states[-1][0][0]
    return text, score, went_back
