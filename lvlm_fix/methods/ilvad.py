"""ILVAD: raise the image tokens that the model's own first words bring up layer by layer, and the
words that follow from them.

Paper    "ILVAD", ICML 2026, arXiv 2605.20965.
Code     The map, both edits, the clipping in place and the shift by one word are those of the
         authors' code, with its settings for captions; for questions it edits layers 0 to 30 of 32
         and adds β = 1.
Edits    attention_weights of the last row, layers 5 to 25 of 32.
Needs    ImageMap: what the image tokens get in a first, unmodified text of ten tokens. Evidence:
         which heads look at it, and how much each word's row did, over all layers.
Departs  Other depths take the same fractions of the depth (ours). The first text is the greedy one,
         without the caller's processors (ours). If all image tokens, or all words, have the same
         score, that part changes nothing (ours; the code divides by 0). It takes one row a pass:
         drafts, and passes without cache, are refused.
Cost     A second prefill and nine tokens per prompt; the last row in every layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jaxtyping import Float
from torch import Tensor, where

from lvlm_fix.method import AtLayer, Method, Watch, setting
from lvlm_fix.watches import Evidence, ImageMap, half

__all__ = ["ILVAD"]


@dataclass(frozen=True)
class ILVAD(Method):
    """`A_j ← A_j·exp(α·S_j)` for image tokens j, in the half of the heads that looks most at what
    the map S shows; `A_j ← A_j·(w_j + β)` for words j after the image, in the half that looks most
    at them, where w is their evidence; then rows sum to 1 again.
    """

    strength: float = setting(5.0, "strength α of the map; 0: off", "authors' code", low=0)
    words: float = setting(
        0.3, "what β is added to a word's evidence, 0 to 1", "authors' code, for captions", low=0
    )
    factor: float = setting(
        5.0, "times τ its layer's mean from which a token counts", "authors' code", low=0
    )
    tokens: int = setting(10, "tokens of the first text", "authors' code", low=2)
    shifted: bool = setting(
        True, "a word's evidence is that of the row which predicted it", "authors' code"
    )

    reach: ClassVar[Literal["text", "last"]] = "last"
    paper: ClassVar[str] = "arXiv 2605.20965"

    def window(self, layers: int) -> range:
        """The layers that are edited."""
        return range(round(5 * layers / 32), round(26 * layers / 32))

    def evidence(self, layers: int) -> Evidence:
        """What is known of heads and words."""
        image = ImageMap(self.tokens, self.factor)
        return Evidence(image, tuple(self.window(layers)), self.shifted)

    def watches(self, layers: int) -> tuple[Watch[Any], ...]:
        if not self.strength:
            return ()
        evidence = self.evidence(layers)
        return (evidence.image, evidence)

    def attention_weights(
        self, weights: Float[Tensor, "batch heads query key"], at: AtLayer
    ) -> Float[Tensor, "batch heads query key"]:
        if not self.strength:
            return weights
        watch = self.evidence(at.layers)
        found = at[watch]  # of every layer, for evidence is a sum over all
        if at.layer not in watch.layers:
            return weights
        gain = (self.strength * at[watch.image]).exp()[:, None, None]
        raised = where(found.heads[..., None], weights * gain, weights)
        on_words = where(found.behind[:, None, None], weights, 0.0).sum(-1)
        factor = where(found.scored, found.words + self.words, 1.0)[:, None, None]
        raised = where(half(on_words)[..., None], raised * factor, raised)
        touched = (raised != weights).any(-1, keepdim=True)  # other rows keep their last bits
        return where(touched, raised / raised.sum(-1, keepdim=True).clamp_min(1e-8), weights)
