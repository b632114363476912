"""Steer: add a vector from a file to the layers' outputs.

Paper    Plain addition, as in Turner et al., "Activation Addition", arXiv 2308.10248, and Rimsky et
         al., "Steering Llama 2 via Contrastive Activation Addition", ACL 2024, arXiv 2312.06681.
Code     Files of repeng (gguf), repsteer (folders) and safetensors. Keeping the length is repeng's.
Edits    hidden_states: what a decoder layer gives, all rows but padding, in every pass.
Needs    Vectors, one for each layer that acts; `lvlm-fix vectors make` makes some.
Departs  Texts without image are left alone (ours).
Cost     One addition in each layer that acts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from lvlm_fix.errors import ModelError
from lvlm_fix.method import AtLayer, setting
from lvlm_fix.vectors.steers import Steers

__all__ = ["Steer", "added"]


def added(
    hidden: Float[Tensor, "batch query width"],
    vector: Float[Tensor, " own"],
    strength: float,
    keep_norm: bool,
) -> Float[Tensor, "batch query width"]:
    """`h + c·v`, in float32; with its old length if `keep_norm`. Raises `ModelError` if their
    widths differ.
    """
    if hidden.shape[-1] != len(vector):
        raise ModelError(
            f"this model's layers give states {hidden.shape[-1]} wide, and its vectors are "
            f"{len(vector)} wide"
        )
    moved = hidden.float() + strength * vector
    if not keep_norm:
        return moved
    return normalize(moved, dim=-1) * hidden.float().norm(dim=-1, keepdim=True)


@dataclass(frozen=True)
class Steer(Steers):
    """`h_l ← h_l + c·v_l` after layer l; `h_l ← n(h_l + c·v_l)·‖h_l‖` if the norm is kept."""

    strength: float = setting(
        1.0, "factor c on the vectors, unitless; 0: nothing", "llama.cpp's scale"
    )
    keep_norm: bool = setting(False, "hidden states keep their length", "repeng, off by default")

    paper: ClassVar[str] = "arXiv 2312.06681"

    def hidden_states(
        self, hidden: Float[Tensor, "batch query width"], at: AtLayer
    ) -> Float[Tensor, "batch query width"]:
        if self.strength == 0:
            return hidden
        return added(hidden, at[self.steering], self.strength, self.keep_norm)
