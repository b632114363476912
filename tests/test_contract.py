"""What every method promises, over every family, on tiny random-weight models."""

from __future__ import annotations

import contextlib
import copy
import functools
import shutil
from typing import Any

import pytest
import torch
from cases import CASES, WRITTEN, cache_of, held
from torch import Tensor, nn
from torch.nn.attention.flex_attention import flex_attention
from transformers import DynamicCache, PreTrainedModel, StaticCache, TextIteratorStreamer

import lvlm_fix as lf
from lvlm_fix.methods import METHODS
from lvlm_fix.tools.miniature import IMAGE, inputs_for, miniature, sample
from lvlm_fix.tools.probing import APART, PROBES, read_probed
from lvlm_fix.tools.probing_checks import HalfOutputs, HalfWeights
from lvlm_fix.watches.no_image import _Live as WithoutImage

GREEDY = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
EVERY_LAYER = lf.VHR(layers=tuple(range(5)))
FAMILIES = (
    "llava",
    "llava_next",
    "qwen2_5_vl",
    "qwen3_vl",
    "internvl",
    "gemma3",
    "smolvlm",
    "instructblip",
)
PROBED = {row["family"]: row["methods"] for row in read_probed()}
both = pytest.mark.parametrize("case", CASES)
compiles = pytest.mark.skipif(
    shutil.which("c++") is None, reason="flex attention needs a C++ compiler"
)
every_family = pytest.mark.parametrize("family", FAMILIES)
ODD = [("instructblip", "pti")]  # its keys have other heads than the vectors of the tests
REFUSED = [
    (family, name)
    for family in FAMILIES
    for name, how in PROBED[family].items()
    if how == "refused"
]
REFUSED += [(family, "vti") for family, name in REFUSED if name == "vista"]  # the MLP is missing
# the language model generates alone
REFUSED += [(family, "savva") for family, name in REFUSED if name == "ilvad"]
supported = pytest.mark.parametrize(
    ("family", "case"),
    [
        (family, case)
        for family in FAMILIES
        for case in CASES
        if (family, case) not in REFUSED + ODD
    ],
)


@functools.cache
def built(family: str) -> tuple[PreTrainedModel, dict[str, Tensor], Tensor, Tensor]:
    """A miniature, shared by the tests that leave it as it was; its inputs, plain logits and plain
    text.
    """
    model, inputs = miniature(family)
    with torch.no_grad():
        return model, inputs, model(**inputs).logits, model.generate(**inputs, **GREEDY)


def steps_of(
    model: PreTrainedModel, inputs: dict[str, Tensor], **options: Any
) -> tuple[Tensor, ...]:
    """The logits of every token of a greedy text."""
    return model.generate(
        **inputs, **GREEDY, **options, output_logits=True, return_dict_in_generate=True
    ).logits


def hooks_of(model: nn.Module) -> list[int]:
    """How many hooks and instance attributes each module of the model has."""
    return [
        len(m._forward_pre_hooks) + len(m._forward_hooks) + len(m.__dict__) for m in model.modules()
    ]


def scores(
    model: PreTrainedModel, inputs: dict[str, Tensor], handle: lf.Fix | None = None
) -> Tensor:
    """The head scores of a prompt, under a fix that is there or a new one."""
    with (
        torch.no_grad(),
        contextlib.nullcontext(handle) if handle else lf.fix(model, EVERY_LAYER) as acting,
    ):
        model(**inputs)
        return acting.scores().clone()


def chosen(handle: lf.Fix) -> list[dict[int, list[int]]]:
    """How many heads each method chose, by layer."""
    return [report.heads for report in handle.report()]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The passes without image, as they come: how many texts."""
    log, run = list[int](), WithoutImage._pass

    def logged(self: WithoutImage, texts: Any, device: torch.device) -> Any:
        log.append(len(texts))
        return run(self, texts, device)

    monkeypatch.setattr(WithoutImage, "_pass", logged)
    return log


def test_every_method_has_its_cases() -> None:
    assert sorted({*PROBES, *APART}) == sorted(METHODS)  # the latter have theirs in tests/ask


@supported
def test_neutral_is_bit_equal_and_acting_is_not(case: str, family: str) -> None:
    model, inputs, logits, ids = built(family)
    plain = steps_of(model, inputs)
    with torch.no_grad():
        with lf.fix(model, CASES[case][0]):
            assert torch.equal(model(**inputs).logits, logits)
            assert torch.equal(model.generate(**inputs, **GREEDY), ids)
            assert all(map(torch.equal, steps_of(model, inputs), plain))
        with lf.fix(model, CASES[case][1]) as handle:
            changed = model(**inputs).logits
            if case not in WRITTEN:
                assert all(report.rows_edited and not report.note for report in handle.report())
            steps = steps_of(model, inputs)
            assert all(report.rows_edited and not report.note for report in handle.report())
        assert not changed.isnan().any()  # implausible tokens get −inf
        assert torch.equal(changed, logits) == (case in WRITTEN)
        assert not all(map(torch.equal, steps, plain))
        assert torch.equal(model(**inputs).logits, logits)


@pytest.mark.parametrize(("family", "case"), REFUSED)
def test_a_refusal_says_what_is_missing_and_leaves_the_model_as_it_was(
    case: str, family: str
) -> None:
    model, inputs, logits, _ = built(family)
    with torch.no_grad():
        with (
            pytest.raises(lf.ModelError, match=type(model).__name__),
            lf.fix(model, CASES[case][1]),
        ):
            model(**inputs)
        assert torch.equal(model(**inputs).logits, logits)
    assert all("_lvlm_fix" not in module.__dict__ for module in model.modules())


@pytest.mark.parametrize(
    ("family", "case"),
    [*(("llava", case) for case in CASES), *((f, "var+vhr") for f in FAMILIES[1:])],
)
def test_leaving_restores_everything_also_after_an_error(family: str, case: str) -> None:
    model, inputs, _, _ = built(family)
    before, config = hooks_of(model), copy.deepcopy(model.config.to_dict())
    implementation = model.get_decoder().config._attn_implementation

    class Mine(Exception):
        pass

    with pytest.raises(Mine), lf.fix(model, CASES[case][1]):
        model(**inputs)
        assert hooks_of(model) != before
        assert model.get_decoder().config._attn_implementation != implementation
        raise Mine
    assert hooks_of(model) == before
    assert model.config.to_dict() == config
    assert model.get_decoder().config._attn_implementation == implementation
    handle = lf.fix(model, CASES[case][1])
    handle.remove()
    handle.remove()
    assert hooks_of(model) == before


@supported
def test_a_padded_batch_equals_one_by_one(case: str, family: str) -> None:
    model, inputs, _, _ = built(family)

    def last(given: dict[str, Tensor]) -> Tensor:
        if case == "pti":  # of rotated keys: only `generate` gives a padded text its own positions
            return steps_of(model, given)[0]
        return model(**given).logits[:, -1]

    with torch.no_grad(), lf.fix(model, CASES[case][1]):
        together = last(inputs)
        alone = torch.cat([last(sample(inputs, number)) for number in range(2)])
    torch.testing.assert_close(together, alone, atol=5e-5, rtol=1e-3)


@every_family
def test_with_and_without_cache_agree(family: str) -> None:
    """Decoding from the cache gives the logits of one pass over prompt and text.

    For VAR alone: heads (VHR) and received sinks are chosen at the end of the prompt, so a longer
    prompt chooses anew.
    """
    model = built(family)[0]
    inputs = inputs_for(model, samples=1)
    options = GREEDY | {"output_logits": True, "return_dict_in_generate": True}
    with torch.no_grad(), lf.fix(model, CASES["var"][1]):
        out = model.generate(**inputs, **options)
        ids = torch.cat((inputs["input_ids"], out.sequences[:, -4:-1]), dim=1)
        longer = dict(inputs, input_ids=ids, attention_mask=torch.ones_like(ids))
        for name in ("token_type_ids", "mm_token_type_ids"):
            if name in inputs:
                longer[name] = (ids == IMAGE).long()
        whole = model(**longer).logits[:, -1]
    torch.testing.assert_close(out.logits[-1], whole, atol=2e-5, rtol=1e-4)


@every_family
def test_recomputed_rows_are_those_of_the_model(family: str) -> None:
    """Half of all weights is half of all outputs: mask, scale, grouping and window are the model's
    own.
    """
    model, inputs, _, _ = built(family)
    options = GREEDY | {"output_logits": True, "return_dict_in_generate": True}
    found = []
    for half in (HalfWeights(), HalfOutputs()):
        with lf.fix(model, half):
            found.append(torch.stack(model.generate(**inputs, **options).logits))
    torch.testing.assert_close(*found, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("family", "case"),
    [*(("llava", case) for case in CASES), ("gemma3", "var+vhr"), ("instructblip", "var+vhr")],
)
def test_beams_and_batches_of_beams(family: str, case: str) -> None:
    model, inputs, _, _ = built(family)
    options = GREEDY | {"num_beams": 3}
    with lf.fix(model, CASES[case][1]) as handle:
        together = model.generate(**inputs, **options)
        assert all(report.rows_edited for report in handle.report())
        alone = [model.generate(**sample(inputs, number), **options)[0, -4:] for number in range(2)]
    assert torch.equal(together[:, -4:], torch.stack(alone))


@pytest.mark.parametrize("remember", [False, True])
def test_the_pass_without_image_runs_once_per_question_only_where_it_may_be_remembered(
    passes: list[int], remember: bool
) -> None:
    model, inputs = miniature("llava")
    other = inputs | {"pixel_values": inputs["pixel_values"].flip(-1)}
    first, second = scores(model, inputs), scores(model, other)
    assert not torch.equal(first, second)
    passes.clear()
    with lf.fix(model, EVERY_LAYER, remember=remember) as handle:
        assert torch.equal(scores(model, inputs, handle), first)
        assert torch.equal(scores(model, other, handle), second)
        assert passes == ([2] if remember else [2, 2])  # two questions in a batch, one pass
        passes.clear()
        torch.testing.assert_close(
            scores(model, sample(other, 1), handle)[0], second[1], atol=1e-5, rtol=1e-5
        )
        assert passes == ([] if remember else [1])
        with torch.no_grad():
            model.get_decoder().layers[0].mlp.down_proj.weight.mul_(1.5)
        passes.clear()
        changed = scores(model, sample(other, 1), handle)
        assert passes == [1]
    assert torch.equal(changed, scores(model, sample(other, 1)))
    assert not torch.allclose(changed[0], second[1])


@both
def test_sampling_with_a_seed_repeats(case: str) -> None:
    model, inputs, _, _ = built("llava")
    with lf.fix(model, CASES[case][1]):
        texts = []
        for _ in range(2):
            torch.manual_seed(3)
            texts.append(model.generate(**inputs, max_new_tokens=6, do_sample=True))
    assert torch.equal(*texts)


@both
def test_two_models_at_once_share_nothing(case: str) -> None:
    one, inputs, _, _ = built("llava")
    two, others = miniature("llava", seed=5)
    acting = CASES[case][1]
    with torch.no_grad():
        plain = two(**others).logits
        with lf.fix(one, acting):
            alone = one(**inputs).logits
            assert torch.equal(two(**others).logits, plain)
        with lf.fix(one, acting), lf.fix(two, "vhr"):
            two(**others)
            assert torch.equal(one(**inputs).logits, alone)


@pytest.mark.parametrize(
    ("family", "case"),
    [*(("llava", case) for case in CASES), *((f, "var+vhr") for f in FAMILIES[1:])],
)
def test_bfloat16_has_no_nan(family: str, case: str) -> None:
    model, inputs = miniature(family)
    inputs["pixel_values"] = inputs["pixel_values"].bfloat16()
    with torch.no_grad(), lf.fix(model.bfloat16(), CASES[case][1]):
        assert not model(**inputs).logits.isnan().any()


@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore:flex_attention called without:UserWarning"
)
@pytest.mark.parametrize(
    "wrapped", ["eager", "sdpa", pytest.param("flex_attention", marks=compiles)]
)
@both
def test_every_wrapped_implementation_gives_the_same(
    case: str, wrapped: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(  # its own products: its kernel for a CPU does not compile in torch 2.13
        "transformers.integrations.flex_attention.compile_friendly_flex_attention",
        lambda *args, training, **kwargs: flex_attention(*args, **kwargs),
    )
    model, inputs = miniature("llava")
    with torch.no_grad(), lf.fix(model, CASES[case][1]):
        wanted, steps = model(**inputs).logits, steps_of(model, inputs)
    model.set_attn_implementation({"text_config": wrapped})
    with torch.no_grad(), lf.fix(model, CASES[case][1]):
        found, others = model(**inputs).logits, steps_of(model, inputs)
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(found[real], wanted[real], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(others, steps, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", [lf.PAI(contrast=1.0), lf.HGAI(), lf.VAF()])
def test_an_image_key_outside_of_a_window_stays_hidden(method: lf.Method) -> None:
    model, inputs, _, _ = built("gemma3")
    kept: list[Tensor] = []

    class Watch(lf.Method):
        def attention_weights(self, weights: Tensor, at: lf.AtLayer) -> Tensor:
            kept.append(weights)
            return weights

    def weights_under(methods: list[lf.Method]) -> list[Tensor]:
        kept.clear()
        with lf.fix(model, methods):
            model.generate(**inputs, **GREEDY)
        return kept.copy()

    plain, edited = weights_under([Watch()]), weights_under([method, Watch()])
    image = inputs["input_ids"] == model.config.image_token_id
    hidden = [
        (before == 0)[..., : image.shape[1]] & image[:, None, None, : before.shape[3]]
        for before in plain
    ]
    assert any(bool(where.any()) for where in hidden)
    for where, before, after in zip(hidden, plain, edited, strict=True):
        torch.testing.assert_close(after.sum(-1), before.sum(-1))
        assert not after[..., : where.shape[3]][where].any()


def test_attention_weights_that_are_asked_for_are_those_that_acted() -> None:
    model, inputs = miniature("llava")
    model.set_attn_implementation("eager")
    acted: list[Tensor] = []

    class Last(lf.Method):
        def attention_weights(self, weights: Tensor, at: lf.AtLayer) -> Tensor:
            acted.append(weights[:, :, -1])
            return weights

    options = GREEDY | {"output_attentions": True, "return_dict_in_generate": True}
    plain = model.generate(**inputs, **options).attentions
    with lf.fix(model, [*CASES["var+vhr"][1], Last()]):
        found = model.generate(**inputs, **options).attentions
    shown = [layer[:, :, -1] for step in found for layer in step]
    torch.testing.assert_close(shown, acted)
    assert not any(
        torch.equal(a[0][:, :, -1], b[0][:, :, -1]) for a, b in zip(found, plain, strict=True)
    )


@pytest.mark.parametrize(
    ("family", "case"),
    [*(("llava", case) for case in CASES), *((f, "var+vhr") for f in FAMILIES[1:])],
)
@pytest.mark.parametrize("padded", [True, False])
def test_a_static_cache_gives_the_same(family: str, case: str, padded: bool) -> None:
    model, inputs, _, _ = built(family)
    inputs = inputs if padded else sample(inputs, 0)
    with lf.fix(model, CASES[case][1]) as handle:
        wanted, edited = steps_of(model, inputs), [report.rows_edited for report in handle.report()]
        found = steps_of(model, inputs, cache_implementation="static", disable_compile=True)
        assert [report.rows_edited for report in handle.report()] == edited
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "case", sorted(CASES.keys() - {"paint", "damro", "pti"})
)  # which want a vision tower with a CLS token, and a cache that keeps every key
def test_a_static_cache_in_which_every_layer_slides_gives_the_same(case: str) -> None:
    model, inputs = miniature("mistral3")
    model.config.text_config.sliding_window = (
        8  # shorter than the prompt, so nothing tells how long the text may grow
    )
    with lf.fix(model, CASES[case][1]):
        wanted = steps_of(model, inputs)
        found = steps_of(model, inputs, cache_implementation="static", disable_compile=True)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@both
def test_a_further_turn_in_a_static_cache_gives_the_same(case: str) -> None:
    model, inputs = miniature("llava", samples=1)
    config, more, turns = model.config.get_text_config(), torch.randint(2, 80, (1, 4)), []
    for cache in (DynamicCache(config=config), StaticCache(config=config, max_cache_len=80)):
        with lf.fix(model, CASES[case][1]):
            text = model.generate(**inputs, **held(model, cache), disable_compile=True, **GREEDY)
            ids = torch.cat((text, more), dim=1)
            longer = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
            turns.append(steps_of(model, longer, **held(model, cache), disable_compile=True))
    torch.testing.assert_close(*turns, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("family", "case"),
    [*(("llava", case) for case in CASES), *((f, "var+vhr") for f in FAMILIES[1:7])],
)
def test_text_alone_passes_untouched_and_is_reported(family: str, case: str) -> None:
    model = built(family)[0]
    ids = torch.randint(2, 80, (2, 7))
    with torch.no_grad():
        plain = model(input_ids=ids).logits
        text = model.generate(input_ids=ids, **GREEDY)
        with lf.fix(model, CASES[case][1]) as handle:
            static = {"cache_implementation": "static", "disable_compile": True}
            assert torch.equal(model.generate(input_ids=ids, **GREEDY), text)
            assert torch.equal(model.generate(input_ids=ids, **GREEDY, **static), text)
            assert torch.equal(model(input_ids=ids).logits, plain)
            assert all("no image" in report.note for report in handle.report())


@both
def test_a_sample_without_image_is_untouched_beside_one_with(case: str) -> None:
    model, inputs, _, _ = built("llava")
    ids = inputs["input_ids"].clone()
    ids[0] = torch.where(ids[0] == IMAGE, 7, ids[0])
    mixed = {
        "input_ids": ids,
        "attention_mask": inputs["attention_mask"],
        "pixel_values": inputs["pixel_values"][1:],
    }
    with torch.no_grad():
        plain = model(**mixed).logits
        plain_text = model.generate(**mixed, **GREEDY)
        with lf.fix(model, CASES[case][1]):
            assert torch.equal(model(**mixed).logits[0], plain[0])
            assert torch.equal(model(**mixed).logits[1], plain[1]) == (case in WRITTEN)
            assert torch.equal(model.generate(**mixed, **GREEDY)[0], plain_text[0])


@every_family
def test_several_images_in_one_prompt(family: str) -> None:
    model = built(family)[0]
    inputs = inputs_for(model, photos=2)
    with torch.no_grad():
        logits = model(**inputs).logits
        with lf.fix(model, "var+vhr"):
            assert not torch.equal(model(**inputs).logits, logits)
            assert model.generate(**inputs, **GREEDY)[:, -4:].shape == (2, 4)


@both
def test_a_second_turn_goes_on_from_the_cache(case: str) -> None:
    model, inputs = miniature("llava", samples=1)
    more = torch.randint(2, 80, (1, 4))
    with torch.no_grad(), lf.fix(model, CASES[case][1]) as handle:
        first = model(**inputs, use_cache=True)
        before = sum(report.rows_edited for report in handle.report())
        heads = chosen(handle)
        second = model(input_ids=more, **held(model, cache_of(first)))
        assert not second.logits.isnan().any()
        more = sum(report.rows_edited for report in handle.report()) > before
        assert more == (case not in (*WRITTEN, "pti"))  # pti edits the first prompt alone
        assert chosen(handle) == heads  # fixed for the sample


def test_streaming_gives_the_same_text(tiny: Any, photos: list[Any]) -> None:
    from lvlm_fix.models import prepare

    model, processor = tiny
    inputs = prepare(model, processor, [lf.open_image(photos[0])], ["Describe."])
    with lf.fix(model, "var+vhr"):
        wanted = model.generate(**inputs, max_new_tokens=12)
        streamer = TextIteratorStreamer(
            processor.tokenizer, skip_prompt=True, skip_special_tokens=True
        )
        model.generate(**inputs, max_new_tokens=12, streamer=streamer)
    text = processor.tokenizer.decode(
        wanted[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    assert "".join(streamer) == text


def test_a_second_fix_a_foreign_cache_and_embeddings_alone_are_refused() -> None:
    model, inputs = miniature("llava")
    with torch.no_grad():
        filled = cache_of(model(**inputs, use_cache=True))
        with lf.fix(model, "vhr"):
            with pytest.raises(lf.ModelError, match="fixed already"):
                lf.fix(model, "var")
            with pytest.raises(lf.SettingError, match="no layer 9; this model has 5"):
                lf.fix(model, lf.VHR(layers=(1, 9)))
            with pytest.raises(lf.InputError, match="outside this fix"):
                model(input_ids=inputs["input_ids"][:, -1:], **held(model, filled))
            with pytest.raises(lf.InputError, match="input_ids"):
                model(inputs_embeds=torch.zeros(1, 3, 48))
            assert model(**inputs).logits.isfinite().all()
    assert all("_lvlm_fix" not in module.__dict__ for module in model.modules())


def test_a_model_without_image_tokens_is_refused() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    plain = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=9,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
        )
    )
    with pytest.raises(lf.ModelError, match="no image tokens"):
        lf.fix(plain, "vhr")
