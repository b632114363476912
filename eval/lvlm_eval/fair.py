"""What a lower CHAIR is worth: at equal length, and at the recall that trivial controls keep.

Columns are those of `chair.columns`, one row per photo, the same photos in the same order for every
method. Source: a Poisson model with one slope over all methods (ours, after the fit per
configuration of mitigv), errors clustered by photo (Liang & Zeger 1986); the frontier as its
Pareto set of trivial runs, linear in between.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from lvlm_eval.chair.score import figures
from lvlm_eval.stats import DRAWS, Array, draws_of, holm, interval, none_if_nan

__all__ = ["distances", "frontier", "is_control", "length_adjusted"]

INVENTED, NAMED, WORDS = 2, 3, 7
"""Places in `chair.columns`."""


def length_adjusted(rows: Mapping[str, Array], base: str) -> dict[str, Any]:
    """CHAIR_I as if every caption had the mean number of words of `base`'s.

    One model over all methods, `log E[invented] = log mentions + method + b·words`, errors
    clustered by photo. Captions that name nothing tell nothing. Per method `ratio` (its CHAIR_I
    over that of `base` at equal length), `ci`, `p`, `p_holm`; all None where a method, or `base`,
    invents nothing, or where length and method cannot be told apart, for the model then has no one
    fit.
    """
    import statsmodels.api as sm

    fitted = [name for name, found in rows.items() if found[:, INVENTED].sum() > 0]
    out: dict[str, Any] = {
        name: {"ratio": None, "ci": [None, None], "p": None, "p_holm": None}
        for name in rows
        if name != base
    }
    others = [name for name in fitted if name != base]
    if base not in fitted or not others:
        return out
    photos = np.tile(np.arange(len(rows[base])), len(fitted))
    which = np.repeat(np.arange(len(fitted)), len(rows[base]))
    counts = np.concatenate([rows[name] for name in fitted])
    told = counts[:, NAMED] > 0
    photos, which, counts = photos[told], which[told], counts[told]
    effects = np.stack([which == fitted.index(name) for name in others], axis=1).astype(float)
    words = counts[:, WORDS] - rows[base][:, WORDS].mean()
    design = np.column_stack([np.ones(len(words)), effects])
    if words.std() > 0:  # else every caption has the same length: nothing to adjust for
        design = np.column_stack([design, words / words.std()])
    if np.linalg.matrix_rank(design) < design.shape[1]:
        return out  # length and method cannot be told apart
    model = sm.GLM(
        counts[:, INVENTED], design, family=sm.families.Poisson(), offset=np.log(counts[:, NAMED])
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of captions that the model predicts to the last mention
        found = model.fit(cov_type="cluster", cov_kwds={"groups": photos})
        ends, ps = np.asarray(found.conf_int()), found.pvalues
    for place, name in enumerate(others, 1):
        effect, p = float(found.params[place]), float(ps[place])
        low, high = (float(end) for end in np.exp(ends[place]))
        p = 1.0 if np.isnan(p) else p  # no difference at all, and no spread
        out[name] = {"ratio": float(np.exp(effect)), "ci": [low, high], "p": p}
    corrected = holm({name: out[name]["p"] for name in others})
    for name in others:
        out[name]["p_holm"] = corrected[name]
    return out


def frontier(recall: Array, chair_i: Array, at: float) -> float:
    """The lowest CHAIR_I that points reach at recall `at`: linear between those that no other point
    beats in both; NaN outside of their range.
    """
    order = np.lexsort((chair_i, -recall))
    xs, ys = list[float](), list[float]()
    for place in order:  # from the highest recall downwards
        x, y = float(recall[place]), float(chair_i[place])
        if not np.isnan(x + y) and (not ys or y < ys[-1]):
            xs.append(x)
            ys.append(y)
    if not xs or not xs[-1] <= at <= xs[0]:
        return float("nan")
    return float(np.interp(at, xs[::-1], ys[::-1]))


def distances(
    methods: Mapping[str, Array],
    controls: Mapping[str, Array],
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Any]:
    """CHAIR_I of each method minus that of the controls at the same recall; below 0 is better.

    Photos are resampled jointly, and the frontier is made anew in every resample. Per method
    `controls` (their CHAIR_I at its recall), `distance`, `ci`, `p` (two-sided), `p_holm`, and
    `comparable`: the share of resamples in which its recall lies within the controls'. Resamples
    where it does not count against the method. All None where the recall itself lies outside.
    """
    if not methods or not controls:
        return {}
    columns = np.stack([*methods.values(), *controls.values()])  # method, photo, column
    observed = figures(columns.sum(axis=1))
    drawn = [figures(sums) for sums in draws_of(columns, draws, seed)]
    out: dict[str, Any] = {}
    for place, name in enumerate(methods):
        at = _at(observed, place, len(methods))
        each = np.array([_distance(one, place, len(methods)) for one in drawn])
        lost = int(np.isnan(each).sum())
        distance = _distance(observed, place, len(methods))
        tail = min(int((each <= 0).sum()), int((each >= 0).sum())) + lost
        p = None if np.isnan(distance) else min(1.0, 2 * (tail + 1) / (draws + 1))
        ends = (float("nan"),) * 2 if p is None else interval(each)
        out[name] = {
            "controls": none_if_nan(at),
            "distance": none_if_nan(distance),
            "ci": [none_if_nan(end) for end in ends],
            "p": p,
            "p_holm": None,
            "comparable": 1 - lost / draws,
        }
    known = {name: found["p"] for name, found in out.items() if found["p"] is not None}
    for name, p in holm(known).items():
        out[name]["p_holm"] = p
    return out


def _at(found: Mapping[str, Array], place: int, methods: int) -> float:
    """The controls' CHAIR_I at the recall of one method; the controls stand behind the methods."""
    recall, chair_i = found["recall"], found["chair_i"]
    return frontier(recall[methods:], chair_i[methods:], float(recall[place]))


def _distance(found: Mapping[str, Array], place: int, methods: int) -> float:
    return float(found["chair_i"][place]) - _at(found, place, methods)


def is_control(spec: str, ask: bool = False) -> bool:
    """Whether a method as on the command line is trivial: the unmodified model, `truncate` or
    `eos-boost`; with `ask` also such a one whose texts are checked.
    """
    parts = [part.partition(":")[0] for part in spec.split("+")]
    return set(parts) <= {"none", "truncate", "eos-boost", *(["ask"] if ask else [])}
