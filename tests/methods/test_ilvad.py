"""ILVAD: by hand, and against a first generation and an edited one over full maps."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from beams import scores_are_those_of_the_texts
from torch import Tensor
from transformers.models.llama import modeling_llama

import lvlm_fix as lf
from lvlm_fix.method import AtLayer
from lvlm_fix.tools.miniature import IMAGE, miniature, sample
from lvlm_fix.watches import Supported, brought_up
from lvlm_fix.watches.evidence import clipped

STEPS = 8
GREEDY: dict[str, Any] = {
    "max_new_tokens": STEPS, "min_new_tokens": STEPS, "do_sample": False,
    "suppress_tokens": [IMAGE], "output_logits": True, "return_dict_in_generate": True,
}  # fmt: skip
MILD = {"factor": 1.1, "strength": 2.0}  # so low that random attention rises above it


def test_a_token_counts_for_every_layer_that_brings_it_up() -> None:
    # above 1.5 times the mean: layer 0 none, layer 1 the first, layer 2 the second and then none
    levels = torch.tensor([[1.0, 1.0, 1.0, 1.0], [3.0, 1.0, 0.0, 0.0], [1.0, 4.0, 0.0, 0.0]])
    levels = torch.cat((levels, torch.tensor([[9.0, 1.0, 0.0, 0.0]])))
    assert brought_up(levels, 1.5).tolist() == [1.0, 0.5, 0.0, 0.0]
    assert brought_up(torch.ones(3, 4), 1.5).tolist() == [0.0] * 4


def test_scores_are_clipped_and_then_measured_by_their_former_range() -> None:
    scores = torch.tensor([[0.0] * 12 + [13.0, 99.0]])
    known = torch.tensor([[True] * 13 + [False]])
    new, words, ranged = clipped(scores, known)
    # mean 1, variance 13²·(12/13)/12 = 13: at most 1 + 3·√13
    assert new[0, 12] == pytest.approx(1 + 3 * 13**0.5) and new[0, 13] == 99
    assert words[0, 12] == pytest.approx((1 + 3 * 13**0.5) / 13) and bool(ranged)
    assert not clipped(torch.ones(1, 3), torch.ones(1, 3, dtype=torch.bool))[2]


def test_both_edits_by_hand() -> None:
    method = lf.ILVAD(strength=1.0, words=0.5)
    evidence = method.evidence(5)
    # keys: one before the image, two of the image, two words
    image = torch.tensor([[0.0, 1.0, 0.0, 0.0, 0.0]])
    words = torch.tensor([[0.0, 0.0, 0.0, 1.0, 0.0]])
    behind = torch.tensor([[False, False, False, True, True]])
    heads = torch.tensor([[[True], [False]]])
    supported = Supported(heads, words, behind, behind)
    shown = torch.tensor([[False, True, True, False, False]])
    weights = torch.tensor([[[[0.2, 0.2, 0.2, 0.2, 0.2]], [[0.1, 0.1, 0.1, 0.3, 0.4]]]])
    at = AtLayer(2, 5, False, shown, shown, torch.ones(1, 1, dtype=torch.bool))
    at.values = {evidence: supported, evidence.image: image}
    found = method.attention_weights(weights, at)[0, :, 0]
    # the first head looks most at the map: ·e; the second at the words: ·(1 + ½) and ·½
    e = torch.e
    wanted = [[0.2, 0.2 * e, 0.2, 0.2, 0.2], [0.1, 0.1, 0.1, 0.45, 0.2]]
    for row, want in zip(found, torch.tensor(wanted), strict=True):
        torch.testing.assert_close(row, want / want.sum())
    at.layer = 0  # not edited
    assert method.attention_weights(weights, at) is weights


# literally: one sample, full maps, a cache, one row a step
# ----------------------------------------------------------------------------------------------


def first_map(model: Any, inputs: dict[str, Tensor], image: list[int], factor: float) -> Tensor:
    """E's exponent before α: of each image token, from ten plain tokens."""
    options = {"max_new_tokens": 10, "min_new_tokens": 10, "do_sample": False}
    options |= {"output_attentions": True, "return_dict_in_generate": True}
    maps = model.generate(**inputs, **options).attentions
    layers = []
    for layer in range(5):
        total = torch.zeros(len(image))
        for step in maps[1:]:
            on = step[layer][0, :, -1][:, image]
            order = sorted(range(len(on)), key=lambda h: -float(on[h].sum()))
            total += sum(on[h] for h in order[:3]) / 3
        layers.append(total / 9)
    above = [(one > factor * one.mean()).float() for one in layers]
    score = torch.zeros(len(image))
    for lower, upper in pairwise(above):
        score += (upper - lower).clamp(min=0)
    mean = sum(layers) / 5
    score = score * (mean > mean.mean())
    low, high = float(score.mean() - 3 * score.std()), float(score.mean() + 3 * score.std())
    score = score.clamp(low, high)
    return (score - score.min()) / (score.max() - score.min())


class Literal:
    """The authors' bookkeeping of one text."""

    def __init__(self, image: list[int], exponent: Tensor, words: float, acting: range) -> None:
        self.image, self.log, self.words, self.acting = image, exponent, words, acting
        self.index: Tensor | None = None
        self.last = torch.tensor(0.0)

    def looked(self, row: Tensor) -> tuple[list[int], Tensor]:
        """The heads that look most at the map, and what they see of it: row is heads key."""
        on = row[:, self.image]
        ratio = [float((a * self.log).sum() / (a.sum() + 1e-8)) for a in on]
        heads = sorted(range(len(on)), key=lambda h: -ratio[h])[: len(on) // 2]
        mean = sum(on[h] for h in heads) / len(heads)
        return heads, (mean * self.log).sum()

    def attend(self, layer: int, weights: Tensor) -> Tensor:
        """Heads query key of one layer; its last row edited."""
        rows, end = weights.shape[1], self.image[-1] + 1
        if rows > 1:
            if self.index is None:
                self.index = torch.zeros(rows - end)
            for row in range(end, rows - 1):
                self.index[row - end] += self.looked(weights[:, row])[1]
        heads, own = self.looked(weights[:, -1])
        self.last = self.last + own
        assert self.index is not None
        if layer in self.acting:
            new = weights[:, -1].clone()
            for head in heads:
                new[head, self.image] *= self.log.exp()
            low, high = self.index.min(), self.index.max()
            mean, std = self.index.mean(), self.index.std()
            self.index = self.index.clamp(float(mean - 3 * std), float(mean + 3 * std))
            factor = (self.index - low) / (high - low) + self.words
            on_words = [float(one[end:].sum()) for one in weights[:, -1]]
            for head in sorted(range(len(new)), key=lambda h: -on_words[h])[: len(new) // 2]:
                new[head, end : end + len(factor)] *= factor
            weights = weights.clone()
            weights[:, -1] = new / (new.sum(-1, keepdim=True) + 1e-8)
        if layer == 4:
            self.index = torch.cat((self.index, self.last[None]))
            self.last = torch.tensor(0.0)
        return weights


@torch.no_grad()
def test_every_step_equals_two_generations_over_full_maps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, both = miniature("llava")
    method = lf.ILVAD(**MILD)
    with lf.fix(model, method):
        found = model.generate(**both, **GREEDY).logits
    model.set_attn_implementation({"text_config": "eager"})
    plain = modeling_llama.eager_attention_forward
    changed = 0.0
    for number in range(2):
        inputs = sample(both, number)
        image = [j for j, token in enumerate(inputs["input_ids"][0]) if token == IMAGE]
        monkeypatch.setattr(modeling_llama, "eager_attention_forward", plain)
        exponent = 2.0 * first_map(model, inputs, image, 1.1)
        assert exponent.max() == 2
        twin = Literal(image, exponent, 0.3, method.window(5))

        def attention(module, query, key, value, mask, scaling, twin=twin, **kwargs):
            groups = query.shape[1] // key.shape[1]
            keys, values = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
            logits = query @ keys.transpose(2, 3) * scaling
            weights = (logits if mask is None else logits + mask).softmax(-1)
            weights = twin.attend(module.layer_idx, weights[0])[None]
            return (weights @ values).transpose(1, 2).contiguous(), weights

        bare = model.generate(**inputs, **GREEDY).logits
        monkeypatch.setattr(modeling_llama, "eager_attention_forward", attention)
        wanted = model.generate(**inputs, **GREEDY).logits
        for ours, theirs, unedited in zip(found, wanted, bare, strict=True):
            torch.testing.assert_close(ours[number], theirs[0], atol=1e-5, rtol=0)
            changed = max(changed, float((theirs - unedited).abs().max()))
    assert changed > 1e-2


def test_drafts_and_passes_without_cache_are_refused() -> None:
    model, inputs = miniature("llava", samples=1)
    with lf.fix(model, "ilvad"):
        for options in ({"use_cache": False}, {"prompt_lookup_num_tokens": 3}):
            with pytest.raises(lf.InputError, match="one word a pass"):
                model.generate(**inputs, **GREEDY, **options)


@pytest.mark.parametrize("shifted", [True, False])
@torch.no_grad()
def test_evidence_follows_beams(shifted: bool) -> None:
    scores_are_those_of_the_texts(lf.ILVAD(**MILD, shifted=shifted), GREEDY)
