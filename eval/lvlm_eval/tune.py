"""A search for settings that confirms itself: tuned on one half of the photos, judged on the other.

The goal: the lowest CHAIR_I whose recall stays within a point of the unmodified model's, and whose
distinct trigrams are at least .95 of its. The search is optuna's (TPE, seeded: the same search
again asks for the same settings). The best settings of each method that reach the goal are run once
on the other half; one helps if CHAIR_I is lower there with Holm's p below .05 over those methods,
and the goal still holds.
Source: Bergstra et al., "Algorithms for Hyper-Parameter Optimization" (2011); Holm (1979).
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lvlm_eval.chair.score import figures
from lvlm_eval.stats import Array, holm, paired
from lvlm_fix.errors import SettingError
from lvlm_fix.methods import METHODS

__all__ = ["GOAL", "Goal", "Space", "confirm", "search", "space_of", "spec_of"]

Space = Mapping[str, tuple[float, float]]
"""Setting -> the lowest and the highest value to try."""
Rows = Callable[[str], Array]
"""A method as on the command line -> `chair.columns` of its captions, one row per photo."""


@dataclass(frozen=True)
class Goal:
    """What a text must keep for its CHAIR_I to count."""

    recall: float = -0.01  # least difference from the unmodified model, a fraction
    distinct: float = 0.95  # least share of its distinct trigrams

    def missed(self, found: Array, base: Array) -> float:
        """By how much, fractions together; 0 where all is kept."""
        ours, theirs = (figures(rows.sum(axis=0)) for rows in (found, base))
        recall = float(theirs["recall"] + self.recall - ours["recall"])
        fresh = float(self.distinct * theirs["distinct_3"] - ours["distinct_3"])
        return max(0.0, recall) + max(0.0, fresh)


GOAL = Goal()


def space_of(method: str, given: Space | None = None) -> Space:
    """Where to look for a method's settings: as given, or from a quarter of each decimal setting's
    default to four times it, within its limits.

    Raises:
        SettingError: the method has no such setting, or nothing that can be tuned.
    """
    known = {field.name: field for field in dataclasses.fields(METHODS[method]) if field.metadata}
    if given:
        for name in given:
            if name not in known:
                raise SettingError(f"{method} has no setting {name!r}; it has {', '.join(known)}")
        return given
    out: dict[str, tuple[float, float]] = {}
    for name, field in known.items():
        if isinstance(field.default, float) and field.default > 0:
            out[name] = (
                max(field.default / 4, field.metadata["low"]),
                min(field.default * 4, field.metadata["high"]),
            )
    if not out:
        raise SettingError(f"{method} has no decimal setting to tune; leave it out")
    return out


def spec_of(method: str, settings: Mapping[str, float]) -> str:
    """A method with settings, as on the command line."""
    return f"{method}:" + ",".join(f"{name}={value:.4g}" for name, value in settings.items())


def search(
    rows: Rows,
    base: Array,
    spaces: Mapping[str, Space],
    trials: int,
    *,
    goal: Goal = GOAL,
    seed: int = 0,
    seconds: float | None = None,
) -> dict[str, str]:
    """The best settings of each method that lower CHAIR_I and reach the goal: method -> spec.

    Args:
        rows: of the photos to tune on; `base` has the unmodified model's.
        trials: how many settings are tried in all.
        seconds: no trial begins after so many.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    plain = float(figures(base.sum(axis=0))["chair_i"])
    best: dict[str, tuple[float, str]] = {}

    def tried(trial: Any) -> float:
        method = trial.suggest_categorical("method", list(spaces))
        spec = spec_of(
            method,
            {
                name: trial.suggest_float(f"{method}.{name}", *ends)
                for name, ends in spaces[method].items()
            },
        )
        found = rows(spec)
        value = float(figures(found.sum(axis=0))["chair_i"])
        if value != value:  # nothing was named: there is nothing to judge
            return 2.0
        missed = goal.missed(found, base)
        if not missed and value < min(plain, best.get(method, (plain, ""))[0]):
            best[method] = value, spec
        return value + (1 + missed if missed else 0)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is experimental in the search
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
        study.optimize(tried, n_trials=trials, timeout=seconds)
    return {method: spec for method, (_, spec) in best.items()}


def confirm(
    rows: Mapping[str, Array], base: Array, *, goal: Goal = GOAL, seed: int = 0
) -> dict[str, Any]:
    """Whether settings found on other photos help on these: per spec the paired differences from
    the unmodified model, `p_holm`, `helps`; and `winner`, None where nothing helps.
    """
    differences = {spec: paired(found, base, figures, seed=seed) for spec, found in rows.items()}
    corrected = holm({spec: found["chair_i"].p for spec, found in differences.items()})
    out: dict[str, Any] = {}
    for spec, found in differences.items():
        lower = found["chair_i"].difference < 0 and corrected[spec] < 0.05
        out[spec] = {
            name: found[name]._asdict() for name in ("chair_i", "recall", "distinct_3", "length")
        } | {"p_holm": corrected[spec], "helps": lower and not goal.missed(rows[spec], base)}
    helping: Sequence[str] = [spec for spec in out if out[spec]["helps"]]
    winner = min(helping, key=lambda spec: out[spec]["chair_i"]["difference"], default=None)
    return {"n": len(base), "candidates": out, "winner": winner}
