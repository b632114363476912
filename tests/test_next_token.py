"""The next token's logits equal the papers' formulas over plain full passes without cache, sample
by sample.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from cases import cache_of, held
from torch import Tensor

import lvlm_fix as lf
from lvlm_fix.contrast import contrasted, divergence, plausible, refined
from lvlm_fix.method import AtToken, Method
from lvlm_fix.tools.miniature import IMAGE, LAST, miniature
from lvlm_fix.watches import Branch
from lvlm_fix.watches.noised_image import diffused

WORDS = (5, 6, 7)
# the models are random: one that writes an image token has no image for it
GREEDY = {"max_new_tokens": 5, "do_sample": False, "suppress_tokens": [IMAGE]}
METHODS = {
    "vcd": lf.VCD(),
    "icd": lf.ICD(tokens=WORDS),
    "m3id": lf.M3ID(decay=0.2),
    "dola": lf.DoLa(bucket="low"),
    "pai": lf.PAI(strength=0.0, contrast=1.5),
}


# the formulas, one row of logits at a time
# ------------------------------------------------------------------------


def dropped(row: Tensor, by: Tensor, share: float) -> Tensor:
    best = max(float(value) for value in by)
    return torch.tensor(
        [
            value if float(b) >= math.log(share) + best else -math.inf
            for value, b in zip(row, by, strict=True)
        ]
    )


def literal(name: str, plain: Tensor, other: Tensor, early: list[Tensor], step: int) -> Tensor:
    s, u = plain.log_softmax(-1), other.log_softmax(-1)
    if name in ("vcd", "icd"):
        return dropped(2 * plain - other, plain, 0.1)
    if name == "pai":
        return dropped(1.5 * (s - u) + u, s, 0.1)
    if name == "m3id":
        g = math.exp(-0.2 * (step + 1))
        return s + (1 - g) / g * (s - u) if s.exp().max() < 0.4 else s
    shares = []
    for candidate in early:
        p, q = plain.softmax(-1), candidate.softmax(-1)
        m = (p + q) / 2
        shares.append(float((p * (p / m).log()).sum() / 2 + (q * (q / m).log()).sum() / 2))
    chosen = early[shares.index(max(shares))]
    return dropped(s - chosen.log_softmax(-1), plain, 0.1)


# the other views of one sample, as lists of tokens
# ----------------------------------------------------------------


def noised(pixels: Tensor) -> Tensor:
    kept = 1.0
    for i in range(501):
        kept *= 1 - (1 / (1 + math.exp(6 - 12 * i / 999)) * (0.5e-2 - 1e-5) + 1e-5)
    noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
    return math.sqrt(kept) * pixels + math.sqrt(1 - kept) * noise


def one_pass(model: Any, ids: list[int], pixels: dict[str, Tensor], **options: Any) -> Any:
    inputs: dict[str, Any] = {"input_ids": torch.tensor([ids])} | pixels
    if model.config.model_type.startswith("qwen") and pixels:
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == IMAGE).long()
    return model(**inputs, **options)


def other_row(name: str, model: Any, ids: list[int], pixels: dict[str, Tensor]) -> Tensor:
    if name == "vcd":
        return one_pass(
            model, ids, pixels | {"pixel_values": noised(pixels["pixel_values"])}
        ).logits[0, -1]
    if name == "icd":
        at = max(i for i, token in enumerate(ids) if token == IMAGE) + 1
        at += model.config.model_type.startswith(
            "qwen"
        )  # its configuration names the token that closes an image
        assert ids[at - 1] == (LAST if model.config.model_type.startswith("qwen") else IMAGE)
        return one_pass(model, [*ids[:at], *WORDS, *ids[at:]], pixels).logits[0, -1]
    return one_pass(model, [token for token in ids if token != IMAGE], {}).logits[0, -1]


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "llava_next"])
@pytest.mark.parametrize("name", METHODS)
@torch.no_grad()
def test_every_step_equals_two_full_passes(name: str, family: str) -> None:
    model, inputs = miniature(family)
    with lf.fix(model, METHODS[name]):
        out = model.generate(**inputs, **GREEDY, output_logits=True, return_dict_in_generate=True)
    width = inputs["input_ids"].shape[1]
    photos = {
        k: v.chunk(2)
        for k, v in inputs.items()
        if k not in ("input_ids", "attention_mask", "mm_token_type_ids")
    }
    acted = False
    for sample in range(2):
        pixels = {k: v[sample] for k, v in photos.items()}
        real = inputs["attention_mask"][sample].bool()
        prompt = inputs["input_ids"][sample][real].tolist()
        for step, found in enumerate(out.logits):
            ids = prompt + out.sequences[sample, width : width + step].tolist()
            passed = one_pass(model, ids, pixels, output_hidden_states=True)
            decoder = model.get_decoder()
            early = [model.lm_head(decoder.norm(passed.hidden_states[j]))[0, -1] for j in (0,)]
            plain = passed.logits[0, -1]
            wanted = literal(name, plain, other_row(name, model, ids, pixels), early, step)
            torch.testing.assert_close(
                found[sample].log_softmax(-1), wanted.log_softmax(-1), atol=1e-5, rtol=1e-5
            )
            acted |= not torch.allclose(wanted.log_softmax(-1), plain.log_softmax(-1), atol=1e-2)
    assert acted


@pytest.mark.parametrize(
    "method", [*(METHODS[n] for n in ("icd", "dola", "pai")), lf.VAR(threshold=1.4, ratio=0.1)]
)
@torch.no_grad()
def test_beams_with_cache_equal_beams_without(method: lf.Method) -> None:
    """Without a cache every pass sees its whole beam; with one, branches and sinks must follow the
    beams.
    """
    model, inputs = miniature("llava")
    options = GREEDY | {"max_new_tokens": 8, "num_beams": 4, "num_return_sequences": 4}
    options |= {"output_scores": True, "return_dict_in_generate": True}
    with lf.fix(model, method):
        cached = model.generate(**inputs, **options)
        uncached = model.generate(**inputs, **options, use_cache=False)
    assert torch.equal(cached.sequences, uncached.sequences)
    torch.testing.assert_close(
        cached.sequences_scores, uncached.sequences_scores, atol=1e-5, rtol=1e-5
    )


@torch.no_grad()
def test_the_score_of_every_beam_under_noise_is_that_of_its_text() -> None:
    model, inputs = miniature("llava", samples=1)
    options = GREEDY | {"max_new_tokens": 8, "num_beams": 4, "num_return_sequences": 4}
    with lf.fix(model, "vcd"):
        out = model.generate(**inputs, **options, output_scores=True, return_dict_in_generate=True)
        width = inputs["input_ids"].shape[1]
        for sequence, score in zip(out.sequences, out.sequences_scores, strict=True):
            total = 0.0
            for end in range(width, width + 8):
                ids = sequence[None, :end]
                logits = model(
                    **dict(inputs, input_ids=ids, attention_mask=torch.ones_like(ids))
                ).logits[0, -1]
                total += float(logits.log_softmax(-1)[sequence[end]])
            assert float(score) == pytest.approx(total / 8, abs=1e-5)
        options |= {"output_scores": True, "return_dict_in_generate": True}
        try:  # releases that give every beam its own pixels serve it
            uncached = model.generate(**inputs, **options, use_cache=False)
        except lf.InputError as error:
            uncached = None
            if "leave use_cache on" not in str(error):
                raise
    if uncached is None:
        return
    assert torch.equal(uncached.sequences, out.sequences)
    torch.testing.assert_close(
        uncached.sequences_scores, out.sequences_scores, atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize(
    "method",
    [*(METHODS[n] for n in ("vcd", "icd", "dola", "pai")), lf.VAR(threshold=1.4, ratio=0.1)],
)
@torch.no_grad()
def test_a_further_turn_equals_one_pass_over_all(method: lf.Method) -> None:
    model, inputs = miniature("llava", samples=1)
    more = torch.randint(2, 80, (1, 4))
    with lf.fix(model, method):
        out = model.generate(**inputs, **GREEDY, return_dict_in_generate=True)
        width = cache_of(out).get_seq_length()
        ids = torch.cat((out.sequences, more), dim=1)
        turn = model(input_ids=ids[:, width:], **held(model, cache_of(out))).logits[:, -1]
        longer = dict(inputs, input_ids=ids, attention_mask=torch.ones_like(ids))
        whole = model(**longer).logits[:, -1]
    torch.testing.assert_close(turn, whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("method", "compares"),
    [("vhr", True), ("pai", True), ("vaf", False), (lf.VAR(threshold=1.4, ratio=0.1), False)],
)
@torch.no_grad()
def test_the_first_image_in_a_further_turn(method: str | lf.Method, compares: bool) -> None:
    model, inputs = miniature("llava", samples=1)
    text, photo = torch.randint(2, 80, (1, 5)), {"pixel_values": inputs["pixel_values"]}
    ids = torch.cat((text, inputs["input_ids"]), dim=1)
    with lf.fix(model, method) as handle:
        cache = cache_of(model(input_ids=text, use_cache=True))
        if compares:  # with a pass of its own, which would have to begin with the earlier text
            for _ in range(2):
                with pytest.raises(lf.InputError, match="the whole conversation at once"):
                    model(input_ids=inputs["input_ids"], **held(model, cache), **photo)
        else:
            turn = model(input_ids=inputs["input_ids"], **held(model, cache), **photo).logits[:, -1]
        whole = model(input_ids=ids, **photo).logits[:, -1]
        assert handle.report()[0].rows_edited
    if not compares:
        torch.testing.assert_close(turn, whole, atol=1e-5, rtol=1e-5)


def test_equal_views_share_one_branch() -> None:
    model, inputs = miniature("llava")
    with lf.fix(model, "pai+m3id") as handle:
        model.generate(**inputs, **GREEDY)
        assert sum(isinstance(watch, Branch) for watch in handle._lives) == 1
        assert all(report.rows_edited for report in handle.report())


def test_the_reports_count_the_tokens_that_were_edited() -> None:
    model, inputs = miniature("llava")
    with lf.fix(model, lf.VCD()) as handle:
        model.generate(**inputs, **GREEDY)
        assert handle.report()[0].rows_edited == 2 * 5


# what cannot be served
# ---------------------------------------------------------------------------------------------


@torch.no_grad()
def test_what_a_branch_cannot_follow_is_refused() -> None:
    model, inputs = miniature("llava", samples=1)
    with pytest.raises(lf.ModelError, match="no tokenizer was found at ''"):
        lf.fix(model, "icd")
    with lf.fix(model, "vcd"):
        with pytest.raises(lf.InputError, match="return_dict"):
            model(**inputs, return_dict=False)
        features = model.model.get_image_features(inputs["pixel_values"])
        given = {name: value for name, value in inputs.items() if name != "pixel_values"}
        with pytest.raises(lf.InputError, match="pass pixel_values, not features"):
            model(**given, mm_encoder_outputs={"image": features})
        cache = cache_of(model(**inputs, use_cache=True))
        with pytest.raises(lf.InputError, match="cannot follow a cut into the prompt"):
            cache.crop(-3)
    assert model(**inputs).logits.isfinite().all()
    assert "get_image_features" not in model.model.__dict__


@torch.no_grad()
def test_early_layers_are_read_only_where_the_head_gives_the_models_own_logits() -> None:
    model, inputs = miniature("llava")

    plain = model.forward

    def capped(*args: Any, **kwargs: Any) -> Any:
        output = plain(*args, **kwargs)
        output.logits = 3 * torch.tanh(output.logits / 3)
        return output

    model.forward = capped
    with (
        lf.fix(model, "dola"),
        pytest.raises(lf.ModelError, match="not norm and output embeddings alone"),
    ):
        model(**inputs)
    assert model.forward is capped


# by hand
# ----------------------------------------------------------------------------------------------


def seen(method: Method, found: torch.Tensor, step: int = 0) -> AtToken:
    """What an edit sees where the one thing that it needs was found."""
    return AtToken(4, step, dict.fromkeys(method.watches(4), found))


def test_contrast_and_plausibility_by_hand() -> None:
    # log 0.5 = -0.693: of 4, 3.5, 1 the last is too unlikely
    logits = torch.tensor([[4.0, 3.5, 1.0], [0.0, 0.0, 0.0]])
    assert plausible(logits, 0.5).tolist() == [[True, True, False], [True, True, True]]
    assert plausible(logits, 0.0).all()
    other = torch.tensor([[3.0, 1.0, 9.0], [1.0, 2.0, 3.0]])
    assert contrasted(logits, other, 1.0, 0.5).tolist() == [
        [5.0, 6.0, -math.inf],
        [-1.0, -2.0, -3.0],
    ]
    assert torch.equal(contrasted(logits, other, 0.0, 0.0), logits)


def test_refinement_by_hand() -> None:
    # with image 1/2, 1/4, 1/4; without 1/4, 1/4, 1/2; γ = 2: s² / u = 1, 1/4, 1/8; share 0.3 drops
    # none, 0.6 two
    with_image, without = (
        torch.tensor([[0.5, 0.25, 0.25]]).log(),
        torch.tensor([[0.25, 0.25, 0.5]]).log(),
    )
    torch.testing.assert_close(
        refined(with_image, without, 2.0, 0.3).exp(), torch.tensor([[1.0, 0.25, 0.125]])
    )
    assert refined(with_image + 3, without - 2, 2.0, 0.6).exp().tolist()[0][1:] == [0.0, 0.0]


def test_paint_refines_as_pai_does() -> None:
    logits, other = torch.randn(2, 7), torch.randn(2, 7)
    for settings in ({}, {"contrast": 2.0, "plausible": 0.5}):
        edited = [
            method.next_token_logits(logits, seen(method, other))
            for method in (lf.PAI(**settings), lf.PAINT(**settings))
        ]
        assert torch.equal(*edited) and not torch.equal(edited[0], logits)


def test_m3id_by_hand() -> None:
    # λ = log 2, first token: g = 1/2, weight 1: s + (s − u); the second sample's likeliest token
    # has 0.9: left alone
    logits = torch.tensor([[0.5, 0.25, 0.25], [0.9, 0.05, 0.05]]).log()
    other = torch.tensor([[0.25, 0.25, 0.5], [0.25, 0.25, 0.5]]).log()
    method = lf.M3ID(decay=math.log(2), certainty=0.8)
    edited = method.next_token_logits(logits, seen(method, other)).exp()
    torch.testing.assert_close(edited, torch.tensor([[1.0, 0.25, 0.125], [0.9, 0.05, 0.05]]))
    later = method.next_token_logits(logits, seen(method, other, 1)).exp()  # g = 1/4, weight 3
    torch.testing.assert_close(later[0], torch.tensor([4.0, 0.25, 0.03125]))


def test_dola_takes_the_layer_that_diverges_most_by_hand() -> None:
    last = torch.tensor([[0.5, 0.25, 0.25]]).log()
    early = torch.tensor([[[0.5, 0.25, 0.25], [0.125, 0.125, 0.75]]]).log()  # the same; far from it
    method = lf.DoLa(plausible=0.0)
    edited = method.next_token_logits(last, seen(method, early)).exp()
    torch.testing.assert_close(edited, torch.tensor([[4.0, 2.0, 1 / 3]]))
    apart = torch.tensor([1.0, 1e-30]).log(), torch.tensor([1e-30, 1.0]).log()
    torch.testing.assert_close(
        divergence(*apart), torch.tensor(math.log(2))
    )  # the largest there is
    assert lf.DoLa(bucket="low").early(32).layers == tuple(range(0, 16, 2))
    assert lf.DoLa().early(32).layers == tuple(range(16, 32, 2))


def test_diffusion_keeps_all_at_first_and_little_at_last() -> None:
    pixels, noise = torch.ones(3), torch.zeros(3)
    assert diffused(pixels, noise, 0).mean() > 0.9999
    assert diffused(pixels, noise, 999).mean() < 0.3
    torch.testing.assert_close(
        diffused(pixels, noise, 500) ** 2 + diffused(noise, pixels, 500) ** 2, pixels
    )
