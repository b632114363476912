"""Caches that take their text along: what happens to a cache (beams, cuts, copies, selections)
happens to its text.

While a fix runs, a cache that passes gets a class that does what its own class does, and then tells
its text. Nothing but its methods changes; `release` gives the old class back.
"""

from __future__ import annotations

import functools
from typing import Any, cast

import torch
from transformers import Cache

from lvlm_fix.core.text import Text

__all__ = ["follow", "length_of", "release", "text_in", "text_of"]

TEXT = "_lvlm_fix_text"


def follow(cache: Cache, text: Text) -> None:
    """Make `text` the text of this cache."""
    cache.__dict__[TEXT] = text
    if not issubclass(type(cache), Followed):
        cache.__class__ = _followed(type(cache))


def release(cache: Cache) -> None:
    """Give the cache its old class back."""
    cache.__dict__.pop(TEXT, None)
    if issubclass(type(cache), Followed):
        cache.__class__ = cast(Any, type(cache)).__mro__[2]


def text_of(cache: Cache, owner: object) -> Text | None:
    """The text whose keys the cache holds; None if `owner` does not know it."""
    text: Text | None = cache.__dict__.get(TEXT)
    return text if text is not None and text.owner is owner else None


def text_in(cache: Cache) -> Text | None:
    """The text whose keys the cache holds, whoever owns it."""
    return cache.__dict__.get(TEXT)


def length_of(cache: Cache) -> int:
    """How many columns a cache holds."""
    return int(cache.get_seq_length())


class Followed:
    """What a followed cache does in addition to its own class."""

    def reorder_cache(self, *args: Any) -> None:
        cast(Any, super()).reorder_cache(*args)
        self.__dict__[TEXT].reorder(args[0])

    def crop(self, *args: Any) -> None:
        cast(Any, super()).crop(*args)
        text: Text = self.__dict__[TEXT]
        if (left := length_of(cast(Cache, self))) < text.length:
            text.cut(left)

    def reset(self) -> None:
        cast(Any, super()).reset()
        self.__dict__[TEXT].owner = None  # what comes next begins another text

    def batch_repeat_interleave(self, *args: Any) -> None:
        cast(Any, super()).batch_repeat_interleave(*args)
        text: Text = self.__dict__[TEXT]
        text.select(torch.arange(text.batch).repeat_interleave(args[0]))

    def batch_select_indices(self, *args: Any) -> None:
        cast(Any, super()).batch_select_indices(*args)
        self.__dict__[TEXT].select(args[0])


@functools.cache
def _followed(kind: type[Cache]) -> type[Cache]:
    return type(kind.__name__, (Followed, kind), {"__module__": kind.__module__})
