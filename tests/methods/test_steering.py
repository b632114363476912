"""What steers hidden states, by hand and against plain hooks, row by row in numbers."""

from __future__ import annotations

from typing import Any

import literal
import pytest
import torch
from cases import vectors_of
from torch import Tensor

import lvlm_fix as lf
from lvlm_fix.method import AtLayer
from lvlm_fix.tools.miniature import IMAGE, miniature
from lvlm_fix.vectors.vectors import Vectors
from lvlm_fix.watches import ImageShift

GREEDY: dict[str, Any] = {
    "max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "output_logits": True,
    "return_dict_in_generate": True, "suppress_tokens": [IMAGE],
}  # fmt: skip
SOME = vectors_of(range(1, 4), 48, seed=5, length=2.0)


def at_layer(layer: int, values: Any) -> AtLayer:
    none = torch.zeros(1, 1, dtype=torch.bool)
    return AtLayer(layer, 5, False, none, none, ~none, values, queries=1)


def length(row: list[float]) -> float:
    return sum(x * x for x in row) ** 0.5


def same(found: Any, wanted: Any, plain: Any) -> None:
    assert not torch.equal(plain.logits[0], wanted.logits[0])
    assert torch.equal(found.sequences, wanted.sequences)
    for ours, theirs in zip(found.logits, wanted.logits, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_steer_adds_a_vector_and_may_keep_the_length() -> None:
    hidden, vectors = torch.tensor([[[3.0, 4.0]]]), Vectors({2: torch.tensor([1.0, -2.0])})
    plain = lf.Steer(vectors=vectors, strength=2.0)
    at = at_layer(2, {plain.steering: vectors.rows[2]})
    wanted = torch.tensor([[[5.0, 0.0]]])  # (3, 4) + 2·(1, −2): as long as before
    torch.testing.assert_close(plain.hidden_states(hidden, at), wanted)
    plain = lf.Steer(vectors=vectors, strength=-1.0)
    kept = lf.Steer(vectors=vectors, strength=-1.0, keep_norm=True)
    at = at_layer(2, dict.fromkeys((plain.steering, kept.steering), vectors.rows[2]))
    torch.testing.assert_close(plain.hidden_states(hidden, at), torch.tensor([[[2.0, 6.0]]]))
    wanted = torch.tensor([[[2.0, 6.0]]]) * 5 / 40**0.5
    torch.testing.assert_close(kept.hidden_states(hidden, at), wanted)
    off = lf.Steer(vectors=vectors, strength=0.0)
    assert off.hidden_states(hidden, at) is hidden


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("name", ["steer", "random-vector"])
def test_steer_and_its_control_equal_hooks(name: str, keep: bool, samples: int) -> None:
    model, inputs = miniature("llava", samples=samples)
    kind = lf.METHODS[name]
    method: Any = kind(vectors=SOME, strength=0.7, keep_norm=keep, layers=(1, 3))

    def edit(row: list[float], layer: int, sample: int) -> list[float]:
        moved = [
            x + 0.7 * v
            for x, v in zip(row, method.steering.vectors.rows[layer].tolist(), strict=True)
        ]
        return [x * length(row) / length(moved) for x in moved] if keep else moved

    plain = model.generate(**inputs, **GREEDY)
    with lf.fix(model, method):
        found = model.generate(**inputs, **GREEDY)
    with torch.no_grad(), literal.states(model, edit, {1, 3}, mlp=False):
        wanted = model.generate(**inputs, **GREEDY)
    same(found, wanted, plain)


def test_random_vectors_are_as_long_and_point_elsewhere_by_seed() -> None:
    drawn = [lf.RandomVector(vectors=SOME, seed=seed).steering.vectors for seed in (0, 0, 1)]
    for layer, row in SOME.rows.items():
        same_one, again, other = (one.rows[layer] for one in drawn)
        assert torch.equal(same_one, again) and not torch.equal(same_one, other)
        torch.testing.assert_close(same_one.norm(), row.norm())
        assert abs(torch.cosine_similarity(same_one, row, dim=0)) < 0.5
    cosine = torch.cosine_similarity(drawn[0].rows[1], drawn[0].rows[2], dim=0)
    assert abs(cosine) < 0.5  # layers have their own
    assert lf.RandomVector.control and not lf.Steer.control


def test_vista_turns_further_what_points_away() -> None:
    method = lf.VISTA(strength=0.5)
    hidden = torch.tensor([[[3.0, 4.0], [-3.0, 4.0]]])
    at = at_layer(0, {ImageShift(): torch.tensor([[2.0, 0.0]])})
    # units (.6, .8) and (−.6, .8); s = 1 and 1.6, so (.6 + .5, .8) and (−.6 + .8, .8)
    wanted = torch.tensor([[[1.1, 0.8], [0.2, 0.8]]]) * 5
    wanted = wanted / torch.tensor([[[1.85**0.5], [0.68**0.5]]])
    torch.testing.assert_close(method.hidden_states(hidden, at), wanted)
    assert lf.VISTA(strength=0.0).hidden_states(hidden, at) is hidden
    assert not lf.VISTA(strength=0.0).watches(5)  # no passes that nothing reads


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("layers", [None, (0, 3)])
def test_vista_equals_two_passes_and_hooks(layers: tuple[int, ...] | None, samples: int) -> None:
    model, inputs = miniature("llava", samples=samples)
    shifts = literal.image_shifts(model, inputs, IMAGE).tolist()

    def edit(row: list[float], layer: int, sample: int) -> list[float]:
        way, own = shifts[sample][layer], length(row)
        if own == 0:
            return row
        cosine = sum(x * d for x, d in zip(row, way, strict=True)) / (own * length(way))
        size = 0.4 * (1 + max(0.0, -cosine)) / length(way)
        moved = [x / own + size * d for x, d in zip(row, way, strict=True)]
        return [x * own / length(moved) for x in moved]

    plain = model.generate(**inputs, **GREEDY)
    with lf.fix(model, lf.VISTA(strength=0.4, layers=layers)):
        found = model.generate(**inputs, **GREEDY)
    acting = set(range(5)) if layers is None else set(layers)
    with torch.no_grad(), literal.states(model, edit, acting, mlp=True):
        wanted = model.generate(**inputs, **GREEDY)
    same(found, wanted, plain)


def test_vista_measures_each_prompt_once_and_asks_once_without_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, inputs = miniature("llava", samples=1)
    both = {key: torch.cat((part, part)) for key, part in inputs.items()}
    rows: list[int] = []
    plain = model.get_decoder().forward

    def counted(*args: Any, **kwargs: Any) -> Any:
        rows.append(len(kwargs["inputs_embeds"]))
        return plain(*args, **kwargs)

    monkeypatch.setitem(model.get_decoder().__dict__, "forward", counted)
    with lf.fix(model, "vista"):
        model.generate(**both, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert rows == [2, 1, 2, 2, 2]  # as it is, text alone once for both; then prompt and two tokens


def test_a_method_without_vectors_or_with_others_is_refused() -> None:
    model, _ = miniature("llava")
    for name in ("steer", "random-vector"):
        assert lf.METHODS[name]().settings()["vectors"] == ""  # it can be listed
        with pytest.raises(lf.SettingError, match=rf"{name}\.vectors="):
            lf.fix(model, name)
    with pytest.raises(lf.DataError, match=r"40 wide.*this model 48"):
        lf.fix(model, lf.Steer(vectors=vectors_of(range(2), 40)))
    with pytest.raises(lf.DataError, match="layer 5, this model has 5 layers"):
        lf.fix(model, lf.Steer(vectors=vectors_of(range(6), 48)))
    with pytest.raises(lf.DataError, match="no vector for layer 4"):
        lf.fix(model, lf.Steer(vectors=SOME, layers=(4,)))


def test_a_part_that_gives_other_axes_is_refused() -> None:
    model, inputs = miniature("llava", samples=1)
    mlp = model.get_decoder().layers[2].mlp
    plain = mlp.forward

    def flat(hidden: Tensor) -> Tensor:
        return plain(hidden).flatten(0, 1)

    mlp.forward = flat
    with (
        torch.no_grad(),
        lf.fix(model, lf.VISTA(layers=(2,))),
        pytest.raises(lf.ModelError, match="mlp of layer 2 gives 2 axes"),
    ):
        model(**inputs)


def test_vti_turns_by_a_tenth_of_its_strength() -> None:
    vectors = Vectors({1: torch.tensor([0.0, 9.0])})  # only its direction counts
    method = lf.VTI(vectors=vectors, strength=2.0)
    hidden = torch.tensor([[[3.0, 4.0], [0.0, 0.0]]])
    at = at_layer(1, {method.steering: vectors.rows[1]})
    wanted = torch.tensor([[[0.6, 1.0], [0.0, 0.0]]]) * 5 / 1.36**0.5  # (.6, .8 + .2), as long
    torch.testing.assert_close(method.hidden_states(hidden, at), wanted)
    off = lf.VTI(vectors=vectors, strength=0.0)
    assert off.hidden_states(hidden, at) is hidden


@pytest.mark.parametrize("samples", [1, 2])
def test_vti_equals_hooks(samples: int) -> None:
    model, inputs = miniature("llava", samples=samples)

    def edit(row: list[float], layer: int, sample: int) -> list[float]:
        way, own = SOME.rows[layer].tolist(), length(row)
        if own == 0:
            return row
        moved = [x / own + 0.1 * 3 * d / length(way) for x, d in zip(row, way, strict=True)]
        return [x * own / length(moved) for x in moved]

    plain = model.generate(**inputs, **GREEDY)
    with lf.fix(model, lf.VTI(vectors=SOME, strength=3.0)):
        found = model.generate(**inputs, **GREEDY)
    with torch.no_grad(), literal.states(model, edit, set(SOME.rows), mlp=True):
        wanted = model.generate(**inputs, **GREEDY)
    same(found, wanted, plain)


def test_the_visual_half_of_vti_equals_hooks_in_the_tower() -> None:
    model, inputs = miniature("llava")
    tower = model.get_encoder(modality="image")
    blocks = max((m for m in tower.modules() if isinstance(m, torch.nn.ModuleList)), key=len)
    shapes: list[torch.Size] = []
    hook = blocks[0].register_forward_hook(lambda m, a, o: shapes.append(tuple(_hidden(o).shape)))
    with torch.no_grad():
        plain = model(**inputs).logits
    hook.remove()
    ways = {n: torch.randn(shapes[0][1:]) for n in range(len(blocks))}
    vectors = Vectors(SOME.rows, tower=ways)

    def turn(layer: int, output: Tensor) -> Tensor:
        new = output.clone()
        for photo in range(len(new)):
            for place in range(new.shape[1]):
                row, way = new[photo, place].tolist(), ways[layer][place].tolist()
                own = length(row)
                moved = [x / own + 0.1 * 2 * d / length(way) for x, d in zip(row, way, strict=True)]
                new[photo, place] = torch.tensor([x * own / length(moved) for x in moved])
        return new

    hooks = [
        block.mlp.register_forward_hook(lambda m, a, o, n=n: turn(n, o))
        for n, block in enumerate(blocks)
    ]
    with torch.no_grad():
        wanted = model(**inputs).logits
    for hook in hooks:
        hook.remove()
    method = lf.VTI(vectors=vectors, strength=0.0, visual=2.0)
    with torch.no_grad(), lf.fix(model, method):
        found = model(**inputs).logits
        text = model.generate(**inputs, **GREEDY)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)
    assert not torch.allclose(wanted, plain, atol=1e-3)
    torch.testing.assert_close(text.logits[0], wanted[:, -1], atol=1e-5, rtol=0)


def _hidden(output: Any) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]


def test_the_visual_half_is_refused_where_its_vectors_or_photos_are_missing() -> None:
    model, inputs = miniature("llava", samples=1)
    for tower, match in (
        ({}, "no vectors of the vision tower"),
        ({9: torch.ones(5, 32)}, r"tower\.9 is not of this model"),
    ):
        with pytest.raises(lf.DataError, match=match):
            lf.fix(model, lf.VTI(vectors=Vectors(SOME.rows, tower=tower), visual=0.9))
    wrong = lf.VTI(vectors=Vectors(SOME.rows, tower={0: torch.ones(3, 7)}), visual=0.9)
    with (
        torch.no_grad(),
        lf.fix(model, wrong),
        pytest.raises(lf.DataError, match=r"tower\.0 has \(3, 7\) places and width"),
    ):
        model(**inputs)
    with pytest.raises(lf.DataError, match=r"tower\.0 is not places × width"):
        Vectors(SOME.rows, tower={0: torch.ones(3)})
