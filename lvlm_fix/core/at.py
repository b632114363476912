"""What an edit may look at (`AtLayer`, `AtToken`), and what else it may ask for (`Watch`).

A method that needs more than the tensor it edits declares a `Watch`, a frozen dataclass. Equal
watches are one, shared by all methods that declare them. Each has a living twin (`Live`) while a
fix runs; an edit reads it as `at[watch]`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from lvlm_fix.core.attached import Attached
from lvlm_fix.core.attention import Tap
from lvlm_fix.core.text import Pass, State, Text
from lvlm_fix.families import Family

__all__ = ["AtLayer", "AtToken", "Host", "Live", "Rows", "Watch", "closure", "kept"]

T_co = TypeVar("T_co", covariant=True)
StateT = TypeVar("StateT", bound=State)


@dataclass(frozen=True)
class Watch(ABC, Generic[T_co]):
    """One thing that a method needs besides the tensor it edits. Equal watches are one."""

    @abstractmethod
    def live(self, host: Host) -> Live[T_co]:
        """Its living twin. Raises `ModelError` if the model lacks what it needs."""

    def needs(self) -> tuple[Watch[Any], ...]:
        """Other watches that its twin reads."""
        return ()


@dataclass(slots=True)
class AtLayer:
    """What an edit may look at, in one layer of one forward pass.

    At the places in the attention, `query` counts only the rows that are edited, and `key` counts
    all positions so far.
    """

    layer: int  # 0 is nearest the embeddings
    layers: int  # how many the decoder has
    prefill: bool  # rows of the prompt are among those of this pass
    image: Bool[Tensor, "batch key"]  # keys that are image tokens
    before_image: Bool[Tensor, "batch key"]  # keys in front of the first image token
    rows: Bool[Tensor, "batch query"]  # rows the method may edit in this sample
    values: Mapping[Any, Any] = field(default_factory=dict)  # by watch
    prompt_rows: int = 0  # the first so many rows of this pass are the prompt's
    queries: int = 0  # rows of this pass
    now: Pass | None = None
    logits: Float[Tensor, "batch heads query key"] | None = None  # edited logits, at the weights
    outputs: Float[Tensor, "batch heads dim"] | None = (
        None  # last prompt row, when heads are scored
    )

    def __getitem__(self, watch: Watch[T_co]) -> T_co:
        """What a watch that the method declares has found."""
        found = self.values[watch]
        return found.value(self) if isinstance(found, Live) else found


@dataclass(slots=True)
class AtToken:
    """What an edit of the next token's logits may look at."""

    layers: int  # how many layers the decoder has
    step: int = 0  # tokens generated so far; 0 at the end of the prompt
    values: Mapping[Any, Any] = field(default_factory=dict)  # by watch
    row: Int[Tensor, " batch"] | None = None  # of this pass, the row that predicts the token
    now: Pass | None = None

    def __getitem__(self, watch: Watch[T_co]) -> T_co:
        """What a watch that the method declares has found."""
        found = self.values[watch]
        return found.at_token(self) if isinstance(found, Live) else found


@dataclass
class Rows:
    """The attention of the rows that may be edited, before any edit; and how to compute more."""

    logits: Float[Tensor, "batch heads query key"]
    weights: Float[Tensor, "batch heads query key"]
    values: Float[Tensor, "batch key_heads key dim"]
    some: Callable[[Tensor], Tensor]  # rows of this pass -> their logits


@dataclass
class Host:
    """The surroundings that a living twin is given."""

    model: PreTrainedModel
    family: Family
    layers: frozenset[int]  # in which methods that declare it act
    unedited: Callable[[], Any]  # a context in which passes of the model are left alone
    taps: list[Tap]  # what serves as attention in such a pass, the last one outermost
    running: Callable[[], bool]  # whether a pass runs in which methods may act
    aside: Callable[[], bool]  # whether a pass runs beside it, in which nothing acts
    remember: bool  # weights and adapters stay as they are while the fix runs

    def entering(
        self, attached: Attached, layers: Iterable[int], keep: Callable[[int, Tensor], None]
    ) -> None:
        """Let `keep(layer, hidden states)` see what enters these layers in an edited pass."""

        def kept(layer: int, hidden: Tensor) -> None:
            if self.running():
                keep(layer, hidden)

        for layer in layers:
            attached.entering(self.family.layers[layer], layer, kept)


class Live(Generic[T_co]):
    """The living twin of a watch. It is told what passes, and keeps what it knows of a text in
    that text.
    """

    wants_rows = False  # tell it of the attention rows of a prompt, even where nothing edits them
    wants_new_rows = False  # the same of every row behind the prompt
    whole_prompt = False  # the prompt must come in one pass
    always = False  # tell it of texts without image too: one may follow

    def __init__(self, watch: Watch[T_co]) -> None:
        self.watch = watch

    def attach(self, attached: Attached) -> None:
        """Set the hooks it needs; `attached` undoes them."""

    def begin(self, now: Pass) -> None:
        """Before a pass in which a text has an image."""

    def enter(self, layer: int, now: Pass) -> None:
        """Before the attention of a layer."""

    def look(self, at: AtLayer, rows: Rows) -> None:
        """The attention rows of a pass, before edits: over the prompt, or after it if they are
        wanted.
        """

    def leave(self, at: AtLayer, output: Float[Tensor, "batch query heads dim"]) -> None:
        """The head outputs of a layer in a pass over the prompt, before they are edited."""

    def end(self, now: Pass, call: Any, output: Any) -> None:
        """After a pass, before the next token's logits are edited."""

    def value(self, at: AtLayer) -> T_co:
        """What `at[watch]` gives in a layer."""
        raise NotImplementedError(f"{type(self).__name__} has nothing to say in a layer")

    def at_token(self, at: AtToken) -> T_co:
        """What `at[watch]` gives at the next token."""
        raise NotImplementedError(f"{type(self).__name__} has nothing to say at a token")

    def told(self, text: Text) -> dict[str, dict[int, list[int]]]:
        """For the report: `heads` or `sinks` by layer, one count per sample."""
        return {}


def kept(text: Text, watch: Any, make: type[StateT]) -> StateT:
    """The state of a watch in a text; a new one if there is none."""
    if watch not in text.kept:
        text.kept[watch] = make()
    return cast(StateT, text.kept[watch])


def closure(watches: Iterable[Watch[Any]]) -> tuple[Watch[Any], ...]:
    """These watches and all that their twins read, each once; watches that are read come first."""
    found: dict[Watch[Any], None] = {}
    for watch in watches:
        found |= dict.fromkeys((*closure(watch.needs()), watch))
    return tuple(found)
