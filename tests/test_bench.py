"""The benchmark measures what it says; its figures are not tested, only what must hold on any
machine.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import lvlm_fix as lf
from lvlm_fix.tools import bench as benching
from lvlm_fix.tools.bench_literal import Literal
from lvlm_fix.tools.bench_rivals import twin
from lvlm_fix.tools.geometries import GEOMETRIES, Subject, subject
from lvlm_fix.tools.measuring import Clock
from lvlm_fix.tools.miniature import miniature

VAR = lf.VAR(threshold=1.4, ratio=0.1, image_share=0.1)

pytestmark = pytest.mark.xdist_group("bench")  # they share what takes long


@pytest.fixture(scope="module")
def smallest() -> Subject:
    return subject("smallest", dtype=torch.float32, device="cpu")


def questions(asked: Subject) -> list[dict[str, Any]]:
    return [asked.inputs(1, 1, question) for question in (0, 1)]


def test_the_command_prints_ratios_of_every_method_and_rival(lvlm: Any) -> None:
    words = ("--model", "smallest", "--tokens", 2, "--repeats", 2, "--batch", "1,2")
    code, out, _ = lvlm(
        "bench", *words, "--method", "var+vhr", "--method", "literal:var+vhr", "--json"
    )
    document = json.loads(out)
    assert code == 0 and document["machine"]["random_weights"]
    rows = {(row["method"], row["batch"]): row for row in document["rows"]}
    assert list(rows) == [(m, b) for b in (1, 2) for m in ("none", "var+vhr", "literal:var+vhr")]
    assert all(row["acted"] and row["rounds"] == 2 for row in rows.values())
    for batch in (1, 2):
        plain, fast, literal = (rows[m, batch] for m in ("none", "var+vhr", "literal:var+vhr"))
        assert (
            plain["decode_ratio"] == plain["prefill_ratio"] == [1, 1, 1]
            and plain["memory_ratio"] == 1
        )
        assert fast["again_ratio"][0] > fast["no_image_ratio"][0] > 0 == plain["no_image_ratio"][0]
        assert fast["memory_ratio"] < literal["memory_ratio"]
        assert fast["no_image_share"] == pytest.approx(55 / 631)


@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
@pytest.mark.parametrize("methods", [[VAR, lf.VHR()], [lf.VAF()], [lf.PAI(contrast=1.0)]])
def test_the_literal_rival_does_the_same(family: str, methods: list[lf.Method]) -> None:
    model, inputs = miniature(family)
    options = {
        "max_new_tokens": 4,
        "do_sample": False,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    with lf.fix(model, methods):
        wanted = model.generate(**inputs, **options)
    model.set_attn_implementation({"text_config": "eager"})
    with Literal(model, tuple(methods)):
        found = model.generate(**inputs, **options)
    for ours, theirs in zip(wanted.logits, found.logits, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_names_take_turns_token_by_token(
    monkeypatch: pytest.MonkeyPatch, smallest: Subject
) -> None:
    log, tick = list[str](), Clock.tick

    def logged(self: Any, *args: Any) -> None:
        log.append(twins[self.model])
        tick(self, *args)

    monkeypatch.setattr(Clock, "tick", logged)
    served = {
        name: replace(smallest, model=twin(smallest.model)) for name in ("none", "vhr", "var")
    }
    twins = {subject.model: name for name, subject in served.items()}
    benching._round(served, ("var", "none", "vhr"), questions(smallest), benching.Plan(tokens=2))
    assert log == 4 * ["var", "none", "vhr"]


def test_a_round_serves_twins_with_the_same_weights_and_raises_what_one_raises(
    smallest: Subject,
) -> None:
    other = twin(smallest.model)
    assert all(a is b for a, b in zip(other.parameters(), smallest.model.parameters(), strict=True))
    twins = {
        name: replace(smallest, model=twin(smallest.model))
        for name in ("none", "vhr", "mitigv:pai")
    }
    prompts, plan = questions(smallest), benching.Plan(tokens=2)
    times = benching._round(twins, ("vhr", "none"), prompts, plan)
    assert len(times["vhr"].steps) == len(times["none"].steps) == 2
    assert times["vhr"].acted and times["vhr"].no_image > 0 == times["none"].no_image
    with pytest.raises(
        lf.SettingError, match="needs the package mitigv"
    ):  # random weights have no processor
        benching._round(twins, ("vhr", "mitigv:pai", "none"), prompts, plan)


OTHER = """
from contextlib import contextmanager
import torch
from lvlm_fix.models import prepare

class PAIConfig:
    def __init__(self, gamma): pass

@contextmanager
def mitigate(name, config, *, model, processor, cleanup):
    @torch.inference_mode()
    def loop(photos, question, max_new_tokens):
        inputs = prepare(model, processor, photos, [question] * len(photos))
        for _ in range(min(max_new_tokens, 3)):  # its text ends early
            model(**inputs)
    yield loop
"""


def test_another_packages_loop_takes_turns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "mitigv" / "algorithms"
    package.mkdir(parents=True)
    for file in (package / "pai.py", package.parent / "__init__.py"):
        file.write_text(OTHER)
    monkeypatch.syspath_prepend(tmp_path)
    tiny = subject("tiny", dtype=torch.float32, device="cpu")
    plan = benching.Plan(methods=("mitigv:pai", "vhr"), tokens=4, repeats=2)
    rows = {row.method: row for row in benching.bench(tiny, plan)}
    assert list(rows) == ["none", "mitigv:pai", "vhr"] and rows["vhr"].acted
    assert all(row.decode_seconds > 0 for row in rows.values())
    assert not torch.is_inference_mode_enabled()


def test_extra_memory_grows_with_the_length_and_not_with_its_square(smallest: Subject) -> None:
    plan = benching.Plan(methods=("var+vhr", "literal:var+vhr"))
    rows = benching.lengths(smallest, plan, (576, 1152, 2304))
    fast, literal = (
        [row["extra_mib"] for row in rows if row["method"] == name] for name in plan.methods
    )
    assert fast[2] < 5 * max(fast[0], 0.5)  # four times the length
    assert literal[2] > 10 * literal[0]
    assert literal[2] > 20 * fast[2]


def test_peak_memory_is_what_tensors_take(smallest: Subject) -> None:
    prompts, plan = questions(smallest), benching.Plan()
    weights = sum(p.numel() * 4 for p in smallest.model.parameters())
    plain = benching._peak(smallest, "none", prompts, plan)
    held = []
    hook = smallest.model.register_forward_hook(lambda *_: held.append(torch.zeros(25 * 2**20)))
    more = benching._peak(smallest, "none", prompts, plan)
    hook.remove()
    assert plain > weights
    assert (more - plain) / 2**20 == pytest.approx(100 * len(held), rel=0.1)


@pytest.mark.parametrize("name", sorted(GEOMETRIES))
def test_every_geometry_is_a_model_of_its_size(name: str) -> None:
    from transformers import AutoConfig, AutoModelForImageTextToText

    config = dict(GEOMETRIES[name]().config)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(
            AutoConfig.for_model(config.pop("model_type"), **config)
        )
    billions = sum(p.numel() for p in model.parameters()) / 1e9
    sizes = {
        "llava-1.5-7b": 7.06,
        "qwen2.5-vl-7b": 8.29,
        "llava-1.5-7b-scaled": 0.92,
        "smallest": 0.001,
    }
    assert billions == pytest.approx(sizes[name], rel=0.02, abs=0.0005)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "nonsense"], "there is no method 'nonsense'"),
        (["--method", "none"], "the unmodified model is measured anyway"),
        (["--method", "mitigv:vcd"], "is not a rival"),
        (["--method", "vhr", "--set", "vhr.strength=-1"], "strength must be >= 0"),
        (["--batch", "1,x"], "--batch takes whole numbers joined by commas"),
        (["--batch", "0"], "batch must be >= 1"),
        (["--dtype", "int4"], "--dtype takes float32"),
        (["--image-tokens", "577", "--method", "vhr"], "must be a multiple of 576"),
    ],
)
def test_bad_input_is_one_line(lvlm: Any, words: list[str], message: str) -> None:
    code, out, err = lvlm("bench", "--model", "smallest", *words)
    assert (code, out) == (2, "")
    assert message in err
