"""Intervals and tests against literal loops and hand-worked tables."""

import numpy as np
import pytest
from lvlm_eval.stats import Array, bootstrap, holm, paired, ratio

from lvlm_fix import DataError


def share(sums: Array) -> dict[str, Array]:
    return {"share": ratio(sums[..., 0], sums[..., 1])}


def sample(rows: int, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    named = rng.integers(1, 6, rows)
    return np.stack([rng.binomial(named, 0.3), named], axis=1).astype(np.float64)


def test_bootstrap_equals_a_literal_loop() -> None:
    rows = sample(37, 1)
    values, intervals = bootstrap(rows, share, draws=450, seed=5)
    rng, drawn = np.random.default_rng(5), []
    for start in range(0, 450, 200):
        for picked in rng.integers(0, 37, size=(min(200, 450 - start), 37)):
            drawn.append(rows[picked, 0].sum() / rows[picked, 1].sum())
    assert values["share"] == rows[:, 0].sum() / rows[:, 1].sum()
    assert intervals["share"] == pytest.approx(np.quantile(drawn, [0.025, 0.975]))


def test_paired_equals_a_literal_loop() -> None:
    ours, base = sample(29, 1), sample(29, 2)
    found = paired(ours, base, share, draws=150, seed=3)["share"]
    drawn = [
        ours[picked, 0].sum() / ours[picked, 1].sum()
        - base[picked, 0].sum() / base[picked, 1].sum()
        for picked in np.random.default_rng(3).integers(0, 29, size=(150, 29))
    ]
    below, above = sum(d <= 0 for d in drawn), sum(d >= 0 for d in drawn)
    assert found.difference == pytest.approx(
        ours[:, 0].sum() / ours[:, 1].sum() - base[:, 0].sum() / base[:, 1].sum()
    )
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))
    assert found.p == pytest.approx(min(1, 2 * (min(below, above) + 1) / 151))


def test_a_method_that_changes_nothing_differs_by_nothing() -> None:
    found = paired(sample(20, 1), sample(20, 1), share)["share"]
    assert tuple(found) == (0, 0, 0, 1)


def test_the_interval_covers_the_truth_about_95_times_in_100() -> None:
    covered = 0
    for seed in range(200):
        low, high = bootstrap(sample(200, 100 + seed), share, draws=300)[1]["share"]
        covered += low <= 0.3 <= high
    assert 180 <= covered <= 199


def test_holm_by_hand() -> None:
    assert holm({"a": 0.04, "b": 0.01, "c": 0.03}) == pytest.approx(
        {"a": 0.06, "b": 0.03, "c": 0.06}
    )
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_nothing_to_score_is_an_error() -> None:
    with pytest.raises(DataError, match="no samples"):
        bootstrap(np.zeros((0, 2)), share)
    with pytest.raises(DataError, match="same photos"):
        paired(sample(3, 1), sample(4, 1), share)
