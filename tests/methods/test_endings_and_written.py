"""What acts on written text, and the controls that end it: by hand, and on the embedded model."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import lvlm_fix as lf
from lvlm_fix.images import sample_photos
from lvlm_fix.method import AtLayer, AtToken
from lvlm_fix.models import DESCRIBE, prepare
from lvlm_fix.tools.miniature import miniature
from lvlm_fix.watches import AnswerTokens, EndTokens, Written


def test_iat_raises_written_keys_by_a_share_of_their_size() -> None:
    logits = torch.tensor([[[[1.0, -2.0, 3.0, -4.0, -math.inf]], [[5.0, 1.0, -1.0, 2.0, 0.5]]]])
    none = torch.zeros(1, 5, dtype=torch.bool)
    written = torch.tensor([[False, False, True, True, False]])
    at = AtLayer(3, 7, False, none, none, ~none[:, :1], {Written(): written}, queries=1)
    edited = lf.IAT(strength=0.5).attention_logits(logits, at)
    wanted = torch.tensor([[[[1.0, -2.0, 4.5, -2.0, -math.inf]], [[5.0, 1.0, -0.5, 3.0, 0.5]]]])
    assert torch.equal(edited, wanted)
    prompt = AtLayer(3, 7, True, none, none, ~none[:, :1], prompt_rows=3, queries=3)
    assert lf.IAT().attention_logits(logits, prompt) is logits
    assert list(lf.IAT().acts_in(32)) == list(range(5, 18))


def test_an_end_is_boosted_and_forced() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0], [0.0, 5.0, 1.0]])
    at = AtToken(7, 2, {EndTokens(): torch.tensor([0, 2])})
    boosted = lf.EosBoost(boost=1.5).next_token_logits(logits, at)
    assert torch.equal(boosted, torch.tensor([[2.5, 2.0, 4.5], [1.5, 5.0, 2.5]]))
    assert lf.Truncate(tokens=3).next_token_logits(logits, at) is logits
    cut = lf.Truncate(tokens=2).next_token_logits(logits, at)
    assert torch.equal(cut, torch.tensor([[1.0, -math.inf, 3.0], [0.0, -math.inf, 1.0]]))
    assert lf.EosBoost.control and lf.Truncate.control and not lf.VHR.control


def push(logits: torch.Tensor, method: lf.Method, step: int = 0) -> torch.Tensor:
    answers = torch.tensor([0, 1]), torch.tensor([2])  # two spellings of Yes, one of No
    return method.next_token_logits(logits, AtToken(7, step, {AnswerTokens(): answers}))


def test_yes_is_said_where_it_is_near_no_and_nowhere_else() -> None:
    # yes .3 and no .6; yes .1 and no .7; both .1 together
    logits = torch.tensor(
        [[0.1, 0.2, 0.6, 0.1], [0.1, 0.0, 0.7, 0.2], [0.05, 0.0, 0.05, 0.9]]
    ).log()
    found = push(logits, lf.YesPush())
    assert torch.equal(found[0, :2], logits[0, :2]) and found[0, 2:].tolist() == [-math.inf] * 2
    assert torch.equal(found[1:], logits[1:])
    assert push(logits, lf.YesPush(margin=0.0)) is logits
    assert push(logits, lf.YesPush(when="first"), step=1) is logits
    assert lf.YesPush.control and lf.YesPush.method_name() == "yes-push"


def slow_push(logits: torch.Tensor) -> torch.Tensor:
    """The control, number by number."""
    edited = logits.clone()
    for row, values in enumerate(logits.tolist()):
        whole = sum(math.exp(v) for v in values)
        p = [math.exp(v) / whole for v in values]
        yes, no = p[0] + p[1], p[2]
        if yes + no > 0.2 and abs(yes - no) < 0.5:
            edited[row, 2:] = -math.inf
    return edited


def test_the_push_equals_its_slow_form() -> None:
    logits = torch.randn(64, 9, generator=torch.Generator().manual_seed(0))
    found = push(logits, lf.YesPush())
    assert (found == -math.inf).any() and torch.equal(found, slow_push(logits))


def asked(tiny: Any, method: Any, **options: Any) -> tuple[list[int], Any]:
    model, processor = tiny
    inputs = prepare(model, processor, [lf.open_image(sample_photos()[0])], [DESCRIBE])
    with lf.fix(model, method) as handle:
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=14, **options)
        return ids[0, inputs["input_ids"].shape[1] :].tolist(), (handle.report() or [None])[0]


@pytest.mark.parametrize(
    ("method", "neutral"),
    [
        (lf.IAT(), lf.IAT(strength=0.0)),
        (lf.AdaIAT(level=9.0), lf.AdaIAT(strength=0.0)),
        (lf.EosBoost(boost=30.0), lf.EosBoost(boost=0.0)),
        (lf.Truncate(tokens=4), lf.Truncate(tokens=0)),
        (lf.YesPush(margin=2.0, least=0.0), lf.YesPush(margin=0.0)),
    ],
)
def test_on_the_embedded_model(tiny: Any, method: lf.Method, neutral: lf.Method) -> None:
    plain, _ = asked(tiny, [])
    assert asked(tiny, neutral)[0] == plain
    found, report = asked(tiny, method)
    assert report.rows_edited and not report.note
    for options in (
        {"use_cache": False},
        {"cache_implementation": "static", "disable_compile": True},
    ):
        assert asked(tiny, method, **options)[0] == found
    if isinstance(method, lf.Truncate):
        assert found[:4] == plain[:4] and len(found) == 5


def test_a_model_without_an_end_is_refused() -> None:
    model, _ = miniature("llava")
    with pytest.raises(lf.ModelError, match="no token that ends"):
        lf.fix(model, "truncate")
