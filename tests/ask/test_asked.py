"""Texts that are checked while they are written, by the stock `generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import StaticCache, TextStreamer

import lvlm_fix as lf
from lvlm_fix.errors import InputError, SettingError
from lvlm_fix.models import DESCRIBE, prepare
from lvlm_fix.objects import coco

ALL, NONE = 1e9, -1e9  # thresholds at which every object is doubtful, or none is


@pytest.fixture
def opened(photos: list[Path]) -> list[Any]:
    return [lf.open_image(path) for path in photos]


def texts(tiny: Any, opened: list[Any], **options: Any) -> list[str]:
    return lf.answer(*tiny, opened, [DESCRIBE] * len(opened), max_new_tokens=40, **options)


@pytest.mark.parametrize("use", ["mark", "drop", "rewrite"])
def test_the_plain_text_where_nothing_is_doubtful(tiny: Any, opened: list[Any], use: str) -> None:
    assert texts(tiny, opened, custom_generate=lf.asked(NONE, use)) == texts(tiny, opened)


@pytest.mark.parametrize("use", ["drop", "rewrite"])
def test_no_object_where_every_one_is_doubtful(tiny: Any, opened: list[Any], use: str) -> None:
    check = lf.asked(ALL, use)
    found = texts(tiny, opened, custom_generate=check)
    assert not [coco(text) for text in found if coco(text)]
    assert any(coco(text) for text in texts(tiny, opened))
    assert [one.text for one in check.checked] == found
    assert any(one.odds for one in check.checked)


def test_going_back_gives_what_was_forbidden_from_the_start(tiny: Any, opened: list[Any]) -> None:
    rewritten = texts(tiny, opened, custom_generate=lf.asked(ALL, "rewrite", tries=99))
    with lf.fix(tiny[0], lf.Guide(strength=1000.0, threshold=1e6)):
        assert rewritten == texts(tiny, opened)
    assert rewritten != texts(tiny, opened)


@pytest.mark.parametrize("use", ["mark", "drop", "rewrite"])
def test_a_batch_as_one_by_one(tiny: Any, opened: list[Any], use: str) -> None:
    check = lf.asked(1.0, use)
    together = texts(tiny, opened, custom_generate=check)
    odds = [one.odds for one in check.checked]
    for number, photo in enumerate(opened):
        assert texts(tiny, [photo], custom_generate=check) == together[number : number + 1]
        assert check.checked[0].odds == pytest.approx(odds[number], abs=1e-3)


def test_marks_stand_behind_doubtful_words(tiny: Any, opened: list[Any]) -> None:
    check = lf.asked(ALL, "mark")
    plain = texts(tiny, opened, custom_generate=check)
    for text, one in zip(plain, check.checked, strict=True):
        assert one.marked().replace("(?)", "") == text == one.said
        assert one.marked().count("(?)") == len(coco(text))


@pytest.mark.parametrize("method", ["vcd", "vhr", "guide"])
def test_with_methods(tiny: Any, opened: list[Any], method: str) -> None:
    with lf.fix(tiny[0], method):
        fixed = texts(tiny, opened)
        for use in ("mark", "drop", "rewrite"):
            assert texts(tiny, opened, custom_generate=lf.asked(NONE, use)) == fixed
        held = texts(tiny, opened, custom_generate=lf.asked(ALL, "rewrite"))
        assert not any(coco(text) for text in held)
        assert texts(tiny, opened) == fixed


def test_beams_sampling_and_a_rich_output(tiny: Any, opened: list[Any]) -> None:
    beams = {"num_beams": 3}
    check = lf.asked(NONE, "drop")
    assert texts(tiny, opened, custom_generate=check, **beams) == texts(tiny, opened, **beams)
    inputs = prepare(*tiny, opened[:2], [DESCRIBE] * 2)
    options: dict[str, Any] = {"max_new_tokens": 12, "num_beams": 4, "num_return_sequences": 2}
    plain = tiny[0].generate(**inputs, **options)
    ids = tiny[0].generate(**inputs, custom_generate=check, **options)
    assert torch.equal(ids, plain) and len(check.checked) == 4
    with pytest.raises(InputError, match="beams"):
        texts(tiny, opened, custom_generate=lf.asked(use="rewrite"), **beams)
    torch.manual_seed(3)
    first = texts(tiny, opened[:1], do_sample=True)
    torch.manual_seed(3)
    again = texts(tiny, opened[:1], do_sample=True, custom_generate=lf.asked(NONE, "rewrite"))
    assert first == again
    rich = tiny[0].generate(
        **inputs, max_new_tokens=6, custom_generate=lf.asked(), return_dict_in_generate=True
    )
    assert rich.sequences.shape[0] == 2


def test_sentence_by_sentence(tiny: Any, opened: list[Any]) -> None:
    class Parts(TextStreamer):
        def put(self, value: Any) -> None:
            parts.append(value.flatten().tolist())

        def end(self) -> None:
            parts.append([])

    parts: list[list[int]] = []
    check = lf.asked(NONE, "rewrite", streamer=Parts(tiny[1].tokenizer))
    (text,) = texts(tiny, opened[:1], custom_generate=check)
    assert len(parts) > 3 and parts[-1] == []
    new = [token for part in parts[1:] for token in part]
    assert tiny[1].tokenizer.decode(new, skip_special_tokens=True).strip() == text
    with pytest.raises(InputError, match="one text"):
        texts(tiny, opened, custom_generate=check)


def test_what_is_refused(tiny: Any, opened: list[Any]) -> None:
    with pytest.raises(SettingError, match="use must be"):
        lf.asked(use="guess")
    with pytest.raises(SettingError, match="tries"):
        lf.asked(tries=-1)
    with pytest.raises(SettingError, match="streamer"):
        lf.asked(use="drop", streamer=TextStreamer(tiny[1].tokenizer))
    inputs = prepare(*tiny, opened[:1], [DESCRIBE])
    static = StaticCache(tiny[0].config.text_config, max_cache_len=400)
    with pytest.raises(InputError, match="cannot be cut"):
        tiny[0].generate(
            **inputs, max_new_tokens=4, past_key_values=static, custom_generate=lf.asked()
        )


def test_a_list_of_ones_own(tiny: Any, opened: list[Any]) -> None:
    plain = texts(tiny, opened)
    word = next(word for word in " ".join(plain).split() if word.isalpha() and len(word) > 4)
    check = lf.asked(ALL, "rewrite", find=lf.listed([word]))
    assert not any(word in text for text in texts(tiny, opened, custom_generate=check))
