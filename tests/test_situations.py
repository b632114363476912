"""Whatever a caller does inside the block: the text is what the method's equations give, or there
is one clear error. Every method in every situation; `docs/situations.md` has the table.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from cases import CASES, cache_of, held
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, StaticCache

import lvlm_fix as lf
from lvlm_fix.tools.miniature import IMAGE, inputs_for, miniature, sample

TOKENS = 6
GREEDY: dict[str, Any] = {
    "max_new_tokens": TOKENS, "min_new_tokens": TOKENS, "do_sample": False,
    "suppress_tokens": [IMAGE],
}  # fmt: skip
PLAIN = "none"
every = pytest.mark.parametrize("case", CASES)


@functools.cache
def built() -> tuple[PreTrainedModel, dict[str, Tensor]]:
    """A miniature and one prompt with its photo; nothing in these tests changes them."""
    return miniature("llava", samples=1)


def text(case: str, **options: Any) -> Tensor:
    """The greedy text under a method, or of the unmodified model."""
    model, inputs = built()
    with nullcontext() if case == PLAIN else lf.fix(model, CASES[case][1]):
        return model.generate(**inputs, **GREEDY, **options)


@functools.cache
def reference(case: str) -> Tensor:
    """The text of plain greedy generation under a method, with a dynamic cache."""
    return text(case)


@functools.cache
def sound(situation: str) -> bool:
    """Whether this release gives the unmodified model's plain text in a situation."""
    try:
        return torch.equal(SITUATIONS[situation](PLAIN), reference(PLAIN))
    except (TypeError, ValueError):
        return False


def right(case: str, found: Callable[[], Tensor]) -> str:
    """`same` or `refused`; anything else fails."""
    try:
        ids = found()
    except lf.LvlmFixError:
        return "refused"
    assert torch.equal(ids, reference(case)), "another text, and no error"
    return "same"


# each: what a caller does, and the methods' needs that it cannot serve
def assisted(case: str) -> Tensor:
    """Another model drafts tokens, which one pass verifies."""
    drafting, _ = miniature("llava", samples=1)
    with torch.no_grad():
        drafting.lm_head.weight.mul_(-1)  # it drafts badly, so that drafts are cut again
    return text(case, assistant_model=drafting)


def looked_up(case: str) -> Tensor:
    """Tokens are drafted by looking them up in the prompt."""
    return text(case, prompt_lookup_num_tokens=3)


def chunked(case: str) -> Tensor:
    """The prompt comes in several passes."""
    return text(case, prefill_chunk_size=5)


def uncached(case: str) -> Tensor:
    """There is no cache."""
    return text(case, use_cache=False)


def static(case: str) -> Tensor:
    """The cache has its final size from the start."""
    return text(case, cache_implementation="static", disable_compile=True)


# the tower does not see a photo that some releases encode once; MoD compares the first token
REFUSED = {(case, "uncached") for case in ("paint", "damro", "mod", "ilvad", "savva")}
REFUSED |= {(case, "looked up") for case in ("ilvad", "savva")}  # one row a pass

SITUATIONS: dict[str, Callable[[str], Tensor]] = {
    "assisted": assisted,
    "looked up": looked_up,
    "chunked": chunked,
    "uncached": uncached,
    "static": static,
}


@every
@pytest.mark.parametrize("situation", SITUATIONS)
def test_generate_gives_the_text_of_the_plainest_call_or_says_so(case: str, situation: str) -> None:
    if not sound(situation):
        pytest.skip("on this release the unmodified model itself gives another text")
    how = right(case, lambda: SITUATIONS[situation](case))
    if situation in ("uncached", "static", "looked up"):
        assert how == "same" or (case, situation) in REFUSED


def logits_of(case: str, do: Callable[[PreTrainedModel, dict[str, Tensor], Any], Tensor]) -> Tensor:
    model, inputs = built()
    with torch.no_grad(), lf.fix(model, CASES[case][1]) as handle:
        return do(model, inputs, handle)


def step(model: PreTrainedModel, cache: Any, *tokens: int) -> Tensor:
    """The logits after one more pass over these tokens."""
    ids = torch.tensor([tokens])
    return model(input_ids=ids, use_cache=True, **held(model, cache)).logits[:, -1]


@every
def test_a_cropped_cache_is_a_text_that_never_had_what_was_cut(case: str) -> None:
    def run(cut: bool) -> Tensor:
        def do(model: PreTrainedModel, inputs: dict[str, Tensor], _: Any) -> Tensor:
            cache = cache_of(model(**inputs, use_cache=True))
            step(model, cache, 5)
            if cut:
                step(model, cache, 11)
                step(model, cache, 12)
                cache.crop(-2)
            return step(model, cache, 7)

        return logits_of(case, do)

    torch.testing.assert_close(run(True), run(False), atol=1e-5, rtol=1e-5)


@every
def test_a_static_cache_that_was_reset_begins_another_text(case: str) -> None:
    model, inputs = built()
    other = inputs | {"pixel_values": -2 * inputs["pixel_values"]}
    cache = StaticCache(config=model.config.get_text_config(), max_cache_len=80)
    with torch.no_grad(), lf.fix(model, CASES[case][1]):
        wanted = model(**other).logits[:, -1]
        model(**inputs, use_cache=True, **held(model, cache))
        cache.reset()
        found = model(**other, use_cache=True, **held(model, cache)).logits[:, -1]
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


@every
def test_two_caches_in_turn_and_a_copied_one_keep_their_own_texts(case: str) -> None:
    def run(alone: bool, copied: bool = False) -> Tensor:
        def do(model: PreTrainedModel, inputs: dict[str, Tensor], _: Any) -> Tensor:
            cache = cache_of(model(**inputs, use_cache=True))
            if not alone:
                other = {**inputs, "pixel_values": -inputs["pixel_values"]}
                second = cache_of(model(**other, use_cache=True))
                step(model, second, 9)
            step(model, cache, 5)
            if copied:
                kept = copy.deepcopy(cache)
                step(model, cache, 13)
                cache = kept
            elif not alone:
                step(model, second, 21)
            return step(model, cache, 7)

        return logits_of(case, do)

    torch.testing.assert_close(run(False), run(True), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(run(True, copied=True), run(True), atol=1e-5, rtol=1e-5)


@every
def test_a_prefix_that_the_fix_has_not_seen_is_refused(case: str) -> None:
    model, inputs = built()
    with torch.no_grad():
        foreign = cache_of(model(**inputs, use_cache=True))
        with (
            lf.fix(model, CASES[case][1]),
            pytest.raises(lf.InputError, match="outside this fix"),
        ):
            step(model, foreign, 5)


@every
def test_the_inner_model_on_plain_text_is_the_unmodified_one(case: str) -> None:
    model, inputs = built()
    words = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.no_grad():
        plain = model.get_decoder()(input_ids=words).last_hidden_state
        with lf.fix(model, CASES[case][1]):
            model(**inputs)
            assert torch.equal(model.get_decoder()(input_ids=words).last_hidden_state, plain)


@pytest.mark.parametrize("case", ["vhr", "var", "hgai"])
def test_the_part_without_head_is_edited_too(case: str) -> None:
    def run(whole: bool) -> Tensor:
        def do(model: PreTrainedModel, inputs: dict[str, Tensor], _: Any) -> Tensor:
            if whole:
                return model(**inputs).logits
            return model.lm_head(model.base_model(**inputs).last_hidden_state)

        return logits_of(case, do)

    torch.testing.assert_close(run(False), run(True))


@every
def test_four_threads_get_their_own_texts(case: str) -> None:
    model, inputs = built()
    others = [inputs | {"pixel_values": inputs["pixel_values"] * size} for size in (1, -1, 2, 0.5)]
    with lf.fix(model, CASES[case][1]):
        alone = [model.generate(**one, **GREEDY).tolist() for one in others]
    with lf.fix(model, CASES[case][1]), ThreadPoolExecutor(4) as pool:
        found = list(
            pool.map(lambda i: model.generate(**others[i % 4], **GREEDY).tolist(), range(8))
        )
    assert found == alone * 2


@every
def test_guidance_of_generate_runs_beside(case: str) -> None:
    model, inputs = built()
    with lf.fix(model, CASES[case][1]) as handle:
        found = model.generate(**inputs, **GREEDY, guidance_scale=1.5)
        assert all(report.rows_edited for report in handle.report())
    assert found.shape[1] == inputs["input_ids"].shape[1] + TOKENS


@every
def test_a_prompt_that_ends_with_its_photo_is_edited_and_reported(case: str) -> None:
    model, inputs = built()
    end = int((inputs["input_ids"][0] == IMAGE).nonzero().max()) + 1
    ids = inputs["input_ids"][:, :end]
    cut = inputs | {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    cut |= {
        name: cut[name][:, :end] for name in ("token_type_ids", "mm_token_type_ids") if name in cut
    }
    with lf.fix(model, CASES[case][1]) as handle:
        model.generate(**cut, **GREEDY)
        for report in handle.report():
            assert report.rows_edited and not report.note


@every
def test_gradients_flow_or_are_refused(case: str) -> None:
    model, inputs = miniature("llava", samples=1)
    with lf.fix(model, CASES[case][1]) as handle:
        if any("next_token_logits" in method.edits() for method in handle.methods):
            with pytest.raises(lf.InputError, match="gradient"):
                model(**inputs, labels=inputs["input_ids"])
            return
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
    assert model.get_decoder().layers[0].mlp.down_proj.weight.grad is not None


def test_a_gradient_through_an_edited_token_is_refused_when_it_is_asked_for() -> None:
    model, inputs = miniature("llava", samples=1)
    with lf.fix(model, "vcd"):
        logits = model(**inputs).logits
        with pytest.raises(lf.InputError, match="no gradient"):
            logits.sum().backward()


def test_dropout_and_recomputed_passes_are_refused() -> None:
    model, inputs = miniature("llava", samples=1)
    for part in model.modules():
        if "attention_dropout" in part.__dict__:
            part.__dict__["attention_dropout"] = 0.5
    model.train()
    with lf.fix(model, "hgai"), pytest.raises(lf.InputError, match=r"model\.eval"):
        model(**inputs)
    known = "activation_checkpointing_enable" in dir(type(model))
    getattr(
        model, "activation_checkpointing_enable" if known else "gradient_checkpointing_enable"
    )()
    with lf.fix(model, "vhr"), pytest.raises(lf.InputError, match="checkpointing"):
        model(**inputs)


def test_ways_past_the_forward_are_refused() -> None:
    model, inputs = built()
    with lf.fix(model, "vhr"):
        for name in ("generate_batch", "init_continuous_batching"):
            if name in dir(type(model)):
                with pytest.raises(lf.InputError, match="another way through the model"):
                    getattr(model, name)(inputs["input_ids"].tolist())
    assert "generate" not in model.__dict__ and "forward" not in model.__dict__


def test_a_layer_that_is_never_reached_is_an_error_with_the_versions() -> None:
    model, inputs = miniature("llava", samples=1)
    with lf.fix(model, "vhr"):
        model.set_attn_implementation({"text_config": "eager"})  # switched inside the block
        with pytest.raises(lf.ModelError, match=r"was not seen.*transformers \d"):
            model(**inputs)


def test_an_adapter_that_is_switched_inside_the_block_counts() -> None:
    model, inputs = miniature("llava", samples=1)
    part, on = model.get_decoder().layers[0].mlp, list[int]()
    plain, more = part.forward, torch.randn(48, 48)
    part.forward = lambda x: plain(x) + (x @ more if on else 0)

    def scores(switched: bool) -> Tensor:
        on.clear()
        if not switched:
            on.append(1)
        with torch.no_grad(), lf.fix(model, "vhr") as handle:
            model(**inputs)
            on.append(1)
            model(**inputs)
            return handle.scores().nan_to_num(-1.0)

    assert torch.equal(scores(True), scores(False))


def test_a_pass_that_fails_is_not_gone_on_from() -> None:
    model, inputs = built()
    part = model.get_decoder().layers[3].mlp
    plain = part.forward

    def broken(hidden: Tensor) -> Tensor:
        raise RuntimeError("out of memory")

    with torch.no_grad(), lf.fix(model, "vhr"):
        cache = cache_of(model(**inputs, use_cache=True))
        part.forward = broken
        with pytest.raises(RuntimeError, match="out of memory"):
            step(model, cache, 5)
        part.forward = plain
        with pytest.raises(lf.InputError, match="from a pass that failed"):
            step(model, cache, 5)
        assert model(**inputs).logits.isfinite().all()
    del part.forward


def test_a_cache_is_left_as_it_was_made() -> None:
    model, inputs = built()
    cache = DynamicCache(config=model.config.get_text_config())
    with torch.no_grad(), lf.fix(model, "vhr"):
        model(**inputs, use_cache=True, **held(model, cache))
        assert type(cache) is not DynamicCache and isinstance(cache, DynamicCache)
    assert type(cache) is DynamicCache and not any("lvlm" in name for name in vars(cache))


def test_another_batch_on_a_cache_is_refused() -> None:
    model, inputs = built()
    with torch.no_grad(), lf.fix(model, "vhr"):
        cache = cache_of(model(**inputs, use_cache=True))
        with pytest.raises(lf.InputError, match="holds 1 texts, but 2 prompts continue"):
            model(input_ids=torch.tensor([[5], [6]]), use_cache=True, **held(model, cache))


def test_equal_watches_are_shared_and_different_ones_stand_side_by_side() -> None:
    model, inputs = built()
    second = lf.VAR(rule="received", received=1.2, ratio=0.0, image_share=0.0)
    others = [lf.VAR(rule="received", received=50.0, share=0.0), lf.VAR(share=0.0, threshold=0.5)]

    def logits(*methods: lf.Method) -> Tensor:
        with torch.no_grad(), lf.fix(model, list(methods)) as handle:
            assert len(handle._lives) == len({w for m in methods for w in m.watches(5)})
            return model(**inputs).logits[:, -1]

    for first in others:
        torch.testing.assert_close(logits(first, second), logits(second))
    assert torch.equal(logits(second, second), logits(second, second))


@pytest.mark.parametrize("case", ["vhr", "var", "hgai", "pai"])
def test_samples_selected_from_a_cache_go_on(case: str) -> None:
    model, _ = built()
    both = inputs_for(model)

    def run(selected: bool) -> Tensor:
        with torch.no_grad(), lf.fix(model, CASES[case][1]):
            given = both if selected else sample(both, 1)
            cache = cache_of(model(**given, use_cache=True))
            if selected:
                cache.batch_select_indices(torch.tensor([1]))
            width = cache.get_seq_length()
            mask = torch.ones(1, width + 1, dtype=torch.long)
            mask[:, :width] = given["attention_mask"][-1:]
            ids = torch.tensor([[5]])
            return model(
                input_ids=ids, attention_mask=mask, use_cache=True, **held(model, cache)
            ).logits[:, -1]

    torch.testing.assert_close(run(True), run(False), atol=5e-5, rtol=1e-3)
