"""Figures of grounding, worked by hand; and the command on a few photos."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lvlm_eval.grounding import COMBINED, Mentions, mentions_of, score
from lvlm_eval.roc import Ranked, auroc, average_precision, out_of_fold
from schema import held

from lvlm_fix.errors import DataError
from lvlm_fix.grounding import Grounding, words_of
from lvlm_fix.tools import cli

INVENTED = np.array([1.0, 0.0, 1.0, 0.0, 0.0])
VALUES = np.array([0.1, 0.2, 0.3, 0.3, 0.9])
ONCE = np.ones(5)


def test_auroc_counts_pairs_and_half_of_ties() -> None:
    # 6 pairs: 0.1 is below all three; 0.3 is below 0.9, ties with 0.3, and is above 0.2
    assert auroc(INVENTED, VALUES, ONCE) == pytest.approx((3 + 1.5) / 6)
    assert auroc(INVENTED, -VALUES, ONCE) == pytest.approx(1 - 4.5 / 6)
    # the third word drawn twice, the second not at all: pairs (1 + 2) × 2, of which 2 + 2 × (1 +
    # 0.5)
    assert auroc(INVENTED, VALUES, np.array([1.0, 0, 2, 1, 1])) == pytest.approx(5 / 6)
    assert np.isnan(auroc(np.ones(5), VALUES, ONCE)) and np.isnan(auroc(np.zeros(5), VALUES, ONCE))


def test_average_precision_takes_the_lowest_first() -> None:
    # the first is right (1/1); the tie at 0.3 brings 2 right of 4
    assert average_precision(INVENTED, VALUES, ONCE) == pytest.approx((1 + 2 / 4) / 2)
    assert np.isnan(average_precision(np.zeros(5), VALUES, ONCE))


def test_pairs_within_bins_alone_are_counted() -> None:
    bins = np.array([0, 0, 1, 1, 1])
    # bin 0: 0.1 below 0.2; bin 1: 0.3 ties with 0.3 and is below 0.9
    assert auroc(INVENTED, VALUES, ONCE, bins) == pytest.approx((1 + 1.5) / 3)
    # a literal count over all pairs, on numbers with ties and weights
    rng = np.random.default_rng(1)
    values, bins = rng.integers(0, 4, 60) / 3, rng.integers(0, 5, 60)
    flags, weights = (rng.integers(0, 2, 60) * 1.0, rng.integers(0, 3, 60) * 1.0)
    told = total = 0.0
    for i in range(60):
        for j in range(60):
            if flags[i] and not flags[j] and bins[i] == bins[j]:
                both = weights[i] * weights[j]
                total += both
                told += both * ((values[i] < values[j]) + (values[i] == values[j]) / 2)
    assert Ranked(flags, values, bins).auroc(weights) == pytest.approx(told / total)
    assert np.isnan(auroc(INVENTED, VALUES, ONCE, np.arange(5)))


def test_a_fit_never_sees_the_photo_that_it_judges() -> None:
    rng = np.random.default_rng(0)
    photo = np.arange(2000) // 2
    signal, noise = rng.normal(size=2000), rng.normal(size=2000)
    invented = (signal + rng.normal(size=2000) < 0) * 1.0
    once = np.ones(2000)
    alone = auroc(invented, signal, once)
    fit = out_of_fold(np.stack((signal, noise), 1), invented, photo)
    assert auroc(invented, fit, once) == pytest.approx(alone, abs=0.01)
    # a photo's own truth, known to nobody else, is of no use
    few = slice(0, 80)
    own = (photo[few, None] == np.arange(40)[None]) * (1.0 - 2 * invented[few, None])
    blind = auroc(invented[few], out_of_fold(own, invented[few], photo[few]), once[few])
    assert blind < 0.7  # all of it is told where the photo itself is fitted


def test_gain_is_what_a_score_adds_to_the_place() -> None:
    rng = np.random.default_rng(0)
    captions = []
    for number in range(200):
        place, sight = rng.integers(0, 20, 5), rng.normal(size=5)
        invented = place / 10 - sight + rng.normal(size=5) > 1
        signals = {"place": tuple(-place * 1.0), "sight": tuple(sight), "echo": tuple(-place * 2.0)}
        captions.append(Mentions(number, tuple(map(bool, invented)), signals))
    found = score(captions, draws=50)
    signals: Any = found["signals"]
    assert signals["place"]["gain"] == 0 and abs(signals["echo"]["gain"]) < 0.005
    assert signals["sight"]["gain_ci"][0] > 0.05
    assert signals["place"]["auroc"] > 0.6 and abs(signals["place"]["within_bins"] - 0.5) < 0.1
    assert signals["sight"]["within_bins"] > 0.7
    assert found["combined"] == {}  # none of the stated ones was measured


def test_mentions_take_the_words_of_an_object() -> None:
    text = "A hot dog, a bus."
    lengths = [1, 5, 9, 10, 12, 16, 17]  # A, hot, dog, ",", a, bus, "."
    vhd = torch.arange(7.0)[:, None, None] * torch.tensor([1.0, 0.5])
    log = -torch.arange(7.0)
    tokens = {"log_probability": log, "image_gain": log / 2}
    found = Grounding(text, words_of(lengths, text), vhd, tokens, ask={1: 3.0, 2: 3.0, 4: -1.0})
    one = mentions_of(5, found, {"bus"}, [1, 2])
    assert one == Mentions(
        5,
        (True, False),
        {
            "place": (-1.0, -4.0),
            "ask": (3.0, -1.0),
            "t_vhd k=1": (1.5, 5.0),  # hot and dog: 1 and 2
            "t_vhd k=2": (2.25, 7.5),
            "log_probability": (-3.0, -5.0),
            "image_gain": (-1.5, -2.5),
            "nll": (-1.0, -5.0),
        },
    )


def test_figures_carry_counts_and_intervals_over_photos() -> None:
    captions = [
        Mentions(i, (True, False, False), {"s": (0.1 * i, 0.5, 0.05), "place": (-1.0, -2.0, -3.0)})
        for i in range(8)
    ]
    found = score(captions, draws=100)
    assert (found["photos"], found["object_words"], found["invented"]) == (8, 24, 8)
    figures = found["signals"]["s"]  # type: ignore[index]
    low, high = figures["auroc_ci"]
    assert low < figures["auroc"] < high
    assert score(captions, draws=100) == found
    with pytest.raises(DataError, match="nothing to tell apart: 0 of 0 object words in 1 captions"):
        score([Mentions(1, (), {"place": ()})])
    with pytest.raises(DataError, match="2 of 2 object words"):
        score([Mentions(1, (True, True), {"place": (1.0, 2.0)})])


def test_the_command_measures_the_embedded_model(
    shared: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    coco = shared / "coco"
    truth = coco / "objects_trainval2014.nltk.json"
    words = (
        f"lvlm-fix eval grounding --data {coco} --truth {truth} --split train --limit 6"
        " --max-new-tokens 24 --json"
    )
    monkeypatch.setattr(sys, "argv", words.split())
    with pytest.raises(SystemExit) as stop:
        cli.main()
    printed = capsys.readouterr().out
    held(["eval", "grounding"], printed)
    document = json.loads(printed)
    assert not stop.value.code
    assert document["photos"] == 6 and 0 < document["invented"] < document["object_words"]
    assert list(document["signals"]) == [
        "place", "ask", "t_vhd k=1", "t_vhd k=2", "t_vhd k=4", "t_vhd k=8", "log_probability",
        "image_gain", "nll", "entropy", "svar", "pas", "ic", "glsim"
    ]  # fmt: skip
    assert list(document["combined"]) == ["+".join(names) for names in COMBINED]
    assert set(document["signals"]["ask"]) == {
        f"{name}{end}"
        for name in ("auroc", "average_precision", "within_bins", "gain")
        for end in ("", "_ci")
    }
