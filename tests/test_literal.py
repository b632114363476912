"""Edits by rows equal the papers' equations over full attention maps: prefill and decode, padded,
grouped-query.
"""

from __future__ import annotations

import statistics
from typing import Any, cast

import literal
import pytest
import torch

import lvlm_fix as lf
from lvlm_fix.methods.vhr import default_layers
from lvlm_fix.tools.miniature import IMAGE, miniature
from lvlm_fix.watches.tower import Tower

TOKENS = 6


@pytest.mark.parametrize("strength", [2.0, 0.5])
def test_vhr_equals_two_passes_with_hooks(strength: float) -> None:
    model, inputs = miniature("llava")
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    options = {
        "max_new_tokens": TOKENS,
        "do_sample": False,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    with (
        torch.no_grad(),
        literal.vhr(model, ids, mask, IMAGE, strength, set(default_layers(5))) as measured,
    ):
        wanted = model.generate(**inputs, **options)
    with lf.fix(model, lf.VHR(strength=strength)) as handle:
        found = model.generate(**inputs, **options)
        scores = handle.scores()
    for ours, theirs in zip(found.logits, wanted.logits, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    for layer, rows in measured.items():
        torch.testing.assert_close(scores[:, layer], torch.tensor(rows), atol=1e-5, rtol=1e-5)
    assert scores[:, 0].isnan().all()  # layer 0 is not reinforced, so not scored


def test_vhd_equals_two_passes_with_hooks_in_every_layer() -> None:
    model, inputs = miniature("llava")
    with (
        torch.no_grad(),
        literal.vhr(
            model, inputs["input_ids"], inputs["attention_mask"], IMAGE, 1.0, set(range(5))
        ) as measured,
    ):
        model(**inputs)
    from lvlm_fix.heads.metrics import VHD, Scored

    with torch.no_grad(), lf.fix(model, Scored(VHD())) as handle:
        model(**inputs)
        scores = handle.scores()
    wanted = torch.tensor([measured[layer] for layer in range(5)]).transpose(0, 1)
    torch.testing.assert_close(scores, wanted, atol=1e-5, rtol=1e-5)


def pai(rows: torch.Tensor, weights: None, image: list[int], before: list[int]) -> torch.Tensor:
    for h in range(len(rows)):
        for j in image:
            rows[h, j] += 0.5 * abs(rows[h, j])
    return rows


def hgai(rows: torch.Tensor, weights: None, image: list[int], before: list[int]) -> torch.Tensor:
    plain = rows.clone()
    for h in range(len(rows)):
        for j in image:
            rows[h, j] += 0.5 * sum(abs(plain[other, j]) for other in range(len(rows))) / len(rows)
    return rows


def vaf(rows: torch.Tensor, weights: None, image: list[int], before: list[int]) -> torch.Tensor:
    rows[:, image] *= 1.15
    rows[:, before] *= 0.95
    return rows


def spin(
    rows: torch.Tensor, weights: torch.Tensor, image: list[int], before: list[int]
) -> torch.Tensor:
    weakest = min(range(len(rows)), key=lambda h: sum(float(rows[h, j]) for j in image))
    weights[weakest] *= 0.08
    return weights


def adhh(
    rows: torch.Tensor, weights: torch.Tensor, image: list[int], before: list[int]
) -> torch.Tensor:
    text = [j for j in range(weights.shape[1]) if j > image[0] and j not in image]
    for h in range(len(weights)):
        if sum(float(weights[h, j]) for j in text) >= 0.3:
            weights[h, text] = 0.0
    return weights


@pytest.mark.parametrize(
    ("method", "edit", "layers", "last", "on_weights"),
    [
        (lf.PAI(contrast=1.0), pai, range(2, 5), True, False),
        (lf.HGAI(), hgai, range(1, 3), True, False),  # 5/32 and 18/32 of 5 layers
        (lf.VAF(), vaf, range(1, 2), False, False),  # 9/32 and 15/32 of 5 layers
        (lf.SPIN(), spin, range(5), True, True),
        (lf.ADHH(least=0.3), adhh, range(5), True, True),
    ],
)
@pytest.mark.parametrize(
    "samples", [1, 2]
)  # one sample has no padding, so SDPA gets no mask at all
def test_row_edits_equal_full_maps(
    method: lf.Method, edit: Any, layers: range, last: bool, on_weights: bool, samples: int
) -> None:
    model, inputs = miniature("llava", samples=samples)
    options = {
        "max_new_tokens": TOKENS,
        "do_sample": False,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    plain = model.generate(**inputs, **options)
    with lf.fix(model, method):
        found = model.generate(**inputs, **options)
    with (
        torch.no_grad(),
        literal.rows(model, inputs["input_ids"], IMAGE, edit, set(layers), last, on_weights),
    ):
        wanted = model.generate(**inputs, **options)
    assert not torch.equal(plain.logits[0], wanted.logits[0])
    for ours, theirs in zip(found.logits, wanted.logits, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("settings", [{"ratio": 0.5}, {"ratio": 0.6}, {"share": 1.0, "ratio": 0.3}])
def test_var_equals_full_maps(settings: dict[str, float]) -> None:
    model, inputs = miniature("llava")
    method = lf.VAR(threshold=1.4, image_share=0.2, **settings)
    options = {
        "max_new_tokens": TOKENS,
        "do_sample": False,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    plain = model.generate(**inputs, **options)
    with lf.fix(model, method) as handle:
        found = model.generate(**inputs, **options)
        channels = cast(Any, handle._lives[method.sinks])._channels
        (report,) = handle.report()
    assert channels
    with (
        torch.no_grad(),
        literal.var(
            model,
            inputs["input_ids"],
            channels,
            tau=1.4,
            share=method.share,
            ratio=method.ratio,
            image_share=0.2,
            image_token=IMAGE,
        ) as changed,
    ):
        wanted = model.generate(**inputs, **options)
    assert changed and report.rows_edited == len(changed)
    assert not torch.equal(plain.logits[0], wanted.logits[0])
    for ours, theirs in zip(found.logits, wanted.logits, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def act(
    rows: torch.Tensor, mean: torch.Tensor, n: int, image: list[int], first: int
) -> torch.Tensor:
    for h in range(len(rows)):
        sinks = [j for j in range(rows.shape[1]) if mean[h, j] > 1.2 / n and j != first]
        others = [j for j in range(rows.shape[1]) if j not in sinks]
        freed, held = 0.6 * rows[h, sinks].sum(), rows[h, others].sum()
        rows[h, sinks] *= 0.4
        rows[h, others] += freed * rows[h, others] / held
    return rows


def eah(
    rows: torch.Tensor, mean: torch.Tensor, n: int, image: list[int], first: int
) -> torch.Tensor:
    counts = [sum(float(mean[h, j]) > 0.05 for j in image) for h in range(len(rows))]
    return rows[counts.index(max(counts))].expand_as(rows).clone()


@pytest.mark.parametrize(
    ("method", "edit", "layers"),
    [(lf.ACT(threshold=1.2), act, range(2, 4)), (lf.EAH(threshold=0.05), eah, range(1, 2))],
)
@pytest.mark.parametrize("samples", [1, 2])
def test_edits_by_columns_equal_full_maps(
    method: lf.Method, edit: Any, layers: range, samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "lvlm_fix.watches.column_means.BLOCK", 7
    )  # several blocks, the last one short
    model, inputs = miniature("llava", samples=samples)
    options = {
        "max_new_tokens": TOKENS,
        "do_sample": False,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    plain = model.generate(**inputs, **options)
    with lf.fix(model, method):
        found = model.generate(**inputs, **options)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    with torch.no_grad(), literal.columns(model, ids, mask, IMAGE, edit, set(layers)):
        wanted = model.generate(**inputs, **options)
    assert not torch.equal(plain.logits[0], wanted.logits[0])
    for ours, theirs in zip(found.logits, wanted.logits, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("samples", [1, 2])
def test_paint_equals_full_maps_of_tower_and_decoder(samples: int) -> None:
    model, inputs = miniature("llava", samples=samples)
    maps = literal.cls_rows(model.get_encoder(modality="image"), inputs["pixel_values"])
    chosen = {}
    for b, (first, penultimate) in enumerate(zip(maps[0], maps[-2], strict=True)):
        least = sorted(first.tolist(), reverse=True)[len(first) // 4 - 1]
        low, _, high = statistics.quantiles(penultimate.tolist(), n=4, method="inclusive")
        image = [
            j for j in range(inputs["input_ids"].shape[1]) if inputs["input_ids"][b, j] == IMAGE
        ]
        summary = [
            j
            for j, p in zip(image, penultimate.tolist(), strict=True)
            if p > high + 1.5 * (high - low)
        ]
        chosen[image[0]] = (
            summary,
            [
                j
                for j, f in zip(image, first.tolist(), strict=True)
                if f >= least and j not in summary
            ],
        )

    def paint(
        rows: torch.Tensor, weights: None, image: list[int], before: list[int]
    ) -> torch.Tensor:
        summary, local = chosen[image[0]]
        for h in range(len(rows)):
            for j in image:
                rows[h, j] += abs(rows[h, j]) * (
                    0.4 if j in summary else 0.7 if j in local else 0.0
                )
        return rows

    test_row_edits_equal_full_maps(lf.PAINT(contrast=1.0), paint, range(2, 5), True, False, samples)


def test_the_embedded_models_tower_is_seen_in_its_first_and_last_but_one_layer(
    tiny: Any, photos: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lvlm_fix.models import prepare

    model, processor = tiny
    inputs = prepare(
        model, processor, [lf.open_image(path) for path in photos[:2]], ["Describe."] * 2
    )
    maps = literal.cls_rows(model.get_encoder(modality="image"), inputs["pixel_values"])
    looks: list[Tensor] = []
    plain = Tower.patches

    def patches(self: Tower, image: Tensor) -> Tensor | None:
        looks.append(plain(self, image))
        return looks[-1]

    monkeypatch.setattr(Tower, "patches", patches)
    with torch.no_grad(), lf.fix(model, "paint") as handle:
        model(**inputs)
        (report,) = handle.report()
    torch.testing.assert_close(looks[0][0], maps[0][:2].flatten(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(looks[0][1], maps[-2][:2].flatten(), atol=1e-5, rtol=1e-4)
    assert report.rows_edited and not report.note
