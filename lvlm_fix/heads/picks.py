"""`PicksHeads`: a method that acts on some heads, picked by its own rule or by a table of any
score.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from lvlm_fix.core.at import AtLayer, Watch
from lvlm_fix.core.method import Method
from lvlm_fix.core.settings import setting
from lvlm_fix.errors import SettingError
from lvlm_fix.heads.table import HeadTable
from lvlm_fix.watches.heads import HeadRule, Picked, PickedHeads, upper_half

__all__ = ["PicksHeads", "upper_half"]


@dataclass(frozen=True, kw_only=True)
class PicksHeads(Method):
    """Base of the methods that pick heads. With a `table`, the heads are the same for every prompt
    and known before it.

    Raises `DataError` if the table cannot be read, or if the model has another shape.
    """

    table: str | HeadTable = setting(
        "", "head table that picks the heads; empty: the method's own choice", "ours"
    )
    top: int = setting(
        0, "how many of the table's heads; 0: those above their layer's median", "ours", low=0
    )
    _picks: dict[int, PickedHeads | None] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )  # by depth

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.top and not self.table:
            raise SettingError(
                "top counts heads of a table: name one, as in "
                f"{self.method_name()}.table=heads.json"
            )
        _ = self.scoring  # read now, so that a bad file is an error here

    @cached_property
    def scoring(self) -> HeadTable | None:
        """The table that picks the heads; None without one."""
        if isinstance(self.table, str) and self.table:
            return HeadTable.load(self.table)
        return self.table or None  # pyright: ignore[reportReturnType]: a string is empty here

    @property
    def rule(self) -> HeadRule | None:
        """How heads are picked without a table; None: the method then acts on no picked heads."""
        return None

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"table": str(self.table)}

    def picks(self, layers: int) -> PickedHeads | None:
        """The watch of the picked heads, in a decoder of so many layers."""
        if layers not in self._picks:
            rule = None if self.scoring is not None else self.rule
            acting = tuple(self.acts_in(layers)) if self.top else ()
            none = rule is None and self.scoring is None
            picks = None if none else PickedHeads(rule, self.scoring, self.top, acting)
            self._picks[layers] = picks
        return self._picks[layers]

    def watches(self, layers: int) -> tuple[Watch[Any], ...]:
        picks = self.picks(layers)
        return () if picks is None else (picks,)

    def picked(self, at: AtLayer) -> Picked | None:
        """The picked heads of the layer; None where none are picked, or not yet."""
        picks = self.picks(at.layers)
        return None if picks is None else at[picks]
