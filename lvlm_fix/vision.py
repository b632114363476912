"""`Tower`: what the CLS token of a vision tower looks at, in its first and in its penultimate
layer.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from lvlm_fix.attention import PREFIX, SITE, Attend, register
from lvlm_fix.errors import ModelError

__all__ = ["Tower"]

CLS = ("class_embedding", "cls_token")  # how towers name the CLS token's parameter
LAYERS = (0, -2)


class Tower:
    """A model's vision tower, watched while a fix runs. Its attention is computed as ever; only the
    CLS row is redone.

    Raises `ModelError` where the model has no such tower, or the tower no CLS token.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.name = model, type(model).__name__
        tower = self.tower = model.get_encoder(modality="image")
        keys = [
            key
            for key in model.config.sub_configs
            if getattr(model.config, key, None) is tower.config
        ]
        if not keys:
            raise ModelError(
                f"{self.name}: the configuration of a vision tower was not found in the model's"
            )
        if not any(
            parameter.rpartition(".")[2] in CLS for parameter, _ in tower.named_parameters()
        ):
            raise ModelError(
                f"{self.name}: its vision tower {type(tower).__name__} has no CLS token, whose attention is needed here"
            )
        self.key = keys[0]
        self.layers = max((m for m in tower.modules() if isinstance(m, nn.ModuleList)), key=len)
        self.rows: dict[int, list[Tensor]] = {}  # by layer: images patches, in the order they pass
        self.wrapped: str = tower.config._attn_implementation or "sdpa"

    def attach(self) -> None:
        """Switch the tower to the registered attention and watch two layers."""
        name = register(self.wrapped)
        self.model.set_attn_implementation({self.key: name})
        if self.tower.config._attn_implementation != name:
            raise ModelError(f"{self.name}: its vision tower does not use the attention interface")
        for layer in {number % len(self.layers) for number in LAYERS}:
            watched = _Watched(self.rows.setdefault(layer, []))
            for module in self.layers[
                layer
            ].modules():  # whichever of them calls the attention interface
                module.__dict__[SITE] = watched

    def remove(self) -> None:
        """Leave the tower as it was."""
        for module in self.tower.modules():
            module.__dict__.pop(SITE, None)
        if (self.tower.config._attn_implementation or "").startswith(PREFIX):
            self.model.set_attn_implementation({self.key: self.wrapped})

    def patches(self, image: Bool[Tensor, "batch query"]) -> Float[Tensor, "2 tokens"] | None:
        """CLS attention on every image token of this pass, summed over heads: first and penultimate
        layer.

        The photos seen since the last call belong to the rows in order; where the rows are beams,
        they share photos. None where no photo passed. Raises `ModelError` unless every image token
        is one patch.
        """
        if not all(self.rows.values()):
            return None
        found = torch.stack(
            [torch.cat(self.rows[number % len(self.layers)]).flatten() for number in LAYERS]
        )
        for rows in self.rows.values():
            rows.clear()
        counts, patches = image.sum(-1).tolist(), found.shape[1]
        beams = max(1, sum(counts) // patches)  # rows that share their photos stand side by side
        if sum(counts) != beams * patches or any(
            counts[i] != counts[i - i % beams] for i in range(len(counts))
        ):
            raise ModelError(
                f"{self.name}: {patches} patches of its vision tower became {sum(counts)} image tokens; what the "
                "tower looks at can be told of a token only where each is one patch"
            )
        shared = found.split(counts[::beams], dim=1)
        return torch.cat([part for part in shared for _ in range(beams)], dim=1)


class _Watched:
    """Stands in the tower's attention modules: keeps the CLS row, changes nothing."""

    def __init__(self, rows: list[Tensor]) -> None:
        self.rows = rows

    def attend(
        self, plain: Attend, module: nn.Module, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        query, key = args[0].detach(), args[1].detach()  # images heads tokens dim
        scaling = kwargs.get("scaling") or query.shape[-1] ** -0.5
        row = (query[:, :, :1].float() @ key.transpose(-1, -2).float()) * scaling
        self.rows.append(row.softmax(-1).sum(1)[:, 0, 1:])
        return plain(module, *args, **kwargs)
