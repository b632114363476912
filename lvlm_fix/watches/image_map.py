"""`ImageMap`: what of the image the model's own first tokens look at, and later layers bring up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import pad

from lvlm_fix.core.at import AtLayer, Host, Live, Watch, kept
from lvlm_fix.core.attention import Attend
from lvlm_fix.core.call import Signature, cache_in
from lvlm_fix.core.rows import row_logits, row_options
from lvlm_fix.core.text import Pass, State, wide
from lvlm_fix.watches.own_pass import check_photos, check_sees_images

__all__ = ["ImageMap", "brought_up"]


def brought_up(levels: Float[Tensor, "layers image"], factor: float) -> Float[Tensor, " image"]:
    """How often a token rises above `factor` times its layer's mean from one layer to the next, as
    0 to 1; 0 for tokens that are not above the mean over all layers, and where all are alike.
    """
    above = (levels > factor * levels.mean(-1, keepdim=True)).float()
    rises = (above[1:] - above[:-1]).clamp_min(0).sum(0)
    mean = levels.mean(0)
    rises = torch.where(mean > mean.mean(), rises, 0.0)
    if len(rises) < 2 or bool((rises == rises[0]).all()):
        return torch.zeros_like(rises)
    width = 3 * rises.std()
    rises = rises.clamp(float(rises.mean() - width), float(rises.mean() + width))
    return (rises - rises.min()) / (rises.max() - rises.min())


@dataclass(frozen=True)
class ImageMap(Watch[Float[Tensor, "batch key"]]):
    """`brought_up` of the image tokens, 0 for other keys: `at[ImageMap()]`, batch key.

    The unmodified model writes `tokens` greedily before the prompt's pass; in the passes over what
    it wrote, half of the heads, those with most attention on the image, are averaged.
    """

    tokens: int = 10
    factor: float = 5.0

    def live(self, host: Host) -> _Live:
        check_sees_images(host)
        return _Live(self, host)


@dataclass
class _State(State):
    image: Tensor | None = None  # batch columns

    def widen(self, columns: int) -> None:
        if self.image is not None:
            self.image = wide(self.image, max(columns, self.image.shape[1]))

    def reorder(self, index: Int[Tensor, " batch"]) -> None:
        if self.image is not None:
            self.image = self.image.index_select(0, index.to(self.image.device))


class _Live(Live[Float[Tensor, "batch key"]]):
    whole_prompt = True

    def __init__(self, watch: ImageMap, host: Host) -> None:
        super().__init__(watch)
        self._tokens, self._factor, self._host = watch.tokens, watch.factor, host
        self._cache = Signature(host.model).cache
        ends = getattr(host.model.generation_config, "eos_token_id", None)
        self._ends = torch.tensor([ends] if isinstance(ends, int) else list(ends or ()))

    @torch.no_grad()
    def begin(self, now: Pass) -> None:
        if now.begins:
            found = self._looked(now)
            levels = wide(found.transpose(0, 1), now.text.image.shape[1])
            kept(now.text, self.watch, _State).image = torch.stack(
                [self._of(one, shown) for one, shown in zip(levels, now.text.image, strict=True)]
            )
        else:
            check_photos(now, "what the model looks at")

    def _of(
        self, levels: Float[Tensor, "layers columns"], shown: Tensor
    ) -> Float[Tensor, " columns"]:
        found = torch.zeros_like(levels[0])
        if bool(shown.any()):
            found[shown] = brought_up(levels[:, shown], self._factor)
        return found

    def _looked(self, now: Pass) -> Float[Tensor, "layers batch columns"]:
        """The image's attention in each layer, a mean over the passes of the first tokens."""
        text, model = now.text, self._host.model
        on, samples = text.device, torch.arange(text.batch, device=text.device)
        looks = _Looks(text.shown[:, : now.count], text.batch, on)
        mask, padded = text.valid[:, : now.count].to(on), not bool(text.valid.all())
        with self._host.unedited():
            output, positions = self._prompt(now, mask if padded else None)
            assert now.last is not None
            at = (now.last - (now.count - output.logits.shape[1])).clamp_min(0)
            self._host.taps.append(looks.tap)
            try:
                for step in range(1, self._tokens):
                    token = output.logits[samples, at].argmax(-1, keepdim=True)
                    if not looks.go_on(~torch.isin(token[:, 0], self._ends.to(on))):
                        break
                    at, mask = torch.zeros_like(at), pad(mask, (0, 1), value=True)
                    given: dict[str, Any] = {self._cache: cache_in(output), "use_cache": True}
                    if positions is not None:
                        here = now.last[:, None].expand(*positions.shape[:-1], 1)
                        given["position_ids"] = positions.gather(-1, here) + step
                    output = model(token, attention_mask=mask if padded else None, **given)
            finally:
                self._host.taps.remove(looks.tap)
        return looks.mean()

    def _prompt(self, now: Pass, mask: Tensor | None) -> tuple[Any, Tensor | None]:
        """The prompt's pass, and its positions: as given, or as the decoder sees them."""
        call, seen = now.call, list[Tensor | None]()
        positions = call.given.get("position_ids")

        def place(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen.append(kwargs.get("position_ids"))

        given = call.about_photo() | {"position_ids": positions, "use_cache": True}
        hooked = self._host.family.decoder.register_forward_pre_hook(place, with_kwargs=True)
        try:
            output = self._host.model(input_ids=now.ids, attention_mask=mask, **given)
        finally:
            hooked.remove()
        found = seen[0] if positions is None and seen else positions
        if found is not None:  # one row may stand for all samples
            found = found.expand(*found.shape[:-2], now.text.batch, -1)
        return output, found

    def value(self, at: AtLayer) -> Float[Tensor, "batch key"]:
        assert at.now is not None
        image = kept(at.now.text, self.watch, _State).image
        assert image is not None
        return at.now.text.columns(image, at.image.shape[1]).to(at.image.device)


class _Looks:
    """The image's attention from the rows of the first tokens, summed up."""

    def __init__(self, shown: Bool[Tensor, "batch columns"], batch: int, on: torch.device) -> None:
        self._shown, self._on = shown, on
        self._steps, self._going = torch.zeros(batch, device=on), torch.ones(batch, device=on)
        self._seen = shown.shape[1]  # columns so far
        self._total: dict[int, Tensor] = {}

    def go_on(self, going: Bool[Tensor, " batch"]) -> bool:
        """Whether any text goes on; those that ended take no more part."""
        self._going = self._going * going
        self._steps, self._seen = self._steps + self._going, self._seen + 1
        return bool(self._going.any())

    def mean(self) -> Float[Tensor, "layers batch columns"]:
        """Means over the rows that there were."""
        found = [self._total[layer] for layer in sorted(self._total)]
        nothing = [torch.zeros(self._shown.shape, device=self._on)]  # every text ended at once
        return torch.stack(found or nothing) / self._steps.clamp_min(1)[:, None]

    def tap(self, layer: int, plain: Attend) -> Attend:
        def attend(module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
            query, key, _, *rest = args
            mask = rest[0] if rest else kwargs.get("attention_mask")
            logits = row_logits(query, key, mask, None, 1, **row_options(module, kwargs))
            n, columns = logits.shape[-1], self._shown.shape[1]
            weights = pad(logits.softmax(-1)[:, :, 0], (max(0, self._seen - n), 0))[..., :columns]
            weights = weights * self._shown[:, None].to(logits.device)  # batch heads columns
            best = weights.sum(-1).topk(weights.shape[1] // 2, 1).indices[..., None]
            mean = weights.gather(1, best.expand(-1, -1, columns)).mean(1).to(self._on)
            self._total[layer] = self._total.get(layer, 0) + mean * self._going[:, None]
            return plain(module, *args, **kwargs)

        return attend
