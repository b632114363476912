"""The private names of transformers that the library relies on are there, on this release."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from cases import cache_of, held

import lvlm_fix
from lvlm_fix import private
from lvlm_fix.core.attention import PREFIX, register
from lvlm_fix.core.call import Signature
from lvlm_fix.tools.miniature import miniature

OTHERS = ("_attn_implementation", "_commit_hash", "_name_or_path", "ALL_ATTENTION_FUNCTIONS",
          "ALL_MASK_ATTENTION_FUNCTIONS")  # fmt: skip


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


def test_private_names_are_in_one_file() -> None:
    root = Path(lvlm_fix.__file__).parent
    for path in root.rglob("*.py"):
        if path.name in ("private.py", "miniature.py"):
            continue
        found = [name for name in OTHERS if re.search(rf"(?<![a-z]){name}\b", path.read_text())]
        assert not found, f"{path.relative_to(root)}: {found}"
