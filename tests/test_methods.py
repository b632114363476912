"""Hand-worked examples of each rule, with a different size on every axis."""

from __future__ import annotations

import pytest
import torch

import lvlm_fix as lf
from lvlm_fix.heads.picks import upper_half
from lvlm_fix.heads.vhd import vision_aware_divergence
from lvlm_fix.method import Seen
from lvlm_fix.methods.vhr import default_layers
from lvlm_fix.sinks import is_sink


def test_divergence_is_the_euclidean_distance_per_head() -> None:
    with_image = torch.tensor([[[3.0, 4.0, 0.0], [1.0, 1.0, 1.0]]])  # batch 1, heads 2, dim 3
    without = torch.tensor([[[0.0, 0.0, 0.0], [1.0, 1.0, 3.0]]])
    assert vision_aware_divergence(with_image, without, outliers=False).tolist() == [[5.0, 2.0]]


def test_an_outlier_must_exceed_both_limits() -> None:
    # divergence 10, 1, 1, 1, 1: mean 2.8, population deviation 3.6, limit 6.4 (sample deviation: 6.82)
    # text activation of the same head: 100 against 1: far above its own limit
    with_image = torch.tensor([[[20.0], [2.0], [2.0], [2.0], [2.0]]])
    without = torch.tensor([[[10.0], [1.0], [1.0], [1.0], [1.0]]])
    assert vision_aware_divergence(with_image, without).tolist() == [[0.0, 1.0, 1.0, 1.0, 1.0]]
    modest = torch.tensor([[[1.0], [1.0], [1.0], [1.0], [1.0]]])  # far, but its text activation is nothing special
    far = torch.tensor([[[11.0], [2.0], [2.0], [2.0], [2.0]]])
    assert vision_aware_divergence(far, modest).tolist() == [[10.0, 1.0, 1.0, 1.0, 1.0]]


def test_the_deviation_is_of_the_population() -> None:
    # divergence 2, 1, 0 and text activation 4, 1, 0: head 0 lies 1.22 and 1.37 population deviations above the mean,
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
    seen = Seen(
        1, 6, True, torch.zeros(2, 11, dtype=torch.bool), torch.zeros(2, 11, dtype=torch.bool), torch.ones(2, 3).bool()
    )
    assert torch.equal(lf.VHR().head_outputs(outputs, seen), outputs)  # no heads chosen yet
    seen.heads = heads
    edited = lf.VHR(strength=3.0).head_outputs(outputs, seen)
    assert torch.equal(edited, torch.where(heads[:, None, :, None], 3.0, 1.0).expand_as(outputs))
    assert torch.equal(lf.VHR(prefill=False).head_outputs(outputs, seen), outputs)


def test_var_moves_the_share_of_every_sink_to_the_other_image_keys_in_proportion() -> None:
    # keys: 0 text sink, 1 image sink, 2 and 3 image, 4 text; one row per case
    image = torch.tensor([[False, True, True, True, False]])
    sinks = torch.tensor([[True, True, False, False, False]])
    rows = torch.tensor(
        [
            [0.3, 0.1, 0.3, 0.1, 0.2],  # on image 0.5, of it 0.8 off the sink: kept
            [0.3, 0.3, 0.1, 0.1, 0.2],  # 0.4 off the sink: too little for ratio 0.5
            [0.6, 0.0, 0.1, 0.05, 0.25],  # 0.15 on the image: too little
        ]
    )
    seen = Seen(0, 3, True, image, torch.zeros_like(image), torch.ones(1, 3).bool(), sinks=sinks)
    edited = lf.VAR(share=0.5).attention_weights(rows[None, None], seen)[0, 0]
    torch.testing.assert_close(edited[0], torch.tensor([0.15, 0.05, 0.45, 0.15, 0.2]))  # 0.2 freed, 3 to 1
    assert torch.equal(edited[1:], rows[1:])
    torch.testing.assert_close(edited.sum(-1), torch.ones(3))
    loose = lf.VAR(share=0.5, ratio=0.4).attention_weights(rows[None, None], seen)[0, 0]
    assert not torch.equal(loose[1], rows[1])


def test_var_decides_per_head() -> None:
    image = torch.tensor([[False, True, True]])
    sinks = torch.tensor([[True, False, False]])
    weights = torch.tensor([[[[0.5, 0.25, 0.25]], [[0.9, 0.05, 0.05]]]])  # two heads, one row
    seen = Seen(0, 3, False, image, torch.zeros_like(image), torch.ones(1, 1).bool(), sinks=sinks)
    edited = lf.VAR(share=1.0).attention_weights(weights, seen)
    torch.testing.assert_close(edited, torch.tensor([[[[0.0, 0.5, 0.5]], [[0.9, 0.05, 0.05]]]]))


def test_var_leaves_the_last_layer() -> None:
    assert list(lf.VAR().acts_in(4)) == [0, 1, 2]


def test_a_sink_has_a_massive_channel_against_its_root_mean_square() -> None:
    hidden = torch.zeros(1, 3, 400)
    hidden[0, 0, 7] = 5.0  # RMS 0.25, ratio 20
    hidden[0, 1, 7], hidden[0, 1, 8] = 5.0, 1.0  # RMS 0.2550, ratio 19.6
    hidden[0, 2, 9] = 5.0  # another channel
    assert is_sink(hidden, torch.tensor([7]), 20.0).tolist() == [[True, False, False]]


def test_heads_are_chosen_once_per_prompt() -> None:
    from lvlm_fix.families.miniature import miniature

    model, inputs = miniature("llava")
    with torch.no_grad(), lf.fix(model, "vhr") as handle:
        model.generate(**inputs, max_new_tokens=1, do_sample=False)
        first = {key: heads.clone() for key, heads in handle._prompt.heads.items()}
        scores = handle.scores()
        model.generate(**inputs, max_new_tokens=8, do_sample=False)
        assert all(torch.equal(first[key], heads) for key, heads in handle._prompt.heads.items())
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
def test_a_setting_out_of_range_is_named(kind: type[lf.Method], settings: dict[str, object], message: str) -> None:
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
