"""`Method`: a frozen dataclass of pure edits, and `Seen`, what an edit may look at.

A paper overrides only the places that it edits. Nothing here touches a model; `lvlm_fix.fix` does.
Axes are always ordered `batch layers heads query key dim`.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor

from lvlm_fix.errors import SettingError
from lvlm_fix.views import View

__all__ = ["PLACES", "Method", "Seen", "setting"]

PLACES = ("attention_logits", "attention_weights", "head_outputs", "next_token_logits")
Need = Literal["no_image", "sinks", "weights", "answer", "received", "vision"]


@dataclass(slots=True)
class Seen:
    """What an edit may look at, in one layer of one forward pass.

    `query` counts only the rows that are edited, `key` all positions so far.
    """

    layer: int  # 0 is nearest the embeddings
    layers: int  # how many the decoder has
    prefill: bool  # False while decoding
    image: Bool[Tensor, "batch key"]  # keys that are image tokens
    before_image: Bool[
        Tensor, "batch key"
    ]  # keys in front of the first image token (the system prompt)
    rows: Bool[Tensor, "batch query"]  # rows the method may edit in this sample
    sinks: Float[Tensor, "batch 3 key"] | None = (
        None  # 0 or 1: image, sinks, image without them (need "sinks")
    )
    received: Float[Tensor, "batch heads key"] | None = (
        None  # a key's mean over the prompt's rows (need "received")
    )
    tokens: Int[Tensor, " batch"] | None = None  # how many rows that were (the same)
    marks: Float[Tensor, "batch key"] | None = None  # what `mark_tokens` answered (need "vision")
    logits: Float[Tensor, "batch heads query key"] | None = (
        None  # edited attention logits (at and after the weights)
    )
    ids: Int[Tensor, "batch key"] | None = None  # of the prompt's tokens (scoring only)
    positions: Int[Tensor, " query"] | None = (
        None  # which tokens the rows belong to (need "weights", scoring only)
    )
    last: Int[Tensor, " batch"] | None = (
        None  # number, among the rows, of each sample's last prompt row (the same)
    )
    weights: Float[Tensor, "batch heads query key"] | None = (
        None  # attention weights before any edit (the same)
    )
    outputs: Float[Tensor, "batch heads dim"] | None = (
        None  # last prompt row's head outputs (scoring only)
    )
    no_image: Float[Tensor, "batch heads dim"] | None = (
        None  # the same with the image removed (need "no_image")
    )
    scores: Float[Tensor, "batch heads"] | None = (
        None  # the method's own head scores of this prompt
    )
    heads: Bool[Tensor, "batch heads"] | None = None  # the heads it chose
    # at the next token's logits only:
    step: int = 0  # tokens generated so far; 0 at the end of the prompt
    other: Float[Tensor, "batch vocabulary"] | None = (
        None  # logits of the second branch (`second_view`)
    )
    early: Float[Tensor, "batch layers vocabulary"] | None = (
        None  # logits of early layers (`early_layers`)
    )


def setting(
    default: Any,
    doc: str,
    source: str,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    options: tuple[str, ...] = (),
) -> Any:
    """A field of a method: its default, its meaning with unit, where the default comes from, and
    its range.

    `low` and `high` bound a number (inclusive); `options` lists the choices of a string.
    """
    return dataclasses.field(
        default=default,
        metadata={"doc": doc, "source": source, "low": low, "high": high, "options": options},
    )


@dataclass(frozen=True)
class Method:
    """Base of all methods. Subclasses are final, frozen, and override only the places they edit.

    Raises `SettingError` on construction when a setting is out of its declared range.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()
    reach: ClassVar[Literal["text", "last"]] = (
        "text"  # attention rows edited: text behind the image, or the last row
    )
    paper: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if field.metadata:
                _check(field, getattr(self, field.name))

    @classmethod
    def method_name(cls) -> str:
        """The name on the command line and in results: the acronym in lower case; RandomHeads is
        random-heads.
        """
        return re.sub("(?<=[a-z]{3})(?=[A-Z])", "-", cls.__name__).lower()

    @classmethod
    def edits(cls) -> tuple[str, ...]:
        """The places that this method edits, in the order they are passed."""
        return tuple(place for place in PLACES if getattr(cls, place) is not getattr(Method, place))

    def settings(self) -> dict[str, Any]:
        """Name and value of every setting, ready for JSON."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.metadata
        }

    # what a method may answer
    # --------------------------------------------------------------------------------

    def acts_in(self, layers: int) -> Collection[int]:
        """The layers (of `layers`) in which the method acts. All of them unless a paper says
        otherwise.
        """
        return range(layers)

    def sink_rule(self) -> tuple[str, float]:
        """How sinks are found, for a method that needs them: `("channels", τ)` or `("received",
        α)`.
        """
        return "channels", 20.0

    def second_view(self) -> View | None:
        """What a second branch is to see (`NoImage`, `NoisedImage`, `DisturbedPrompt`); None for no
        branch.

        The branch is the unmodified model: edits of attention and head outputs act in the main pass
        alone.
        """
        return None

    def early_layers(self, layers: int) -> Collection[int]:
        """The layers (of `layers`) whose entering hidden states are to be read as logits, for
        `Seen.early`.
        """
        return ()

    def score_heads(self, seen: Seen) -> Float[Tensor, "batch heads"] | None:
        """One score per head, asked once per prompt and layer; None for a method that chooses no
        heads.
        """
        return None

    def choose_heads(
        self, scores: Float[Tensor, "batch heads"], seen: Seen
    ) -> Bool[Tensor, "batch heads"]:
        """The heads to act on, from their scores; fixed for the rest of the sample."""
        return scores > -math.inf

    def mark_tokens(
        self, vision: Float[Tensor, "batch 2 columns"], image: Bool[Tensor, "batch columns"]
    ) -> Float[Tensor, "batch columns"]:
        """A number per image token, asked once per prompt (need "vision"), for `Seen.marks`; 0
        elsewhere.

        `vision` is the CLS token's attention in the vision tower's first and last but one layer,
        summed over heads.
        """
        return vision[:, 0]

    def given_heads(
        self, layers: int, heads: int
    ) -> tuple[Float[Tensor, "layers heads"], Bool[Tensor, "layers heads"]] | None:
        """Scores of all heads and the heads to act on, for a method that knows them before any
        prompt.
        """
        return None

    def attention_logits(
        self, logits: Float[Tensor, "batch heads query key"], seen: Seen
    ) -> Float[Tensor, "batch heads query key"]:
        """Edit logits after scaling and mask, before the softmax. Masked keys hold −inf, and keep
        it in any case.

        Where the settings change nothing, return the very tensor given: the model then stays
        bit-equal. The same holds for the places below.
        """
        return logits

    def attention_weights(
        self, weights: Float[Tensor, "batch heads query key"], seen: Seen
    ) -> Float[Tensor, "batch heads query key"]:
        """Edit the weights after the softmax."""
        return weights

    def head_outputs(
        self, outputs: Float[Tensor, "batch query heads dim"], seen: Seen
    ) -> Float[Tensor, "batch query heads dim"]:
        """Edit every head's output before the output projection, all rows of the pass."""
        return outputs

    def next_token_logits(
        self, logits: Float[Tensor, "batch vocabulary"], seen: Seen
    ) -> Float[Tensor, "batch vocabulary"]:
        """Edit the logits of the next token, at the last position of the model's output."""
        return logits


def _check(field: dataclasses.Field[Any], value: Any) -> None:
    """Raise `SettingError` unless `value` has the kind of the default and lies in the declared
    range.
    """
    name, declared = field.name, field.metadata
    if options := declared["options"]:
        if value not in options:
            raise SettingError(f"{name} must be one of {', '.join(options)}, got {value!r}")
        return
    if isinstance(field.default, bool):
        if not isinstance(value, bool):
            raise SettingError(f"{name} must be true or false, got {value!r}")
        return
    if isinstance(field.default, str):
        if not field.default:  # a file: whoever reads it says what is wrong with it
            return
        if not (isinstance(value, str) and value.strip()):
            raise SettingError(f"{name} must be words, got {value!r}")
        return
    if value is None and field.default is None:
        return
    numbers = value if isinstance(value, tuple) else (value,)
    if isinstance(value, tuple) != (field.default is None or isinstance(field.default, tuple)):
        raise SettingError(
            f"{name} must be {'a list of whole numbers' if field.default is None else 'a number'}, got {value!r}"
        )
    whole = field.default is None or isinstance(field.default, int)
    for number in numbers:
        if (
            isinstance(number, bool)
            or not isinstance(number, int if whole else (int, float))
            or not math.isfinite(number)
        ):
            raise SettingError(
                f"{name} must be a {'whole ' if whole else ''}number, got {number!r}"
            )
        if number < declared["low"]:
            raise SettingError(f"{name} must be >= {declared['low']:g}, got {number:g}")
        if number > declared["high"]:
            raise SettingError(f"{name} must be <= {declared['high']:g}, got {number:g}")
