"""Write a text sentence by sentence. If one names what is not there, go back and write it again.

The cache is cut to where the doubtful word begins, and every word for that object is forbidden in
the rest of the text. After so many tries the doubtful part is dropped from the sentence. The model
has still said it and goes on from there, but it is not in the text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from lvlm_fix.ask.asker import Answers, Asker
from lvlm_fix.ask.sentences import drop, ended
from lvlm_fix.ask.words import Words, behind_blank, forms_of
from lvlm_fix.core.call import cache_in, can_go_back, own_rows
from lvlm_fix.errors import InputError
from lvlm_fix.objects import Spot
from lvlm_fix.objects.spots import Find
from lvlm_fix.private import go_on, special_tokens, start

__all__ = ["Judge", "Rewriter", "Written"]

Judge = Callable[[Answers, Spot], bool]
"""Whether an object word is doubtful."""


@dataclass
class Written:
    """One text as it grows."""

    prompt: Tensor  # 1 columns
    logits: Tensor  # of the next token
    given: dict[str, Any]  # what the next pass is given
    said: list[int] = field(default_factory=list)  # every token in the cache behind the prompt
    ids: list[int] = field(default_factory=list)  # what is returned
    odds: Answers = field(default_factory=dict)
    since: int = 0  # where the running sentence begins in `said`
    # before each token of the running sentence: logits, and what a pass is given
    saved: list[tuple[Tensor, dict[str, Any]]] = field(default_factory=list)
    tries: int = 0
    banned: Words | None = None
    done: bool = False


@dataclass(frozen=True)
class Rewriter:
    """Decodes one row after the other, greedy or sampled."""

    asker: Asker
    find: Find
    judge: Judge
    scores: Callable[[Tensor, Tensor], Tensor]
    stop: Callable[[Tensor, Any], Tensor]
    config: GenerationConfig
    tries: int
    streamer: BaseStreamer | None

    def run(self, ids: Tensor, given: dict[str, Any]) -> list[Written]:
        """The texts of all rows. Raises `InputError` for beams and caches that cannot be cut."""
        if (self.config.num_beams or 1) > 1:
            raise InputError(
                "'rewrite' goes back in a text, but beams share theirs: set num_beams=1, or use "
                "'drop'"
            )
        if self.streamer is not None and len(ids) > 1:
            raise InputError(f"a streamer takes one text at a time, got {len(ids)} prompts")
        model = self.asker.model
        logits, grown = start(model, ids, self.config, given)
        cache = cache_in(grown)
        if cache is None or not can_go_back(cache):
            raise InputError(
                "'rewrite' goes back in a text, but this cache cannot be cut: use a dynamic one, "
                "or use 'drop'"
            )
        about = {**given, "input_ids": ids, "cache": cache}
        if self.streamer is not None:
            self.streamer.put(ids.cpu())
        texts: list[Written] = []
        for row in range(len(ids)):
            here = grown if len(ids) == 1 else own_rows(grown, torch.tensor([row]))
            text = Written(ids[row : row + 1], logits[row : row + 1], here)
            while not text.done:
                self._write(text)
                self._check(text, about, row)
            texts.append(text)
        if self.streamer is not None:
            self.streamer.end()
        return texts

    def _write(self, text: Written) -> None:
        """Go on to the end of a sentence, or of the text."""
        while True:
            text.saved.append((text.logits, text.given))
            token, scores = self._next(text)
            text.said.append(token)
            text.done = bool(self.stop(self._all(text), scores).any())
            if text.done or ended(self.asker.tokenizer.decode(text.said[text.since :])):
                return
            self._pass(text)

    def _pass(self, text: Written) -> None:
        """The pass over the last token."""
        text.logits, text.given = go_on(self.asker.model, self._all(text), text.given)

    def _all(self, text: Written) -> Tensor:
        said = torch.tensor([text.said], dtype=text.prompt.dtype, device=text.prompt.device)
        return torch.cat((text.prompt, said), 1)

    def _next(self, text: Written) -> tuple[int, Tensor]:
        """Choose a token that completes no forbidden word."""
        scores = self.scores(self._all(text), text.logits.clone())
        if text.banned is not None:
            scores[:, [*text.banned.completing(text.said)]] = -torch.inf
        if not self.config.do_sample:
            return int(scores.argmax()), scores
        return int(torch.multinomial(scores.softmax(-1), 1)), scores

    def _check(self, text: Written, about: dict[str, Any], row: int) -> None:
        """Ask about the sentence that has ended; keep it, go back in it, or drop part of it."""
        tokens, tokenizer = text.said[text.since :], self.asker.tokenizer
        sentence: str = tokenizer.decode(tokens, skip_special_tokens=True)
        spots = self.find(sentence)
        new = [spot.object for spot in spots if spot.object not in text.odds]
        if new:
            rows = len(about["input_ids"])
            asked = self.asker.ask(about, [new if n == row else () for n in range(rows)])
            text.odds |= asked[row]
        doubtful = [spot for spot in spots if self.judge(text.odds, spot)]
        if doubtful and text.tries < self.tries:
            return self._back(text, doubtful[0])
        kept = drop(sentence, spots, lambda spot: spot in doubtful) if doubtful else sentence
        if doubtful:
            ends = special_tokens(self.config)[1]
            end = [token for token in tokens[-1:] if token in ends]
            tokens = (behind_blank(tokenizer, kept.strip()) if kept.strip() else []) + end
        text.ids += tokens
        if self.streamer is not None and tokens:
            self.streamer.put(torch.tensor(tokens))
        text.since, text.saved, text.tries = len(text.said), [], 0
        if not text.done:
            self._pass(text)

    def _back(self, text: Written, spot: Spot) -> None:
        """To where a word begins; its object is forbidden from now on."""
        banned = {name for name in text.odds if self.judge(text.odds, Spot(name, 0, 0))}
        text.banned = Words(self.asker.tokenizer, forms_of(banned))
        tokens = text.said[text.since :]
        at = _token_at(self.asker.tokenizer, tokens, spot.start)
        cache = cache_in(text.given)
        assert cache is not None
        if gone := len(tokens) - 1 - at:
            cache.crop(-gone)
        text.logits, text.given = text.saved[at]
        text.saved, text.said = text.saved[:at], text.said[: text.since + at]
        text.tries, text.done = text.tries + 1, False


def _token_at(tokenizer: Any, ids: list[int], place: int) -> int:
    """The number of the token that writes a character of the text."""
    for number in range(len(ids)):
        if len(tokenizer.decode(ids[: number + 1], skip_special_tokens=True)) > place:
            return number
    return len(ids) - 1
