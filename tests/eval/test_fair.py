"""CHAIR at equal length and at equal recall: by hand, on made counts, on real captions."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from lvlm_eval.coco import read_truth
from lvlm_eval.compare import compare, of_captions
from lvlm_eval.fair import distances, frontier, is_control, length_adjusted
from lvlm_eval.shown import picture, show
from lvlm_eval.stats import Array, draws_of
from rich.console import Console

from lvlm_fix import DataError


def counts(words: Array, invented: Array, named: Array, hit: Array | None = None) -> Array:
    """Rows as `chair.columns` makes them; five objects a photo."""
    ones = np.ones(len(words))
    hit = named - invented if hit is None else hit
    return np.stack(
        [ones, invented > 0, invented, named, hit, named, 5 * ones, words, ones], axis=1
    ).astype(np.float64)


def test_the_frontier_by_hand() -> None:
    recall, chair_i = np.array([0.8, 0.6, 0.7, 0.75]), np.array([0.12, 0.06, 0.14, 0.13])
    assert frontier(recall, chair_i, 0.7) == pytest.approx(
        0.09
    )  # the dominated points do not count
    assert frontier(recall, chair_i, 0.8) == pytest.approx(0.12)
    assert np.isnan(frontier(recall, chair_i, 0.81))
    assert np.isnan(frontier(recall, chair_i, 0.59))
    assert np.isnan(frontier(np.array([np.nan]), np.array([0.1]), 0.5))


def test_photos_are_resampled_alike_for_all_methods() -> None:
    rows = np.random.default_rng(1).random((2, 9, 3))
    rng, found = np.random.default_rng(4), draws_of(rows, draws=20, seed=4)
    for draw, picked in zip(found, rng.integers(0, 9, size=(20, 9)), strict=True):
        assert draw == pytest.approx(np.stack([rows[0, picked].sum(0), rows[1, picked].sum(0)]))


def test_shorter_captions_are_no_gain_at_equal_length() -> None:
    rng = np.random.default_rng(0)
    rows = {}
    for name, mean, factor in (("none", 80, 1.0), ("shorter", 40, 1.0), ("better", 80, 0.5)):
        words = rng.normal(mean, 10, 600).clip(10)
        named = rng.integers(2, 8, 600)
        rate = factor * 0.2 * np.exp(0.02 * (words - 80))
        rows[name] = counts(words, rng.poisson(named * rate).clip(max=named), named)
    found = length_adjusted(rows, "none")
    share = {name: each[:, 2].sum() / each[:, 3].sum() for name, each in rows.items()}
    assert share["shorter"] < 0.6 * share["none"]  # as it looks
    low, high = found["shorter"]["ci"]
    assert low < 1 < high  # as it is
    assert found["better"]["ratio"] == pytest.approx(0.5, abs=0.12)
    assert found["better"]["p_holm"] < 0.001


def test_a_method_that_invents_nothing_has_no_finite_fit() -> None:
    words, named = np.full(30, 9.0), np.full(30, 4.0)
    rows = {"none": counts(words, np.ones(30), named), "mute": counts(words, np.zeros(30), named)}
    assert length_adjusted(rows, "none")["mute"]["ratio"] is None
    assert length_adjusted({"none": rows["mute"], "x": rows["none"]}, "none")["x"]["p"] is None


def test_a_cut_is_told_from_a_gain_at_equal_recall() -> None:
    rng = np.random.default_rng(2)
    named = np.full(500, 5.0)

    def made(hit: float, invented: float) -> Array:
        return counts(named, rng.binomial(5, invented, 500), named, rng.binomial(5, hit, 500))

    controls = {"none": made(0.8, 0.2), "cut": made(0.6, 0.1)}
    rivals = {"as a cut": made(0.7, 0.15), "gain": made(0.72, 0.08), "beyond": made(0.9, 0.01)}
    found = distances(rivals, controls, draws=400)
    assert found["as a cut"]["p_holm"] > 0.05
    assert found["gain"]["distance"] == pytest.approx(-0.08, abs=0.02)
    assert found["gain"]["p_holm"] < 0.05
    assert found["gain"]["ci"][1] < 0
    assert found["beyond"] == {
        "controls": None, "distance": None, "ci": [None, None], "p": None, "p_holm": None,
        "comparable": found["beyond"]["comparable"],
    }  # fmt: skip
    assert distances({}, controls) == {}


def test_what_is_trivial() -> None:
    assert is_control("none") and is_control("truncate:words=20+eos-boost")
    assert not is_control("vhr+truncate") and not is_control("none+ask:use=drop")
    assert is_control("none+ask:use=drop", ask=True) and not is_control("vhr+ask", ask=True)


def captions(folder: Path) -> dict[str, Path]:
    texts = {
        "base": "a dog on a street with a car and a person and a cat near a bus",
        "a-method-with-a-long-name:strength=1.5,layers=[1,2,3]": "a dog on a street with a person",
        "none+ask:use=drop": "a dog",
    }
    for number, text in enumerate(texts.values()):
        rows = [{"image_id": key, "caption": text} for key in range(1, 13)]
        (folder / f"{number}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return {name: folder / f"{number}.jsonl" for number, name in enumerate(texts)}


def test_the_tables_fit_80_columns_and_no_heading_is_cut(tmp_path: Path) -> None:
    truth = {key: frozenset({"dog", "person", "car"}) for key in range(1, 13)}
    result = compare(of_captions(captions(tmp_path), truth))
    console = Console(width=80, record=True, file=io.StringIO())
    show(result, console)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    for heading in ("CHAIR_I", "recall", "F1", "words", "distinct_3", "equal recall", "with ask"):
        assert heading in text
    assert "This does not show" in text
    assert set(result["controls_asked"]) - set(result["controls"]) == {"none+ask:use=drop"}
    picture(result, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000
    with pytest.raises(DataError, match="cannot write"):
        picture(result, tmp_path / "no" / "picture.png")


def test_captions_of_other_photos_are_refused(tmp_path: Path) -> None:
    files = captions(tmp_path)
    (tmp_path / "1.jsonl").write_text('{"image_id": 1, "caption": "a dog"}\n')
    with pytest.raises(DataError, match="1 of 12"):
        of_captions(files, {})


def test_the_released_captions_of_adaiat(shared: Path) -> None:
    folder = shared / "oracles/chair/adaiat"
    expected = json.loads((folder / "expected.json").read_text())
    truth = read_truth(shared / "coco/objects_trainval2014.nltk.json")
    names = {"none": "Greedy_7b", "pai": "PAI_0.5", "adaiat": "AdaIAT_6_0.5"}
    result = compare(of_captions({k: folder / f"{v}.jsonl" for k, v in names.items()}, truth))
    for name, stem in names.items():
        for figure, printed in expected["published"][stem].items():
            found = 100 * result["methods"][name][figure]
            assert found == pytest.approx(printed, abs=expected["tolerance"][figure]), (
                name,
                figure,
            )
    ours = result["differences"]["adaiat"]
    for figure, (value, low, high) in expected["adaiat_minus_greedy, paired bootstrap"].items():
        assert 100 * ours[figure]["difference"] == pytest.approx(value, abs=0.06)
        assert [100 * end for end in ours[figure]["ci"]] == pytest.approx([low, high], abs=0.2)
    assert result["equal_recall"]["pai"]["p_holm"] > 0.05  # a cut of its recall invents as little
    assert result["equal_recall"]["adaiat"]["distance"] < 0
