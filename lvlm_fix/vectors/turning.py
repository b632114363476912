"""Turn hidden states towards a direction, and keep their length."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from lvlm_fix.errors import ModelError

__all__ = ["turned"]


def turned(
    states: Float[Tensor, "*rows width"],
    direction: Float[Tensor, "*#rows direction"],
    strength: float,
    *,
    against: bool = False,
) -> Float[Tensor, "*rows width"]:
    """`n(n(x) + λ·s·n(d))·‖x‖`, in float32; s = 1, or `1 + max(0, cos(x, −d))` where `against`:
    more for states that point away from the direction. Raises `ModelError` for another width.
    """
    if states.shape[-1] != direction.shape[-1]:
        raise ModelError(
            f"the states to turn are {states.shape[-1]} wide, and the direction is "
            f"{direction.shape[-1]}: this model's layers give something else than its MLPs write"
        )
    rows = states.float()
    unit, towards = normalize(rows, dim=-1), normalize(direction.float(), dim=-1)
    size: float | Tensor = strength
    if against:
        size = strength * (1 - (unit * towards).sum(-1, keepdim=True).clamp_max(0))
    return normalize(unit + size * towards, dim=-1) * rows.norm(dim=-1, keepdim=True)
