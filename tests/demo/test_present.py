"""What the screen shows, made from results alone; and the engine without a page."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lvlm_demo import present
from lvlm_demo.engine import Asked, Engine, Told, invented_in, objects_of, open_photo
from PIL import Image

import lvlm_fix as lf
from lvlm_fix.ask.calibration import shipped
from lvlm_fix.grounding import Grounding, words_of
from lvlm_fix.models import DESCRIBE
from lvlm_fix.tools import cli

TEXT = "A <cat> & 2 dogs."


def grounding() -> Grounding:
    """Five tokens, a word each; 2 layers, 3 heads, 2 × 3 patches. The image moves head 1 of layer 1
    most.
    """
    vhd = torch.ones(5, 2, 3)
    vhd[:, 1, 1] = 4.0
    looks = torch.full((5, 2, 3, 6), 0.01)
    looks[..., 4] = 0.5  # the second patch of the second row draws every head
    log = torch.tensor([-0.1, -3.0, -0.2, -1.0, -2.0])
    tokens = {"log_probability": log, "image_gain": log}
    return Grounding(TEXT, words_of([1, 7, 9, 11, 16], TEXT), vhd, tokens, looks, (2, 3))


def test_levels_are_quarters_by_rank() -> None:
    assert present.levels([5.0, 1.0, 7.0, 3.0, 6.0, 2.0, 8.0, 4.0]) == [2, 0, 3, 1, 2, 0, 3, 1]
    assert present.levels([1.0]) == [0]


def test_a_text_is_escaped_shaded_and_struck() -> None:
    shown = present.telling(
        Told(TEXT, 1.25, "pai: <note>", frozenset({1}), grounding()), 1, "log_probability"
    )
    assert "<cat>" not in shown and "&amp;" in shown and "pai: &lt;note&gt;" in shown
    assert shown.count("data-pick") == 5 and 'data-pick="word:1:4"' in shown
    assert '<s title="not in the photo">cat</s>' in shown and shown.count("<s ") == 1
    assert "5 words · <b>1 invented</b> · 1.2 s" in shown
    weakest = shown[shown.index('class="w weakest"') :]
    assert "word:1:1" in weakest[:60]  # −3.0 is the lowest
    assert "nothing invented" in present.telling(Told("A cat.", 1, "", frozenset()), 0, "t_vhd")
    assert "invented" not in present.telling(Told("A cat.", 1), 0, "t_vhd")
    assert "data-pick" not in present.telling(Told("A cat", 0), 0, "t_vhd", going=True)


def test_answers_shade_objects_alone_by_their_chance() -> None:
    found = replace(grounding(), ask={1: -1.0, 4: 5.0})
    assert present.shades(found, "ask") == [
        ("", "no object: not asked about"),
        ("weakest", "weakest: log-odds of Yes -1.0, uncalibrated"),
        *[("", "no object: not asked about")] * 2,
        ("strongest", "strongest: log-odds of Yes +5.0, uncalibrated"),
    ]
    told = Told(TEXT, 1, "", None, replace(found, curve=shipped("tiny")))
    shown = present.telling(told, 0, "ask")
    assert shown.count('class="w"') == 3 and shown.count("data-pick") == 5
    assert shown.count("% that it is there") == 2 and 'class="w weakest"' in shown


def test_the_heat_map_names_the_word_and_rings_sinks() -> None:
    found, photo = grounding(), Image.new("RGB", (90, 60))
    assert present.chosen_heads(found) == [(1, 1)]
    assert (
        present.sinks(found) == [(1, 1)] and present.sinks(found, 6.0) == []
    )  # 5.5 times the mean
    shown = present.looked(photo, found, 1)
    assert "<b>“cat”</b>" in shown and shown.count("<circle") == 1
    assert "1 heads" in shown and "55% of the attention" in shown
    assert 'x="50.0%" y="75.0%"' in shown  # the middle of the brightest patch
    assert "head 2 of layer 0" in present.looked(photo, found, 1, (0, 2))
    heads = present.head_map(found, 1, (0, 2))
    assert (
        heads.count("data-pick") == 6 and heads.count("ringed") == 1 and heads.count(" picked") == 1
    )
    assert heads.index("layer 1, head 0") < heads.index("layer 0, head 0")  # layers upwards


def test_a_message_is_escaped_and_errors_are_alerts() -> None:
    assert 'role="alert"' in present.status(
        "no <model>", error=True
    ) and "&lt;model&gt;" in present.status("<model>")


@pytest.mark.parametrize("kind", lf.METHODS.values())
def test_every_declared_range_makes_a_slider(kind: Any) -> None:
    for field in kind.__dataclass_fields__.values():
        if (
            field.metadata
            and isinstance(field.default, int | float)
            and not isinstance(field.default, bool)
        ):
            low, high, step = present.slider_range(
                field.default, field.metadata["low"], field.metadata["high"]
            )
            assert low <= field.default <= high and 0 < step <= high - low
            assert low >= field.metadata["low"] and high <= field.metadata["high"]
            kind(**{field.name: type(field.default)(low)})
            if present.settable(kind, field.name, high):
                kind(**{field.name: type(field.default)(high)})
    assert present.settable(lf.VHR, "strength", 10) and not present.settable(
        lf.VHR, "top", 10
    )  # needs a table


def test_objects_of_samples_are_known_by_their_pixels(photos: list[Path]) -> None:
    photo = open_photo(photos[1])
    assert objects_of(photo) == {"cat"}
    photo.putpixel((0, 0), (1, 2, 3))
    assert objects_of(photo) is None
    assert invented_in("A cat on a dining table.", {"cat"}) == {5}
    assert invented_in("A cat.", None) is None


def test_photos_are_opened_within_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (3200, 100)).save(path)
    assert open_photo(path).size == (1600, 50)
    monkeypatch.setattr("lvlm_demo.engine.PIXELS", 319_999)
    with pytest.raises(lf.ImageError, match="3200 × 100 pixels"):
        open_photo(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(lf.ImageError, match="damaged"):
        monkeypatch.setattr("lvlm_demo.engine.PIXELS", 10**9)
        open_photo(path)
    with pytest.raises(lf.ImageError, match="there is no photo yet"):
        open_photo(None)


def idle(engine: Engine) -> bool:
    for _ in range(400):
        if not engine.running:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("way", ["stop", "leave", "sleep"])
def test_a_text_ends_when_stopped_left_or_not_listened_to(
    way: str, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = list[int]()

    def count(ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        written.append(ids.shape[1])
        return logits

    options = {"min_new_tokens": 256, "logits_processor": [count]}
    monkeypatch.setattr("lvlm_demo.engine.OPTIONS", options)
    monkeypatch.setattr("lvlm_demo.engine.PATIENCE", 1e9)
    engine, stop = Engine(), threading.Event()
    asked = Asked(photos[0], DESCRIBE, tokens=256)
    writing = engine.write(asked, engine.check(asked), stop)
    while not next(writing):
        pass
    assert engine.running == 1
    if way == "stop":
        stop.set()
    elif way == "leave":
        writing.close()
    else:
        monkeypatch.setattr("lvlm_demo.engine.PATIENCE", 0.05)
    assert idle(engine)
    assert 0 < len(written) < 250
    if way == "stop":
        with pytest.raises(StopIteration) as end:
            while True:
                next(writing)
        ids, told = end.value.value
        assert 0 < len(ids) < 250 and told.text


def test_a_request_is_checked_before_anything_is_loaded(photos: list[Path]) -> None:
    engine = Engine(allowed=lambda name: name == "tiny")
    for asked, message in (
        (Asked(photos[0], " "), "the prompt is empty"),
        (Asked(photos[0], "word " * 10_000), "50,000 characters; at most 1,000"),
        (Asked(photos[0], "Hi", tokens=0), "1 to 256 tokens, got 0"),
    ):
        with pytest.raises(lf.InputError, match=message):
            engine.check(asked)
    other = Asked(photos[0], "Hi", model="other")
    with pytest.raises(lf.InputError, match="serves other models"):
        list(engine.write(other, engine.check(other), threading.Event()))
    assert engine.running == 0


@dataclass(frozen=True)
class _Missing(lf.Watch[None]):
    def live(self, host: Any) -> Any:
        raise lf.ModelError("this model has no such thing")


@dataclass(frozen=True)
class _Unserved(lf.Method):
    def watches(self, layers: int) -> tuple[lf.Watch[Any], ...]:
        return (_Missing(),)


def test_a_method_that_the_model_cannot_serve_says_so_and_the_others_go_on(
    photos: list[Path],
) -> None:
    asked = Asked(photos[0], DESCRIBE, tokens=3)
    *_, done = Engine().one_by_one(asked, [(), (_Unserved(),), ()], threading.Event())
    assert "this model has no such thing" in done[1].note and not done[1].text
    assert done[0].text == done[2].text != ""
    assert "has no such thing" in present.compared(["none", "unserved", "none"], done, False)


def test_the_picture_is_drawn(
    photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "picture.png"
    words = f"lvlm-fix demo picture {photos[1]} --method vhr --max-new-tokens 20 --out {out}"
    monkeypatch.setattr(sys, "argv", words.split())
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    with Image.open(out) as drawn:
        assert drawn.size == (1200, 420)
    told = [
        ("Before", Told("A cat and a dog.", 1, "", frozenset({4}))),
        ("After", Told("A cat.", 1, "", frozenset())),
    ]
    figure = present.before_after(Image.new("RGB", (30, 20)), told)
    assert len(figure.artists) == 1  # one word is struck through
    assert {"1 invented", "nothing invented"} <= {text.get_text() for text in figure.texts}
