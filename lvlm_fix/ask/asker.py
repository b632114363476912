"""`Asker`: asks a model whether objects are in its photos, and reads Yes against No.

Questions of a batch are put after the image together. A model that is asked often knows better than
it wrote (docs/ask.md, which also names those who checked texts this way before).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel, ProcessorMixin

from lvlm_fix.ask.prefix import Prefix, by_columns, prefix_of
from lvlm_fix.ask.wording import Wording, log_odds
from lvlm_fix.core.call import Signature
from lvlm_fix.core.turns import beside
from lvlm_fix.errors import InputError, SettingError
from lvlm_fix.families import Family, family_of
from lvlm_fix.models import DESCRIBE, prepare

__all__ = ["Asker", "Answers"]

Answers = dict[str, float]
"""Object -> log-odds of Yes against No, natural."""


class Asker:
    """Asks one model. The tokens of a question are found once for each object."""

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        wording: Wording | None = None,
        *,
        at_once: int = 16,
    ) -> None:
        if at_once < 1:
            raise SettingError(f"at_once must be >= 1, got {at_once}")
        self.model, self.processor, self.at_once = model, processor, at_once
        self.wording = wording or Wording()
        self.family = family_of(model)
        self.tokenizer: Any = processor.tokenizer  # type: ignore[attr-defined]: each has one
        self._yes, self._no = self.wording.answers(self.tokenizer)
        self._cache_name = Signature(model).cache
        self._tails: dict[str, list[int]] = {}

    @torch.no_grad()
    def ask(self, given: Mapping[str, Any], objects: Sequence[Iterable[str]]) -> list[Answers]:
        """Log-odds for the objects of each sample, each object once.

        Args:
            given: the arguments of a forward over the prompts, with its cache; `input_ids` may
                have grown since. None of it is changed.
            objects: what to ask about, for each sample.
        """
        wanted = [dict.fromkeys(names) for names in objects]
        asked = [(row, name) for row, names in enumerate(wanted) for name in names]
        answers: list[Answers] = [{} for _ in objects]
        if not asked:
            return answers
        prefix = prefix_of(self.model, self.family, given, {row for row, _ in asked})
        self._learn([name for _, name in asked])
        if prefix.shared:
            parts = [asked[i : i + self.at_once] for i in range(0, len(asked), self.at_once)]
        else:  # every prompt of the batch, once for each object: pixels stay as they came
            spare = asked[0][1]
            rounds = zip_longest(*([*a] or [spare] for a in wanted), fillvalue=spare)
            parts = [list(enumerate(names)) for names in rounds]
        with beside(self.model):
            for part in parts:
                odds = self._odds(prefix, part)
                for (row, name), value in zip(part, odds.tolist(), strict=True):
                    answers[row][name] = value
        return [{name: a[name] for name in w} for a, w in zip(answers, wanted, strict=True)]

    def look(
        self, images: Sequence[Image.Image], objects: Sequence[Iterable[str]]
    ) -> list[Answers]:
        """The same for photos without a text: one pass over each, then the questions.

        Raises `InputError` unless there are as many lists of objects as photos.
        """
        if len(images) != len(objects):
            raise InputError(
                f"give one list of objects per photo: got {len(objects)} and {len(images)}"
            )
        given = self.pass_over(
            prepare(self.model, self.processor, images, [DESCRIBE] * len(images))
        )
        return self.ask(given, objects)

    @torch.no_grad()
    def pass_over(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs of a prompt, with the cache of one unedited pass over it."""
        model: Any = self.model
        given = dict(inputs)
        if by_columns(self.family):  # a forward by itself counts padding too
            given["position_ids"] = (given["attention_mask"].cumsum(-1) - 1).clamp_min(0)
        with beside(self.model):
            output = model(**given, use_cache=True, logits_to_keep=1)
        return dict(inputs) | {self._cache_name: output[self._cache_name]}

    def _learn(self, names: Iterable[str]) -> None:
        """Find the tokens after the image in the questions that are new.

        A blank photo stands in, so that the end of the image, the chat template and the tokenizer
        are the processor's own.
        """
        new = [name for name in dict.fromkeys(names) if name not in self._tails]
        if not new:
            return
        blank = Image.new("RGB", (64, 64))
        questions = [self.wording.about(name) for name in new]
        prompts = prepare(self.model, self.processor, [blank] * len(new), questions)
        for name, row, kept in zip(
            new, prompts["input_ids"].tolist(), prompts["attention_mask"].tolist(), strict=True
        ):
            last = max(i for i, token in enumerate(row) if token in self.family.image_tokens)
            self._tails[name] = [t for t, k in zip(row, kept, strict=True) if k][
                last + 1 - kept.index(1) :
            ]

    def _odds(self, prefix: Prefix, asked: Sequence[tuple[int, str]]) -> Float[Tensor, " question"]:
        """One pass over some questions (sample, object)."""
        tails = [self._tails[name] for _, name in asked]
        logits = answers_to(self.model, self.family, prefix, [row for row, _ in asked], tails)
        return log_odds(logits, self._yes, self._no)


def answers_to(
    model: PreTrainedModel,
    family: Family,
    prefix: Prefix,
    samples: Sequence[int],
    tails: Sequence[Sequence[int]],
) -> Float[Tensor, "question vocabulary"]:
    """The logits that answer some questions, in one pass: the image of a sample, then its tail."""
    on = prefix.ids.device
    widest = max(map(len, tails))
    rows = torch.tensor([*samples], device=on)
    padded = [[*tail, *([tail[-1]] * (widest - len(tail)))] for tail in tails]
    ids, lengths = torch.tensor(padded, device=on), torch.tensor([*map(len, tails)], device=on)
    new = torch.arange(widest, device=on) < lengths[:, None]
    mask = torch.cat((prefix.valid[rows], new), 1).long()
    ask: Any = model
    if prefix.shared:
        first = prefix.valid[rows].sum(-1, keepdim=True)
        output = ask(
            input_ids=ids,
            attention_mask=mask,
            position_ids=first + torch.arange(widest, device=on),
            use_cache=True,
            **{Signature(model).cache: prefix.cache(rows)},
        )
    else:
        ids = torch.cat((prefix.ids[rows], ids), 1)
        more = {
            name: _grown(value, ids) if name.endswith("token_type_ids") else value
            for name, value in prefix.photo.items()
            if name != "logits_to_keep"
        }
        if by_columns(family):
            more["position_ids"] = (mask.cumsum(-1) - 1).clamp_min(0)
        output = ask(input_ids=ids, attention_mask=mask, use_cache=False, **more)
    last = output.logits.shape[1] - widest + lengths - 1
    return output.logits[torch.arange(len(rows), device=on), last].float()


def _grown(types: Tensor, ids: Tensor) -> Tensor:
    """Token types for as many columns as `ids` has; new ones are text."""
    some = types[:, : ids.shape[1]]
    return torch.cat((some, some.new_zeros(len(ids), ids.shape[1] - some.shape[1])), 1)
