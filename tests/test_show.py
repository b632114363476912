"""A caption as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


def test_a_caption_becomes_a_picture_and_a_word_changes_the_photo(
    lvlm: Any, photos: list[Path], tmp_path: Path
) -> None:
    plain, looked = tmp_path / "plain.png", tmp_path / "looked.png"
    words = ("caption", photos[0], "--method", "vhr", "--max-new-tokens", 12)
    assert lvlm(*words, "--show", plain)[0] == 0
    assert lvlm(*words, "--show", looked, "--word", "IMAGE")[0] == 0
    one, other = (
        np.asarray(Image.open(path).convert("RGB")).astype(int) for path in (plain, looked)
    )
    assert one.shape == other.shape == (450, 1200, 3)
    photo, text = np.s_[100:350, 50:430], np.s_[:, 500:]
    assert abs(one[photo] - other[photo]).mean() > 5
    assert np.ptp(one[text], axis=(0, 1)).min() > 100


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--word", "cup"], "--word goes with --show OUT.png"),
        (["--show", "x.png", "PHOTO"], "--show takes one photo, got 2"),
        (["--show", "x.png", "--word", "zebu"], "the text has no word 'zebu'; it has: the, "),
    ],
)
def test_what_cannot_be_shown_is_one_clear_line(
    lvlm: Any, photos: list[Path], words: list[str], message: str
) -> None:
    more = [str(photos[1]) if word == "PHOTO" else word for word in words]
    code, _, err = lvlm("caption", photos[0], "--json", "--max-new-tokens", 12, *more)
    assert code == 2 and message in err
