"""The private names of transformers that the library relies on are there, on this release."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import cache_of, held

import lvlm_fix
import lvlm_fix as lf
from lvlm_fix import private
from lvlm_fix.core.attention import PREFIX, register
from lvlm_fix.core.call import Signature, cache_in
from lvlm_fix.tools.miniature import FAMILIES, miniature, model_of

OTHERS = ("_attn_implementation", "_beam_search_has_unfinished_sequences",
          "_check_early_stop_heuristic", "_get_running_beams_for_next_iteration",
          "_get_top_k_continuations", "_update_finished_beams",
          "_commit_hash", "_name_or_path", "ALL_ATTENTION_FUNCTIONS",
          "ALL_MASK_ATTENTION_FUNCTIONS", "_beam_search", "_eos_token_tensor", "_pad_token_tensor",
          "_prefill", "_sample", "_update_model_kwargs_for_generation")  # fmt: skip


def test_an_implementation_is_read_registered_and_switched() -> None:
    model, inputs = miniature("llava")
    decoder = model.get_decoder()
    assert private.implementation_of(decoder) == "sdpa"
    with torch.no_grad():
        plain = model(**inputs).logits
        private.switch(model, "text_config", register("sdpa"))
        assert private.implementation_of(decoder) == PREFIX + "sdpa"
        assert torch.equal(model(**inputs).logits, plain)  # the padding mask came with it
    assert private.implementation(decoder.layers[0].self_attn, "eager").__name__
    assert private.implementation(decoder.layers[0].self_attn, "sdpa").__name__


class Picking(torch.nn.Module):
    config: Any

    def forward(self, keys: torch.Tensor) -> torch.Tensor:
        return keys[:4] if self.config._attn_implementation in ("eager", "sdpa") else keys


def test_attention_that_goes_by_the_name_of_its_implementation_is_refused() -> None:
    model, _ = miniature("llava")
    assert not private.asks_for_name(type(model.get_decoder().layers[0].self_attn))
    assert private.asks_for_name(Picking)
    if "mistral_large4" in FAMILIES:
        with pytest.raises(lf.ModelError, match="picks its keys"):
            lf.fix(model_of("mistral_large4"), "vhr")


def test_where_a_model_comes_from_and_whether_it_recomputes() -> None:
    model, _ = miniature("llava")
    assert private.commit_of(model) is None
    assert private.name_of(model) == "LlavaForConditionalGeneration"
    assert private.recomputes(model) is False


def test_the_cache_is_found_among_arguments_and_outputs() -> None:
    model, inputs = miniature("llava", samples=1)
    assert Signature(model).cache in Signature(model).names
    with torch.no_grad():
        cache = cache_of(model(**inputs, use_cache=True))
        call = Signature(model).call((), {"input_ids": torch.tensor([[5]]), **held(model, cache)})
    assert call.cache is cache


def test_a_text_goes_on_pass_by_pass() -> None:
    """What going back in a text rests on: the stock decoding, its passes and its cache."""
    model, inputs = miniature("llava", samples=1)
    found: list[object] = []

    def own(model: Any, input_ids: Any, generation_config: Any, **given: Any) -> torch.Tensor:
        rest = {key: given.pop(key) for key in ("logits_processor", "stopping_criteria")}
        logits, grown = private.start(model, input_ids, generation_config, dict(given))
        ids = torch.cat((input_ids, logits.argmax(-1)[:, None]), 1)
        logits, _ = private.go_on(model, ids, grown)
        ids = torch.cat((ids, logits.argmax(-1)[:, None]), 1)
        found.append(private.special_tokens(generation_config)[1])
        cache = cache_in(given)
        assert cache is not None and rest
        cache.crop(-2)
        found.append(cache.get_seq_length())
        return ids

    options: dict[str, Any] = {"max_new_tokens": 2, "do_sample": False}
    ids = model.generate(**inputs, **options, custom_generate=own)
    assert torch.equal(ids, model.generate(**inputs, **options))
    assert found == [frozenset(), inputs["input_ids"].shape[1] - 1]


def test_private_names_are_in_one_file() -> None:
    root = Path(lvlm_fix.__file__).parent
    for path in root.rglob("*.py"):
        if path.name == "private.py" or path.name.startswith("miniature"):
            continue
        found = [name for name in OTHERS if re.search(rf"(?<![a-z]){name}\b", path.read_text())]
        assert not found, f"{path.relative_to(root)}: {found}"
