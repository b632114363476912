"""Hand-worked examples of each rule, with a different size on every axis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

import lvlm_fix as lf
from lvlm_fix.heads.picks import upper_half
from lvlm_fix.heads.vhd import vision_aware_divergence
from lvlm_fix.method import AtLayer
from lvlm_fix.methods.vhr import default_layers
from lvlm_fix.watches import ColumnMeans, Picked, TowerLooks, local_and_summary
from lvlm_fix.watches.column_means import Received
from lvlm_fix.watches.sinks import is_sink, sink_forms, sink_masks

TWO = lf.HeadTable("vhd", np.eye(2), np.zeros((2, 2)), 1, "made-up", None, "", {})


def test_divergence_is_the_euclidean_distance_per_head() -> None:
    with_image = torch.tensor([[[3.0, 4.0, 0.0], [1.0, 1.0, 1.0]]])  # batch 1, heads 2, dim 3
    without = torch.tensor([[[0.0, 0.0, 0.0], [1.0, 1.0, 3.0]]])
    assert vision_aware_divergence(with_image, without, outliers=False).tolist() == [[5.0, 2.0]]


def test_an_outlier_must_exceed_both_limits() -> None:
    # divergence 10, 1, 1, 1, 1: mean 2.8, population deviation 3.6, limit 6.4 (sample deviation:
    # 6.82)
    # text activation of the same head: 100 against 1: far above its own limit
    with_image = torch.tensor([[[20.0], [2.0], [2.0], [2.0], [2.0]]])
    without = torch.tensor([[[10.0], [1.0], [1.0], [1.0], [1.0]]])
    assert vision_aware_divergence(with_image, without).tolist() == [[0.0, 1.0, 1.0, 1.0, 1.0]]
    modest = torch.tensor(
        [[[1.0], [1.0], [1.0], [1.0], [1.0]]]
    )  # far, but its text activation is nothing special
    far = torch.tensor([[[11.0], [2.0], [2.0], [2.0], [2.0]]])
    assert vision_aware_divergence(far, modest).tolist() == [[10.0, 1.0, 1.0, 1.0, 1.0]]


def test_the_deviation_is_of_the_population() -> None:
    # divergence 2, 1, 0 and text activation 4, 1, 0: head 0 lies 1.22 and 1.37 population
    # deviations above the mean,
    # but just 1.0 sample deviations of the divergence
    without = torch.tensor([[[2.0], [1.0], [0.0]]])
    assert vision_aware_divergence(2 * without, without).tolist() == [[0.0, 1.0, 0.0]]


def test_the_upper_half_is_above_the_median() -> None:
    assert upper_half(torch.tensor([[4.0, 1.0, 3.0, 2.0]])).tolist() == [[True, False, True, False]]
    assert upper_half(torch.tensor([[5.0, 1.0, 3.0]])).tolist() == [[True, False, False]]
    assert upper_half(torch.tensor([[2.0, 2.0, 2.0]])).tolist() == [[False, False, False]]


def test_the_layers_are_the_papers_at_32_and_scaled_elsewhere() -> None:
    assert default_layers(32) == (1, *range(18, 32))
    assert default_layers(6) == (1, 3, 4, 5)
    assert default_layers(28) == (1, *range(16, 28))


def test_vhr_scales_the_chosen_heads_of_each_sample_and_nothing_else() -> None:
    outputs = torch.ones(2, 3, 5, 7)  # batch query heads dim
    heads = torch.tensor([[True, False, False, True, False], [False, False, True, False, False]])
    picks = lf.VHR().picks(6)
    seen = AtLayer(
        1,
        6,
        True,
        torch.zeros(2, 11, dtype=torch.bool),
        torch.zeros(2, 11, dtype=torch.bool),
        torch.ones(2, 3).bool(),
        values={picks: None},
        prompt_rows=3,
    )
    assert torch.equal(lf.VHR().head_outputs(outputs, seen), outputs)  # no heads chosen yet
    seen.values = {picks: Picked(torch.rand(2, 5), heads)}
    edited = lf.VHR(strength=3.0).head_outputs(outputs, seen)
    assert torch.equal(edited, torch.where(heads[:, None, :, None], 3.0, 1.0).expand_as(outputs))
    assert torch.equal(lf.VHR(prefill=False).head_outputs(outputs, seen), outputs)
    seen.prompt_rows = 2  # the last row was generated
    late = lf.VHR(strength=3.0, prefill=False).head_outputs(outputs, seen)
    assert torch.equal(late[:, :2], outputs[:, :2])
    assert torch.equal(late[:, 2:], edited[:, 2:])


def test_var_moves_the_share_of_every_sink_to_the_other_image_keys_in_proportion() -> None:
    # keys: 0 text sink, 1 image sink, 2 and 3 image, 4 text; one row per case
    image = torch.tensor([[False, True, True, True, False]])
    sinks = sink_masks(image, torch.tensor([[True, True, False, False, False]]))
    rows = torch.tensor(
        [
            [0.3, 0.1, 0.3, 0.1, 0.2],  # on image 0.5, of it 0.8 off the sink: kept
            [0.3, 0.3, 0.1, 0.1, 0.2],  # 0.4 off the sink: too little for ratio 0.5
            [0.6, 0.0, 0.1, 0.05, 0.25],  # 0.15 on the image: too little
        ]
    )
    seen = AtLayer(
        0, 3, True, image, torch.zeros_like(image), torch.ones(1, 3).bool(), {lf.VAR().sinks: sinks}
    )
    edited = lf.VAR(share=0.5).attention_weights(rows[None, None], seen)[0, 0]
    torch.testing.assert_close(
        edited[0], torch.tensor([0.15, 0.05, 0.45, 0.15, 0.2])
    )  # 0.2 freed, 3 to 1
    assert torch.equal(edited[1:], rows[1:])
    torch.testing.assert_close(edited.sum(-1), torch.ones(3))
    loose = lf.VAR(share=0.5, ratio=0.4).attention_weights(rows[None, None], seen)[0, 0]
    assert not torch.equal(loose[1], rows[1])


def test_var_decides_per_head() -> None:
    image = torch.tensor([[False, True, True]])
    sinks = sink_masks(image, torch.tensor([[True, False, False]]))
    weights = torch.tensor([[[[0.5, 0.25, 0.25]], [[0.9, 0.05, 0.05]]]])  # two heads, one row
    seen = AtLayer(
        0,
        3,
        False,
        image,
        torch.zeros_like(image),
        torch.ones(1, 1).bool(),
        {lf.VAR().sinks: sinks},
    )
    edited = lf.VAR(share=1.0).attention_weights(weights, seen)
    torch.testing.assert_close(edited, torch.tensor([[[[0.0, 0.5, 0.5]], [[0.9, 0.05, 0.05]]]]))


def test_var_leaves_the_last_layer() -> None:
    assert list(lf.VAR().acts_in(4)) == [0, 1, 2]


def test_a_sink_has_a_massive_channel_against_its_root_mean_square() -> None:
    hidden = torch.zeros(1, 3, 400)
    hidden[0, 0, 7] = 5.0  # RMS 0.25, ratio 20
    hidden[0, 1, 7], hidden[0, 1, 8] = 5.0, 1.0  # RMS 0.2550, ratio 19.6
    hidden[0, 2, 9] = 5.0  # another channel
    found = is_sink(hidden, sink_forms(torch.tensor([7]), 400, 20.0)) >= 0
    assert found.tolist() == [[True, False, False]]
    both = is_sink(hidden, sink_forms(torch.tensor([7, 9]), 400, 20.0)) >= 0
    assert both.tolist() == [[True, False, True]]


def test_heads_are_chosen_once_per_prompt() -> None:
    from lvlm_fix.tools.miniature import miniature

    model, inputs = miniature("llava")
    with torch.no_grad(), lf.fix(model, "vhr") as handle:
        model.generate(**inputs, max_new_tokens=1, do_sample=False)
        first, scores = handle.report()[0].heads, handle.scores()
        model.generate(**inputs, max_new_tokens=8, do_sample=False)
        assert first and handle.report()[0].heads == first
        assert torch.equal(handle.scores().nan_to_num(), scores.nan_to_num())


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (lf.VHR, {"strength": -1.0}, "strength must be >= 0, got -1"),
        (lf.VHR, {"strength": float("nan")}, "strength must be a number"),
        (lf.VAR, {"share": 1.5}, "share must be <= 1, got 1.5"),
        (lf.VAR, {"rule": "guess"}, "rule must be one of channels, received, got 'guess'"),
        (lf.VHR, {"layers": (-2,)}, "layers must be >= 0"),
    ],
)
def test_a_setting_out_of_range_is_named(
    kind: type[lf.Method], settings: dict[str, object], message: str
) -> None:
    with pytest.raises(lf.SettingError, match=message):
        kind(**settings)


def test_methods_are_parsed_in_order_with_their_settings() -> None:
    assert lf.parse_methods("var+vhr", {"vhr.strength": "1.5", "vhr.layers": "[1, 2]"}) == (
        lf.VAR(),
        lf.VHR(strength=1.5, layers=(1, 2)),
    )
    assert lf.parse_methods("none") == ()
    with pytest.raises(lf.UnknownNameError, match=r"there are: none, .*, vaf, var, vcd, vhr"):
        lf.parse_methods("nonsense")
    with pytest.raises(lf.SettingError, match="vhr has no setting 'loud'"):
        lf.parse_methods("vhr", {"vhr.loud": "1"})


def context(
    image: list[int], keys: int, *, before: Sequence[int] = (), prefill: bool = True, rows: int = 1
) -> AtLayer:
    """One sample of so many keys, of which some are image tokens and some stand before them."""
    masks = [torch.tensor([[key in group for key in range(keys)]]) for group in (image, before)]
    return AtLayer(1, 5, prefill, *masks, torch.ones(1, rows, dtype=torch.bool), values={})


def test_act_shrinks_the_sinks_of_a_head_and_gives_their_mass_to_the_rest_in_proportion() -> None:
    seen = context([1, 2], 5, before=[0])
    # above 2/5 on average: key 0 in both heads, but it is the initial token; key 2 in head 0, key 3
    # in head 1
    mean = torch.tensor([[[0.9, 0.1, 0.5, 0.1, 0.1], [0.9, 0.1, 0.1, 0.41, 0.4]]])
    seen.values = {ColumnMeans(): Received(mean, torch.tensor([5]))}
    rows = torch.tensor([[[[0.2, 0.1, 0.5, 0.1, 0.1]], [[0.2, 0.1, 0.5, 0.1, 0.1]]]])
    method = lf.ACT(threshold=2.0, remaining=0.4)
    edited = method.attention_weights(rows, seen)
    # head 0: 0.3 of 0.5 is freed, over 0.5 of others: they grow by 0.6; head 1: 0.06 over 0.9
    torch.testing.assert_close(edited[0, 0, 0], torch.tensor([0.32, 0.16, 0.2, 0.16, 0.16]))
    torch.testing.assert_close(edited[0, 1, 0], torch.tensor([0.2, 0.1, 0.5, 0.1,
    0.1]) * (1 + 0.06 / 0.9) * (
        torch.tensor([1, 1, 1, 0.0, 1])) + torch.tensor([0, 0, 0, 0.04, 0]))  # fmt: skip
    torch.testing.assert_close(edited.sum(-1), torch.ones(1, 2, 1))
    chosen = lf.ACT(threshold=2.0, remaining=0.4, table=TWO)
    seen.values |= {chosen.picks(5): Picked(torch.zeros(1, 2), torch.tensor([[False, True]]))}
    only = chosen.attention_weights(rows, seen)
    assert torch.equal(only[0, 0], rows[0, 0]) and torch.equal(only[0, 1], edited[0, 1])
    assert list(method.acts_in(7)) == [2, 3, 4, 5]


def test_eah_copies_the_head_with_the_most_image_sinks() -> None:
    seen = context([1, 2, 3], 5, before=[0])
    received = [[0.9, 0.3, 0.0, 0.1, 0.9], [0.9, 0.2, 0.3, 0.0, 0.9], [0.9, 0.1, 0.1, 0.1, 0.9]]
    seen.values = {ColumnMeans(): Received(torch.tensor([received]), torch.tensor([5]))}
    weights = torch.rand(1, 3, 2, 5)
    edited = lf.EAH(threshold=0.15).attention_weights(weights, seen)  # 1, 2 and 0 image columns
    assert torch.equal(edited, weights[:, 1:2].expand(1, 3, 2, 5))
    assert torch.equal(lf.EAH(threshold=0.4).attention_weights(weights, seen), weights)
    assert list(lf.EAH().acts_in(7)) == [1]


def test_adhh_silences_the_text_after_the_image_where_it_has_too_much() -> None:
    seen = context([1, 2], 5, before=[0])
    weights = torch.tensor(
        [[[[0.2, 0.1, 0.3, 0.2, 0.2]], [[0.3, 0.1, 0.3, 0.2, 0.1]], [[0.1, 0.1, 0.1, 0.3, 0.4]]]]
    )
    edited = lf.ADHH().attention_weights(weights, seen)[0, :, 0]
    torch.testing.assert_close(
        edited[0], torch.tensor([0.2, 0.1, 0.3, 0.0, 0.0])
    )  # exactly 0.4: silenced
    assert torch.equal(edited[1], weights[0, 1, 0])  # 0.3
    torch.testing.assert_close(edited[2], torch.tensor([0.1, 0.1, 0.1, 0.0, 0.0]))
    chosen = lf.ADHH(table=TWO)
    seen.values = {chosen.picks(5): Picked(torch.zeros(1, 3), torch.tensor([[False, True, True]]))}
    assert torch.equal(chosen.attention_weights(weights, seen)[0, 0], weights[0, 0])


def test_paint_selects_local_and_summary_tokens() -> None:
    first = torch.tensor([0.9, 0.1, 0.8, 0.2, 0.7, 0.3, 0.0, 0.0])
    # quartiles of the penultimate layer 1.75 and 4.25 (linear), so outliers lie above 8
    penultimate = torch.tensor([9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 1.0, 2.0])
    local, summary = local_and_summary(first, penultimate)
    assert local.nonzero().flatten().tolist() == [
        2
    ]  # the top quarter is 0 and 2, and 0 is a summary token
    assert summary.nonzero().flatten().tolist() == [0]


def test_paint_adds_a_share_of_a_logits_size_weighed_by_head_where_a_table_says_so() -> None:
    seen = context([1, 2, 3], 5, before=[0])
    marks = torch.tensor([[[0.0, 1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0, 0.0]]])
    seen.values = {TowerLooks(0.25): marks}
    logits = torch.tensor([[[[1.0, -2.0, 3.0, 5.0, -torch.inf]], [[1.0, 2.0, 3.0, -5.0, 5.0]]]])
    edited = lf.PAINT().attention_logits(logits, seen)
    wanted = torch.tensor([[[[1.0, -0.6, 3.0, 7.0, -torch.inf]], [[1.0, 3.4, 3.0, -3.0, 5.0]]]])
    torch.testing.assert_close(edited, wanted)
    weighing, picking = lf.PAINT(table=TWO), lf.PAINT(table=TWO, table_use="pick")
    picked = Picked(torch.tensor([[1.0, 3.0]]), torch.tensor([[False, True]]))
    seen.values |= {weighing.picks(5): picked, picking.picks(5): picked}
    weighed = weighing.attention_logits(logits, seen)  # weights 0.5 and 1.5
    torch.testing.assert_close(weighed[0, :, 0, 1], torch.tensor([-1.3, 4.1]))
    torch.testing.assert_close(
        picking.attention_logits(logits, seen)[0, :, 0, 1], torch.tensor([-2.0, 3.4])
    )


def test_a_table_names_the_heads_that_spin_keeps() -> None:
    seen = context([1], 3)
    method = lf.SPIN(damping=0.5, table=TWO)
    seen.values = {method.picks(5): Picked(torch.zeros(1, 2), torch.tensor([[True, False]]))}
    weights = torch.tensor([[[[0.5, 0.25, 0.25]], [[0.5, 0.25, 0.25]]]])
    edited = method.attention_weights(weights, seen)
    torch.testing.assert_close(edited, weights * torch.tensor([1.0, 0.5])[None, :, None, None])
