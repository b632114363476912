"""`Steers`: a method that reads vectors from a file."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lvlm_fix.core.at import Watch
from lvlm_fix.core.method import Method
from lvlm_fix.core.settings import setting
from lvlm_fix.errors import DataError, SettingError
from lvlm_fix.vectors.vectors import COUNTINGS, Vectors
from lvlm_fix.watches.steering import Steering

__all__ = ["Steers"]


@dataclass(frozen=True, kw_only=True)
class Steers(Method):
    """Base of the methods that steer by vectors, in the layers that have one.

    Raises `DataError`, which names file and key, if the file cannot be read or if it or the model
    lacks a layer; `SettingError` if no file is named.
    """

    vectors: str | Vectors = setting(
        "", "vectors: safetensors, a gguf control vector, or a folder of repsteer", "ours"
    )
    counting: str = setting(
        "file", "how the file counts layers, if it does not say", "ours",
        options=("file", *COUNTINGS),
    )  # fmt: skip
    layers: tuple[int, ...] | None = setting(
        None, "decoder layers to act in, from 0; none: all that have a vector", "ours", low=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.read  # now, so that a bad file is an error here

    @cached_property
    def read(self) -> Vectors | None:
        """The vectors by decoder layer; None if none are named."""
        if isinstance(self.vectors, str):
            return Vectors.load(self.vectors, self.counting) if self.vectors else None
        return self.vectors

    def given(self) -> Vectors:
        """The vectors. Raises `SettingError` if none are named."""
        if self.read is None:
            name = self.method_name()
            raise SettingError(
                f"{name} needs vectors: name a file, as in {name}.vectors=vectors.safetensors; "
                "`lvlm-fix vectors make` makes one"
            )
        return self.read

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"vectors": str(self.vectors)}

    def acts_in(self, layers: int) -> Collection[int]:
        vectors = self.given()
        chosen = tuple(vectors.rows) if self.layers is None else self.layers
        for layer in chosen:
            if layer not in vectors.rows:
                raise DataError(f"{vectors}: it has no vector for layer {layer}")
            if layer >= layers:
                raise DataError(
                    f"{vectors}: it has a vector for layer {layer}, this model has {layers} layers,"
                    " from 0"
                )
        return chosen

    def watches(self, layers: int) -> tuple[Watch[Any], ...]:
        return (self.steering,)

    @cached_property
    def steering(self) -> Steering:
        """The watch of the vectors."""
        return Steering(self.given())
