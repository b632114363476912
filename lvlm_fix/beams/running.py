"""`Beams`: the beams of one sample, moved on by the pieces of the stock beam search.

No tensor here is changed in place, so that a copy of the object is a state to go back to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from lvlm_fix.private import beam_pieces, special_tokens

__all__ = ["Beams"]

FAR = -1e9


@dataclass
class Beams:
    """The running beams of one sample, and those that ended."""

    tokens: Int[Tensor, "1 beam longest"]  # prompt and text
    scores: Float[Tensor, "1 beam"]  # summed log-probabilities
    parents: Int[Tensor, "1 beam step"]  # by step: which beam it went on from
    ended: Int[Tensor, "1 beam longest"]
    ended_scores: Float[Tensor, "1 beam"]
    ended_parents: Int[Tensor, "1 beam step"]
    full: Bool[Tensor, "1 beam"]  # which of the ended ones there are
    hopeful: Bool[Tensor, "1 1"]  # a running beam may still beat an ended one
    prompt: int  # columns
    length: int  # columns, the text's included
    going: bool = True

    @classmethod
    def begin(cls, ids: Int[Tensor, "beam column"], config: GenerationConfig) -> Beams:
        """Equal beams at the end of a prompt: only the first counts, so that the others part."""
        count, length = ids.shape
        longest, (pad, ends) = int(config.max_length or length), special_tokens(config)
        tokens = ids.new_full((1, count, longest), pad if ends else -1)
        tokens[0, :, :length] = ids
        scores = torch.full((1, count), FAR, device=ids.device)
        start = scores.clone()
        start[:, 0] = 0.0
        parents = torch.full((1, count, longest - length), -1, dtype=torch.int32, device=ids.device)
        full = torch.zeros_like(scores, dtype=torch.bool)
        hopeful = torch.ones_like(full[:, :1])
        return cls(tokens, start, parents, tokens, scores, parents, full, hopeful, length, length)

    @property
    def ids(self) -> Int[Tensor, "beam column"]:
        """Prompt and text of every running beam."""
        return self.tokens[0, :, : self.length]

    def step(
        self,
        model: PreTrainedModel,
        scores: Float[Tensor, "beam vocabulary"],
        stop: Any,
        config: GenerationConfig,
    ) -> Int[Tensor, " beam"]:
        """Go on by one token, given each beam's log-probabilities: which beam each went on from."""
        pieces, count = beam_pieces(model), len(scores)
        kept = max(2, 1 + len(special_tokens(config)[1])) * count
        best, tokens, parents = pieces.top(
            accumulated_log_probs=(scores + self.scores[0, :, None]).flatten()[None],
            running_sequences=self.tokens, running_beam_indices=self.parents,
            cur_len=self.length, decoder_prompt_len=self.prompt, do_sample=config.do_sample,
            beams_to_keep=kept, num_beams=count, vocab_size=scores.shape[-1], batch_size=1,
        )  # fmt: skip
        hits = stop(tokens[0, :, : self.length + 1], None)[None]
        early = config.early_stopping if count > 1 else True  # a single one is greedy
        alike: dict[str, Any] = {
            "length_penalty": config.length_penalty, "early_stopping": early,
            "decoder_prompt_len": self.prompt,
        }  # fmt: skip
        found: dict[str, Any] = {
            "topk_running_sequences": tokens, "topk_running_beam_indices": parents,
            "topk_log_probs": best, "next_token_hits_stopping_criteria": hits, "num_beams": count,
        }  # fmt: skip
        place = self.length - self.prompt
        self.tokens, self.scores, self.parents = pieces.running(**found)
        self.ended, self.ended_scores, self.ended_parents, self.full = pieces.ended(
            **found, **alike, sequences=self.ended, beam_scores=self.ended_scores,
            beam_indices=self.ended_parents, is_sent_finished=self.full,
            is_early_stop_heuristic_unsatisfied=self.hopeful, cur_len=self.length,
            top_num_beam_mask=torch.arange(kept, device=best.device) < count,
        )  # fmt: skip
        self.length += 1
        self.hopeful = pieces.hopeful(
            is_early_stop_heuristic_unsatisfied=self.hopeful, running_beam_scores=self.scores,
            beam_scores=self.ended_scores, is_sent_finished=self.full, cur_len=self.length,
            max_length=self.tokens.shape[-1], **alike,
        )  # fmt: skip
        self.going = bool(pieces.going(self.hopeful, self.full, hits, early))
        return self.parents[0, :, place].long()

    def best(self, count: int) -> tuple[list[list[int]], list[float]]:
        """The new tokens of the best texts that ended, and their scores."""
        lengths = (self.ended_parents[0, :count] >= 0).sum(-1).tolist()
        texts = self.ended[0, :count, self.prompt :].tolist()
        scores = self.ended_scores[0, :count].tolist()
        return [text[:size] for text, size in zip(texts, lengths, strict=True)], scores
