"""`Written`: which keys were generated; `EndTokens`, `AnswerTokens`: tokens with a meaning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.functional import pad

from lvlm_fix.ask.wording import Wording
from lvlm_fix.core.at import AtLayer, AtToken, Host, Live, Watch, kept
from lvlm_fix.core.text import Pass, State
from lvlm_fix.errors import ModelError
from lvlm_fix.models import processor_of

__all__ = ["AnswerTokens", "EndTokens", "Written"]


@dataclass(frozen=True)
class Written(Watch[Bool[Tensor, "1 key"]]):
    """Keys of the text that was generated since the last prompt. `at[Written()]`: 1 key."""

    def live(self, host: Host) -> Live[Bool[Tensor, "1 key"]]:
        return _Written(self)


@dataclass
class _State(State):
    mask: Tensor | None = None  # 1 columns

    def widen(self, columns: int) -> None:
        if self.mask is not None and columns > self.mask.shape[1]:
            self.mask = pad(self.mask, (0, columns - self.mask.shape[1]), value=True)


class _Written(Live[Bool[Tensor, "1 key"]]):
    def begin(self, now: Pass) -> None:
        if now.prompt_rows:
            text = now.text
            columns = torch.arange(text.image.shape[1], device=text.device)
            kept(text, self.watch, _State).mask = (columns >= text.end)[None]

    def value(self, at: AtLayer) -> Bool[Tensor, "1 key"]:
        assert at.now is not None
        mask = kept(at.now.text, self.watch, _State).mask
        assert mask is not None
        return at.now.text.columns(mask, at.image.shape[1]).to(at.image.device)


@dataclass(frozen=True)
class EndTokens(Watch[Int[Tensor, " tokens"]]):
    """The tokens that end a text, from the model's generation settings. `at[EndTokens()]`: tokens.

    Raises `ModelError` where there are none.
    """

    def live(self, host: Host) -> Live[Int[Tensor, " tokens"]]:
        found = host.model.generation_config.eos_token_id
        if found is None:
            raise ModelError(
                f"{type(host.model).__name__}: its generation settings name no token that ends a "
                "text"
            )
        return _Ends(self, [found] if isinstance(found, int) else list(found))


class _Ends(Live[Int[Tensor, " tokens"]]):
    def __init__(self, watch: EndTokens, tokens: list[int]) -> None:
        super().__init__(watch)
        self._tokens = torch.tensor(tokens)

    def at_token(self, at: AtToken) -> Int[Tensor, " tokens"]:
        assert at.now is not None
        self._tokens = self._tokens.to(at.now.text.device)
        return self._tokens


@dataclass(frozen=True)
class AnswerTokens(Watch["tuple[Int[Tensor, ' tokens'], Int[Tensor, ' tokens']]"]):
    """The first tokens of Yes and of No, as a text may begin with them: those that are named, else
    those of the model's tokenizer.

    Raises `ModelError` where there is no tokenizer, or both begin alike.
    """

    yes: tuple[int, ...] = ()
    no: tuple[int, ...] = ()

    def live(self, host: Host) -> _Answers:
        if self.yes and self.no:
            return _Answers(self, self.yes, self.no)
        processor: Any = processor_of(host.model)
        return _Answers(self, *Wording().answers(processor.tokenizer))


class _Answers(Live["tuple[Int[Tensor, ' tokens'], Int[Tensor, ' tokens']]"]):
    def __init__(self, watch: AnswerTokens, yes: tuple[int, ...], no: tuple[int, ...]) -> None:
        super().__init__(watch)
        self._yes, self._no = torch.tensor(yes), torch.tensor(no)

    def at_token(self, at: AtToken) -> tuple[Int[Tensor, " tokens"], Int[Tensor, " tokens"]]:
        assert at.now is not None
        device = at.now.text.device
        self._yes, self._no = self._yes.to(device), self._no.to(device)
        return self._yes, self._no
