"""Figures of grounding, worked by hand; and the command on a few photos."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lvlm_eval.grounding import Mentions, auroc, average_precision, mentions_of, score

from lvlm_fix.errors import DataError
from lvlm_fix.tools import cli
from lvlm_fix.tools.grounding import Grounding, words_of

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


def test_mentions_take_the_words_of_an_object() -> None:
    text = "A hot dog, a bus."
    lengths = [1, 5, 9, 10, 12, 16, 17]  # A, hot, dog, ",", a, bus, "."
    vhd = torch.arange(7.0)[:, None, None] * torch.tensor([1.0, 0.5])
    log = -torch.arange(7.0)
    found = Grounding(text, words_of(lengths, text), vhd, log, log / 2)
    one = mentions_of(5, found, {"bus"}, [1, 2])
    assert one == Mentions(
        5,
        (True, False),
        {
            "t_vhd k=1": (1.5, 5.0),  # hot and dog: 1 and 2
            "t_vhd k=2": (2.25, 7.5),
            "log_probability": (-3.0, -5.0),
            "image_gain": (-1.5, -2.5),
            "position": (-1.0, -4.0),
        },
    )


def test_figures_carry_counts_and_intervals_over_photos() -> None:
    captions = [Mentions(i, (True, False, False), {"s": (0.1 * i, 0.5, 0.05)}) for i in range(8)]
    found = score(captions, draws=100)
    assert (found["photos"], found["object_words"], found["invented"]) == (8, 24, 8)
    figures = found["signals"]["s"]  # type: ignore[index]
    low, high = figures["auroc_ci"]
    assert low < figures["auroc"] < high
    assert score(captions, draws=100) == found
    with pytest.raises(DataError, match="nothing to tell apart: 0 of 0 object words in 1 captions"):
        score([Mentions(1, (), {"s": ()})])
    with pytest.raises(DataError, match="2 of 2 object words"):
        score([Mentions(1, (True, True), {"s": (1.0, 2.0)})])


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
    document = json.loads(capsys.readouterr().out)
    assert not stop.value.code
    assert document["photos"] == 6 and 0 < document["invented"] < document["object_words"]
    assert list(document["signals"]) == [
        "t_vhd k=1", "t_vhd k=2", "t_vhd k=4", "t_vhd k=8", "log_probability", "image_gain",
        "position"
    ]  # fmt: skip
