"""`Checked`: a text, and what the model answered about the objects it names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lvlm_fix.ask.asker import Answers
from lvlm_fix.objects import Spot

if TYPE_CHECKING:
    from lvlm_fix.ask.calibration import Calibration

__all__ = ["Checked"]


@dataclass(frozen=True)
class Checked:
    """One text, and what the model answered about the objects it names."""

    text: str  # as it is returned
    said: str  # as it was first written; with "rewrite" the same as `text`
    spots: tuple[Spot, ...]  # object words of `text`
    odds: Answers  # of every object asked about, dropped ones too
    threshold: float
    ended: bool = True  # by the model; False: cut at the token limit

    @property
    def doubtful(self) -> tuple[Spot, ...]:
        """The object words of the text whose answer is below the threshold."""
        return tuple(spot for spot in self.spots if self.odds[spot.object] < self.threshold)

    def marked(self, curve: Calibration | None = None) -> str:
        """The text with "(?)" after every doubtful word. With a calibration, the chance that the
        object is there stands instead, as "(12 %)".
        """
        text = self.text
        for spot in reversed(self.doubtful):
            odds = self.odds[spot.object]
            mark = "?" if curve is None else f"{curve.chance(odds):.0%}".replace("%", " %")
            text = f"{text[: spot.end]}({mark}){text[spot.end :]}"
        return text

    def as_dict(self, curve: Calibration | None = None) -> dict[str, Any]:
        """Ready for JSON: the answer for each object word; `chance` is null if uncalibrated."""
        doubtful = self.doubtful
        return {
            "said": self.said,
            "threshold": self.threshold,
            "calibrated": curve is not None,
            "words": [
                {
                    "word": self.text[spot.start : spot.end],
                    "object": spot.object,
                    "start": spot.start,
                    "end": spot.end,
                    "odds": round(odds := self.odds[spot.object], 4),
                    "chance": None if curve is None else round(curve.chance(odds), 4),
                    "doubtful": spot in doubtful,
                }
                for spot in self.spots
            ],
            "asked": {name: round(odds, 4) for name, odds in self.odds.items()},
        }
