"""`TowerSteering`: turn what the vision tower's MLPs write, at every place by its own vector."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from lvlm_fix.core.at import Host, Live, Watch, kept
from lvlm_fix.core.attached import Attached
from lvlm_fix.core.call import Call
from lvlm_fix.core.text import Pass, State
from lvlm_fix.errors import DataError, InputError
from lvlm_fix.families import mlp_of
from lvlm_fix.vectors.turning import turned
from lvlm_fix.vectors.vectors import Vectors

__all__ = ["TowerSteering"]


@dataclass(frozen=True)
class TowerSteering(Watch[None]):
    """Nothing to read: photos that pass the tower while the fix runs are encoded with what its MLPs
    write turned by `strength` towards the vectors (`turned`), and others are refused.

    Raises `DataError` where the vectors are not of this tower.
    """

    vectors: Vectors
    strength: float

    def live(self, host: Host) -> _Live:
        return _Live(self, host)


class _Live(Live[None]):
    whole_prompt = True

    def __init__(self, watch: TowerSteering, host: Host) -> None:
        super().__init__(watch)
        self._vectors, self._strength, self._aside = watch.vectors, watch.strength, host.aside
        tower = host.model.get_encoder(modality="image")
        self._layers = max((m for m in tower.modules() if isinstance(m, nn.ModuleList)), key=len)
        self._rows = {layer: rows.float() for layer, rows in self._vectors.tower.items()}
        self._local = threading.local()  # whether photos passed in this thread, and in no pass yet
        if not self._rows:
            raise DataError(
                f"{self._vectors}: it has no vectors of the vision tower (tower.N, places × width)"
            )
        if (last := max(self._rows)) >= len(self._layers):
            raise DataError(
                f"{self._vectors}: tower.{last} is not of this model, whose vision tower has "
                f"{len(self._layers)} layers, from 0"
            )

    def attach(self, attached: Attached) -> None:
        for layer in self._rows:
            attached.after(mlp_of(self._layers[layer]), partial(self._turn, layer))

    def _turn(self, layer: int, _: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if self._aside():
            return None
        hidden: Tensor = output if isinstance(output, Tensor) else output[0]
        rows = self._rows[layer]
        if hidden.shape[1:] != rows.shape:
            raise DataError(
                f"{self._vectors}: tower.{layer} has {tuple(rows.shape)} places and width, this "
                f"photo has {tuple(hidden.shape[1:])}"
            )
        if rows.device != hidden.device:
            rows = self._rows[layer] = rows.to(hidden.device)
        self._local.passed = True
        new = turned(hidden, rows[None], self._strength).to(hidden.dtype)
        return new if isinstance(output, Tensor) else (new, *output[1:])

    def begin(self, now: Pass) -> None:
        kept(now.text, self.watch, State)

    def end(self, now: Pass, call: Call, output: Any) -> None:
        if not now.prompt_rows:
            return
        here = now.text.shown[:, now.start : now.start + now.prompt_rows]
        passed = self._local.__dict__.pop("passed", False)
        if bool(here.any()) and not passed:
            raise InputError(
                "the photos did not pass the vision tower: give pixel values, not features"
            )
