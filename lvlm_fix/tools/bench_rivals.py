"""What a benchmark measures: a method, the same as research code does it, another package's,
another checkpoint, each by its name; and how each serves a prompt.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from transformers import CompileConfig, PreTrainedModel

from lvlm_fix.attach import Fix
from lvlm_fix.errors import SettingError
from lvlm_fix.method import Method
from lvlm_fix.methods import parse_methods
from lvlm_fix.models import load, open_image, sample_photos
from lvlm_fix.private import implementation_of
from lvlm_fix.tools.bench_literal import Literal
from lvlm_fix.tools.geometries import QUESTIONS, Subject
from lvlm_fix.tools.measuring import Clock

__all__ = [
    "DEFAULT",
    "Plan",
    "Prompts",
    "Serve",
    "check_name",
    "methods_of",
    "served",
    "serving",
    "twin",
]

DEFAULT = ("vhr", "var", "var+vhr", "pai", "literal:var+vhr", "vcd")
LITERAL, MITIGV, CHECKPOINT = "literal:", "mitigv:", "checkpoint:"
# the attention part alone; its refinement of the next token is a second branch, which vcd stands
# for
ATTENTION = {"pai.contrast": "1"}

Prompts = Sequence[dict[str, Any]]  # two questions
Serve = Callable[[int, int], list[float]]  # so many tokens of which prompt: the seconds of each


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    methods: tuple[str, ...] = DEFAULT
    settings: Mapping[str, str] = field(default_factory=dict[str, str])
    batches: tuple[int, ...] = (1,)
    tokens: int = 24  # decoded behind the first
    repeats: int = 2  # at batch 1; larger batches take half as many, at least 2
    compile: bool = False  # a static cache, and a compiled decoding step

    def __post_init__(self) -> None:
        for name, values in (
            ("batch", self.batches),
            ("tokens", (self.tokens,)),
            ("repeats", (self.repeats,)),
        ):
            if not values or min(values) < 1:
                raise SettingError(f"{name} must be >= 1, got {min(values, default=0)}")

    def rounds(self, batch: int) -> int:
        """How often every method is measured at this batch size."""
        return self.repeats if batch == 1 else max(2, self.repeats // 2)


def check_name(name: str, settings: Mapping[str, str]) -> None:
    """Raise `UnknownNameError` or `SettingError` unless this can be a row; `none` is one always."""
    if name == "none" or (name.startswith(MITIGV) and name != MITIGV + "pai"):
        raise SettingError(
            f"{name!r} is not a rival; the unmodified model is measured anyway, and {MITIGV}pai"
            " may be"
        )
    if not name.startswith((MITIGV, CHECKPOINT)):
        methods_of(name, settings)


def methods_of(name: str, settings: Mapping[str, str]) -> tuple[Method, ...]:
    """The methods of a row."""
    names = name.removeprefix(LITERAL).split("+")
    return parse_methods(
        "+".join(names),
        {k: v for k, v in (ATTENTION | dict(settings)).items() if k.split(".")[0] in names},
    )


def served(subject: Subject, name: str) -> Subject:
    """What serves a row: the model itself, another checkpoint, or else a twin."""
    model = subject.model
    if name == "none":
        return subject
    if name.startswith(CHECKPOINT):
        other, _ = load(name.removeprefix(CHECKPOINT), dtype=model.dtype, device=str(model.device))
        return replace(subject, model=other)
    return replace(subject, model=twin(model))


def twin(model: PreTrainedModel) -> PreTrainedModel:
    """A model of its own with the same weights, not copied."""
    return copy.deepcopy(model, {id(t): t for t in (*model.parameters(), *model.buffers())})


@contextmanager
def serving(
    subject: Subject,
    name: str,
    prompts: Prompts,
    plan: Plan,
    pause: Callable[[], object] = lambda: None,
) -> Generator[tuple[Serve, Fix | None]]:
    """A call that serves so many tokens of a prompt, and says the seconds each took, with the
    methods of a row acting.

    It pauses after every token.
    """
    model = subject.model
    if name.startswith(MITIGV):
        with _eager(model), _mitigv(subject, len(prompts[0]["input_ids"]), pause) as loop:
            yield loop, None
        return

    def serve(tokens: int, question: int) -> list[float]:
        clock = Clock(subject.model, pause)
        _generate(subject, prompts[question], plan, tokens, clock)
        return clock.seconds

    if name == "none" or name.startswith(CHECKPOINT):
        yield serve, None
        return
    methods = methods_of(name, {**subject.settings, **plan.settings})
    if name.startswith(LITERAL):
        with _eager(model), Literal(model, methods) as handle:
            yield serve, handle
    else:
        with Fix(model, methods) as handle:
            yield serve, handle


@contextmanager
def _eager(model: PreTrainedModel) -> Generator[None]:
    """The decoder with eager attention."""
    key = next(
        key
        for key in model.config.sub_configs
        if getattr(model.config, key) is model.get_decoder().config
    )
    wrapped = implementation_of(model.get_decoder())
    model.set_attn_implementation({key: "eager"})
    try:
        yield
    finally:
        model.set_attn_implementation({key: wrapped})


def _generate(
    subject: Subject, inputs: dict[str, Any], plan: Plan, tokens: int, clock: Clock
) -> None:
    """So many tokens of the stock `generate`."""
    options: dict[str, Any] = {
        "max_new_tokens": tokens,
        "min_new_tokens": tokens,
        "do_sample": False,
    }
    if plan.compile:
        how: Any = CompileConfig(fullgraph=True)
        how.mode, how._compile_all_devices = None, True
        options |= {"cache_implementation": "static", "compile_config": how}
    serve: Any = subject.model.generate
    serve(**inputs, **options, **clock.options)


@contextmanager
def _mitigv(subject: Subject, batch: int, pause: Callable[[], object]) -> Generator[Serve]:
    """The other package's PAI, its attention part, in its own loop: a pass of the model for every
    token.
    """
    if importlib.util.find_spec("mitigv") is None or subject.processor is None:
        raise SettingError(f"{MITIGV}pai needs the package mitigv, and a model with a processor")
    mitigate = importlib.import_module("mitigv").mitigate
    config = importlib.import_module("mitigv.algorithms.pai").PAIConfig(gamma=1.0)
    photos, model = [open_image(sample_photos()[0])] * batch, subject.model

    def leave() -> None:
        with torch.inference_mode(False), torch.no_grad():  # that loop's mode is not for the others
            pause()

    def serve(tokens: int, question: int) -> list[float]:
        clock = Clock(model, leave)

        def begin(*_: Any) -> None:
            if not clock.seconds:  # the photo is prepared
                clock.start()

        with model.register_forward_pre_hook(begin), model.register_forward_hook(clock.tick):
            mitigator(photos, QUESTIONS[question], max_new_tokens=tokens)
        return clock.seconds

    model.__dict__["language_model"] = (
        model.get_decoder()
    )  # where that package looks for the layers
    try:
        with mitigate(
            "pai", config, model=model, processor=subject.processor, cleanup=False
        ) as mitigator:
            yield serve
    finally:
        del model.__dict__["language_model"]
