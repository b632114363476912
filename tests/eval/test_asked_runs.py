"""Runs whose texts are checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lvlm_eval.serve import asked_of, methods_of, serving

import lvlm_fix as lf
from lvlm_fix.errors import SettingError
from lvlm_fix.objects import mentions


def test_a_spec_says_how_texts_are_checked() -> None:
    check = asked_of("vhr:strength=3+ask:use=drop,threshold=1.5", {"ask.tries": "2"})
    assert check is not None
    assert (check.use, check.threshold, check.tries) == ("drop", 1.5, 2)
    assert methods_of("vhr:strength=3+ask:use=drop", {"ask.tries": "2"}) == (lf.VHR(strength=3.0),)
    assert asked_of("vhr", {"ask.tries": "2"}) is None
    assert methods_of("none+ask", {}) == ()
    with pytest.raises(SettingError, match="number"):
        asked_of("none+ask:threshold=high", {})


def test_checked_rows_beside_plain_ones(tiny: Any, photos: list[Path]) -> None:
    specs = ["none", "none+ask:use=drop,threshold=1e9", "vhr+ask:use=mark"]
    methods = {spec: methods_of(spec, {}) for spec in specs}
    serve = serving(*tiny, methods, 24, {spec: asked_of(spec, {}) for spec in specs})
    with serve(photos[:2], ["Please describe this image in detail."] * 2) as texts:
        plain, dropped, marked = ([one.text for one in texts(spec)] for spec in specs)
        assert [one.text for one in texts("none")] == plain
    assert dropped != plain and not any(mentions(text) for text in dropped)
    opened = [lf.open_image(path) for path in photos[:2]]
    with lf.fix(tiny[0], "vhr"):
        assert marked == lf.answer(
            *tiny, opened, ["Please describe this image in detail."] * 2, max_new_tokens=24
        )
