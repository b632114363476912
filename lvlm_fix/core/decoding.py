"""How a method decodes by itself: which one does, and the keywords of its `generate`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lvlm_fix.core.method import Method
from lvlm_fix.errors import InputError, SettingError

__all__ = ["Decoding", "decoding_of", "own_decoding"]

DECODING = "_lvlm_fix_decoding"
# keywords that never reach a decoding of one's own
LOST = ("assistant_model", "prompt_lookup_num_tokens", "streamer", "stop_strings")


@dataclass
class Decoding:
    """The decoding of one running `generate`, and whether it has run."""

    method: str
    run: Callable[..., Any]
    used: bool = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.used = True
        return self.run(*args, **kwargs)


def decoding_of(model: PreTrainedModel) -> Decoding | None:
    """What decodes in place of the stock loop in this thread's running `generate`."""
    running: Callable[[], Decoding | None] | None = model.__dict__.get(DECODING)
    return None if running is None else running()


def own_decoding(methods: Sequence[Method]) -> tuple[int, Method] | None:
    """The method that decodes by itself, with its place. Raises `SettingError` for two."""
    found = [(n, m) for n, m in enumerate(methods) if type(m).decoding is not Method.decoding]
    if len(found) > 1:
        names = " and ".join(method.method_name() for _, method in found)
        raise SettingError(f"only one method can decode, but {names} do: name one of them")
    return found[0] if found else None


def decoded(
    method: Method, model: PreTrainedModel, image_tokens: tuple[int, ...], given: Mapping[str, Any]
) -> tuple[dict[str, Any], Decoding | None]:
    """The keywords of a `generate` under a method that decodes, and what is to run.

    Raises `InputError` if the caller asks for something that such a decoding cannot serve.
    """
    ids, config = given.get("input_ids", given.get("inputs")), given.get("generation_config")
    if isinstance(ids, Tensor) and not torch.isin(ids.cpu(), torch.tensor(image_tokens)).any():
        return dict(given), None

    def asked(name: str) -> Any:
        for one in (given.get(name), getattr(config, name, None)):
            if one is not None:
                return one
        return getattr(model.generation_config, name, None)

    found = method.decoding(int(asked("num_beams") or 1))
    if found is None:
        return dict(given), None
    beams, run = found
    name = method.method_name()
    if lost := [key for key in LOST if asked(key) is not None]:
        raise InputError(f"{name} decodes by itself, so {lost[0]} has no effect: leave it off")
    new = dict(given) | {"num_beams": beams}
    if run is None:
        return new, None
    decoding = Decoding(name, run)
    if given.get("custom_generate") is None:
        new["custom_generate"] = decoding
    return new, decoding
