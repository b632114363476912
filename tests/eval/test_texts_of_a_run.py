"""One batch under several methods: what they share is made once, and nothing changes by it."""

from functools import wraps
from pathlib import Path

import pytest
import torch
from lvlm_eval.run import Plan, run
from lvlm_eval.serve import expand, methods_of, seen_once, serving

import lvlm_fix as lf
from lvlm_fix import SettingError
from lvlm_fix.tools.miniature import miniature


@pytest.mark.parametrize(
    "name", ["llava", "llava_next", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "internvl"]
)
def test_pixels_are_seen_once_and_the_texts_are_the_same_to_the_bit(name: str) -> None:
    model, inputs = miniature(name)
    options = {
        "max_new_tokens": 3,
        "do_sample": False,
        "output_scores": True,
        "return_dict_in_generate": True,
    }
    expected = [
        torch.stack(model.generate(**inputs, **options, num_beams=n).scores) for n in (1, 2)
    ]
    calls = counted(model)
    with seen_once(model):
        for beams, scores in zip((1, 2, 1), [*expected, expected[0]], strict=True):
            assert torch.equal(
                torch.stack(model.generate(**inputs, **options, num_beams=beams).scores), scores
            )
        assert calls == [2]
        other = inputs | {"pixel_values": inputs["pixel_values"] + 1}
        model.generate(**other, **options)
        assert calls == [2, 2]
    assert "get_image_features" not in vars(model.base_model)


def test_a_photo_in_several_rows_is_seen_once() -> None:
    model, inputs = miniature("llava", samples=3)
    inputs["pixel_values"] = inputs["pixel_values"][[1, 0, 1]]
    options = {
        "max_new_tokens": 3,
        "do_sample": False,
        "output_scores": True,
        "return_dict_in_generate": True,
    }
    expected = torch.stack(model.generate(**inputs, **options).scores)
    calls = counted(model)
    with seen_once(model):
        assert torch.allclose(
            torch.stack(model.generate(**inputs, **options).scores), expected, atol=1e-5
        )
    assert calls == [2]


def counted(model: torch.nn.Module) -> list[int]:
    """Rows of pixels (photos in these models) of every call of the vision side."""
    calls: list[int] = []
    plain = model.base_model.get_image_features

    @wraps(plain)
    def features(*args, **named):
        grid = named.get("image_grid_thw", args[1] if len(args) > 1 else None)
        pixels = args[0] if args else named["pixel_values"]
        calls.append(len(pixels if grid is None else grid))
        return plain(*args, **named)

    model.base_model.get_image_features = features
    return calls


def test_a_run_gives_what_each_method_gives_alone(tiny, photos: list[Path], tmp_path: Path) -> None:
    specs = ["none", "vhr:strength=3", "paint", "vcd", "random-heads:seed=1"]
    methods = {spec: methods_of(spec, {}) for spec in specs}
    plan = Plan(
        task="chair",
        model="tiny",
        methods=tuple(specs),
        samples={"": [{"image_id": 1}, {"image_id": 2}]},
        photos={1: photos[0], 2: photos[1]},
        truth={},
        prompt="Describe.",
    )
    serve = serving(*tiny, methods, 4)
    run(plan, serve, tmp_path / "run")
    with serve(photos[:2], ["Describe."] * 2) as texts:
        found = [[one.text for one in texts(spec)] for spec in specs]
    opened = [lf.open_image(path) for path in photos[:2]]
    for spec, got in zip(specs, found, strict=True):
        with lf.fix(
            tiny[0], methods[spec] or lf.VHR(strength=1)
        ):  # a neutral setting changes nothing
            assert got == lf.answer(*tiny, opened, ["Describe."] * 2, max_new_tokens=4)
    assert len({tuple(texts) for texts in found}) > 1


def test_ranges_and_settings_in_a_method() -> None:
    apart = {"random-heads", "random-vector", "steer", "vti", "pti"}  # four need a file of vectors
    assert expand(["all"]) == ["none", *(name for name in lf.METHODS if name not in apart)]
    assert expand(["none", "random-heads:seed=8..10,strength=2", "vhr+random-heads:seed=0..1"]) == [
        "none",
        *(f"random-heads:seed={n},strength=2" for n in (8, 9, 10)),
        *(f"vhr+random-heads:seed={n}" for n in (0, 1)),
    ]
    with pytest.raises(SettingError, match="upwards"):
        expand(["random-heads:seed=3..1"])
    (method,) = methods_of("vhr:layers=[1,3],strength=1.5", {"vhr.strength": "7"})
    assert method == lf.VHR(layers=(1, 3), strength=1.5)
    with pytest.raises(SettingError, match="name:setting=value"):
        methods_of("vhr:3", {})
