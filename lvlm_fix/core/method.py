"""`Method`: a frozen dataclass of pure edits.

A paper overrides only the places that it edits. Nothing here touches a model; `lvlm_fix.attach`
does. Axes are always ordered `batch layers heads query key dim`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jaxtyping import Float
from torch import Tensor

from lvlm_fix.core.at import AtLayer, AtToken, Watch
from lvlm_fix.core.settings import check_settings
from lvlm_fix.errors import PluginError

__all__ = ["PLACES", "Method"]

PLACES = (
    "prompt_cache",
    "attention_logits",
    "attention_weights",
    "head_outputs",
    "hidden_states",
    "next_token_logits",
)
# what a method of release 0.1 could answer, and what to write now
FORMER = {
    "needs": "watches",
    "sink_rule": "watches, with ChannelSinks or ReceivedSinks",
    "second_view": "watches, with Branch",
    "early_layers": "watches, with EarlyLayers",
    "score_heads": "watches, with PickedHeads",
    "choose_heads": "watches, with PickedHeads",
    "given_heads": "watches, with PickedHeads",
    "mark_tokens": "watches, with TowerLooks",
}


@dataclass(frozen=True)
class Method:
    """Base of all methods. Subclasses are final, frozen, and override only the places they edit.

    Raises `SettingError` on construction if a setting is out of its declared range, and
    `PluginError` for a class that overrides something that only release 0.1 had.
    """

    # attention rows edited: text behind the image, or those that predict a token of the answer
    reach: ClassVar[Literal["text", "last"]] = "text"
    # where `hidden_states` edits: what a decoder layer gives, or what its MLP adds
    part: ClassVar[Literal["layer", "mlp"]] = "layer"
    # a control shows what a method must be better than
    control: ClassVar[bool] = False
    paper: ClassVar[str] = ""

    def __post_init__(self) -> None:
        present = dir(type(self))
        for name, instead in FORMER.items():
            if name in present:
                raise PluginError(
                    f"{type(self).__name__} overrides {name}, which methods no longer have: "
                    f"override {instead} (see CONTRIBUTING)"
                )
        check_settings(self)

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

    def acts_in(self, layers: int) -> Collection[int]:
        """The layers (of `layers`) in which the method acts. All of them unless a paper says
        otherwise.
        """
        return range(layers)

    def watches(self, layers: int) -> tuple[Watch[Any], ...]:
        """What the method needs in a decoder of so many layers; its edits read `at[watch]`."""
        return ()

    def decoding(self, beams: int) -> tuple[int, Callable[..., Any] | None] | None:
        """How many beams `generate` runs for a prompt with image, and what it gets as
        `custom_generate` (None: the stock search). None leaves the stock decoding alone.

        `beams` is the number that the caller asked for; 1 without such a request. Only one method
        of a fix may decode.
        """
        return None

    def prompt_cache(
        self,
        keys: Float[Tensor, "batch heads key dim"],
        values: Float[Tensor, "batch heads key dim"],
        at: AtLayer,
    ) -> tuple[Float[Tensor, "batch heads key dim"], Float[Tensor, "batch heads key dim"]]:
        """Edit the first prompt's keys and values as they are cached, once, when the prompt is
        complete. Its last row and all rows after it see the edit. Heads are those of the keys.
        """
        return keys, values

    def attention_logits(
        self, logits: Float[Tensor, "batch heads query key"], at: AtLayer
    ) -> Float[Tensor, "batch heads query key"]:
        """Edit logits after scaling and mask, before the softmax. Masked keys hold −inf, and keep
        it in any case.

        If the settings change nothing, return the very tensor given: the model then stays
        bit-equal. The same holds for the places below.
        """
        return logits

    def attention_weights(
        self, weights: Float[Tensor, "batch heads query key"], at: AtLayer
    ) -> Float[Tensor, "batch heads query key"]:
        """Edit the weights after the softmax."""
        return weights

    def head_outputs(
        self, outputs: Float[Tensor, "batch query heads dim"], at: AtLayer
    ) -> Float[Tensor, "batch query heads dim"]:
        """Edit every head's output before the output projection, all rows of the pass."""
        return outputs

    def hidden_states(
        self, hidden: Float[Tensor, "batch query width"], at: AtLayer
    ) -> Float[Tensor, "batch query width"]:
        """Edit what a decoder layer gives, or what its MLP adds (`part`), all rows of the pass.

        Here `at.rows` marks the rows that are not padding, in samples with an image.
        """
        return hidden

    def next_token_logits(
        self, logits: Float[Tensor, "batch vocabulary"], at: AtToken
    ) -> Float[Tensor, "batch vocabulary"]:
        """Edit the logits of the next token, at the last position of the model's output."""
        return logits
