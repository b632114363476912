"""What methods cost: time and memory as ratios to the unmodified model, interleaved in the same
run.

Interleaved token by token: every method serves on a twin of the model (the same weights), and they
take turns in one thread, one token each. What disturbs the machine for longer than a token so meets
all of them.

Rivals run beside: `literal:NAME` is the same method as research code does it (eager attention, the
full map of every row), `vcd` decodes in two branches, `mitigv:pai` is that package's, where it is
installed and the model has a processor, and `checkpoint:FOLDER` is another checkpoint given the
same prompt, such as an exported one.
"""

from __future__ import annotations

import copy
import importlib.util
import statistics
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from greenlet import getcurrent, greenlet
from torch import Tensor, nn
from transformers import CompileConfig, PreTrainedModel

from lvlm_fix.attach import Fix
from lvlm_fix.core.layer import Layer
from lvlm_fix.core.text import Pass
from lvlm_fix.errors import SettingError
from lvlm_fix.families import family_of
from lvlm_fix.method import AtLayer, Method
from lvlm_fix.methods import parse_methods
from lvlm_fix.models import load, open_image, sample_photos
from lvlm_fix.private import implementation_of
from lvlm_fix.tools.geometries import QUESTIONS, TOKENS, Subject
from lvlm_fix.tools.measuring import Clock, machine, peak_of, spread, wait_for, weights_of
from lvlm_fix.watches import WithoutImage

__all__ = ["DEFAULT", "Plan", "Row", "bench", "check_name", "lengths", "machine", "steps"]

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


@dataclass(frozen=True)
class Row:
    """One method at one batch size. Ratios are to the unmodified model of the same round: median,
    quartiles.
    """

    method: str
    batch: int
    prefill_seconds: float  # median, of a first prompt: with what is done once
    decode_seconds: float  # median, per step of the whole batch
    tokens_per_second: float  # decoded
    prefill_ratio: tuple[float, float, float]
    again_ratio: tuple[
        float, float, float
    ]  # another question: what stands in front of the image is known
    no_image_ratio: tuple[
        float, float, float
    ]  # of that, the pass without image; 0 where there is none
    no_image_share: float  # text tokens of all tokens of the prompt
    decode_ratio: tuple[float, float, float]  # of a round, the median over turns of one token
    tokens_per_second_ratio: tuple[float, float, float]
    peak_mib: float  # weights and the most that tensors took at once, prefill and a few tokens
    memory_ratio: float
    rounds: int
    acted: bool  # the report counts rows edited


@dataclass
class _Time:
    prefill: float  # of the first prompt
    again: float  # of another question
    no_image: float  # of that, seconds in the pass without image
    steps: list[float]
    acted: bool


class _LiteralLayer(Layer):
    """A layer that holds the full map of every row, as research code computes it."""

    def _edit(
        self, plain: Callable[..., Any], module: nn.Module, now: Pass, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        if not (self._logits or self._weights):
            return super()._edit(plain, module, now, *args, **kwargs)
        query, key, value, mask = args[:4]
        groups = query.shape[1] // key.shape[1]
        keys, values = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        logits = query @ keys.transpose(2, 3) * kwargs["scaling"] + mask[..., : keys.shape[2]]
        at = self.at(now, key.shape[2], query.device)
        for number, method in self._logits:
            new = method.attention_logits(logits, self._for(at, now, method))
            logits = self._accept_rows(at, now, number, method, logits, new)
        weights = logits.softmax(-1, dtype=torch.float32).to(query.dtype)
        for number, method in self._weights:
            new = method.attention_weights(weights, self._for(at, now, method))
            weights = self._accept_rows(at, now, number, method, weights, new)
        output = (weights @ values).transpose(1, 2).contiguous()
        return self._edit_heads(at, now, output), weights

    def _accept_rows(
        self, at: AtLayer, now: Pass, number: int, method: Method, old: Tensor, new: Tensor
    ) -> Tensor:
        """A full map with an edit kept in the rows it may touch."""
        if now.index is None:
            return self._accept(at, now, number, method, old, new)
        index = now.index
        some = old.index_select(2, index), new.index_select(2, index)
        return old.index_copy(2, index, self._accept(at, now, number, method, *some))


class Literal(Fix):
    """The same edits with the full map of every row; wants eager attention."""

    layer = _LiteralLayer


def bench(
    subject: Subject, plan: Plan, progress: Callable[[int], None] = lambda done: None
) -> list[Row]:
    """Measure every method at every batch size, round by round, token by token in turn with the
    unmodified model.

    `progress` is told after each measurement how many are done (of `steps`). Raises what `fix`
    raises.
    """
    rows, done = [], 0
    names = ("none", *plan.methods)
    served = {name: _served(subject, name) for name in names}
    for batch in plan.batches:
        prompts = [subject.inputs(batch, 1, question) for question in range(2)]
        peaks = {}
        for name in names:  # also warms up
            peaks[name] = _peak(served[name], name, prompts, plan)
            progress(done := done + 1)
        rounds: list[dict[str, _Time]] = []
        for number in range(plan.rounds(batch)):
            turn = number % len(names)
            rounds.append(_round(served, names[turn:] + names[:turn], prompts, plan))
            progress(done := done + len(names))
        share = float((~torch.isin(prompts[1]["input_ids"], _image_tokens(subject))).float().mean())
        rows += [_row(name, batch, rounds, peaks, share, plan) for name in names]
    return rows


def steps(plan: Plan) -> int:
    """How many measurements a plan takes."""
    return sum((1 + plan.rounds(batch)) * (1 + len(plan.methods)) for batch in plan.batches)


def lengths(
    subject: Subject,
    plan: Plan,
    tokens: Sequence[int],
    progress: Callable[[int], None] = lambda done: None,
) -> list[dict[str, Any]]:
    """Memory that each method takes beyond the unmodified model, by image tokens (multiples of
    576).

    `progress` is told after each measurement how many are done: at every length one per method, and
    one.
    """
    for count in tokens:
        if count % TOKENS or count < TOKENS:
            raise SettingError(f"image tokens must be a multiple of {TOKENS}, got {count}")
    rows, done, peaks = [], 0, dict[str, float]()
    served = {name: _served(subject, name) for name in ("none", *plan.methods)}
    for count in tokens:
        prompts = [subject.inputs(1, count // TOKENS, 0)]
        for name in served:
            peaks[name] = _peak(served[name], name, prompts, plan) / 2**20
            progress(done := done + 1)
        plain = peaks["none"]
        rows += [
            {
                "image_tokens": count,
                "method": name,
                "extra_mib": peaks[name] - plain,
                "unmodified_mib": plain,
            }
            for name in plan.methods
        ]
    return rows


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


def _served(subject: Subject, name: str) -> Subject:
    """What serves a row: the model itself, another checkpoint, or else a twin."""
    model = subject.model
    if name == "none":
        return subject
    if name.startswith(CHECKPOINT):
        other, _ = load(name.removeprefix(CHECKPOINT), dtype=model.dtype, device=str(model.device))
        return replace(subject, model=other)
    return replace(subject, model=_twin(model))


def _twin(model: PreTrainedModel) -> PreTrainedModel:
    """A model of its own with the same weights, not copied."""
    return copy.deepcopy(model, {id(t): t for t in (*model.parameters(), *model.buffers())})


def _round(
    served: Mapping[str, Subject], names: Sequence[str], prompts: Prompts, plan: Plan
) -> dict[str, _Time]:
    """Serve the same prompts under every name, all at once and in turns. Raises what one of them
    raises.
    """
    times, here = dict[str, _Time](), getcurrent()

    def run(name: str) -> None:
        times[name] = _time(served[name], name, prompts, plan, here.switch)

    turns = {name: greenlet(run) for name in names}
    with torch.no_grad():  # or the first `generate` to end would turn gradients on for all
        try:
            while turns:
                for name, turn in list(turns.items()):
                    turn.switch(name)
                    if turn.dead:
                        del turns[name]
        finally:  # one that ends later would leave gradients as they are in here
            for turn in turns.values():
                turn.throw()
    return times


# one measurement
# ------------------------------------------------------------------------------------------------


@contextmanager
def _serving(
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


def _time(
    subject: Subject, name: str, prompts: Prompts, plan: Plan, pause: Callable[[], object]
) -> _Time:
    spent, wait = [0.0], wait_for(subject.model)
    with _serving(subject, name, prompts, plan, pause) as (serve, handle):
        (first,) = serve(1, 0)
        for live in () if handle is None else handle._lives.values():
            if isinstance(live.watch, WithoutImage):
                attribute = live.__dict__
                attribute["_pass"] = _timed(live.__getattribute__("_pass"), spent, wait)
        again, *steps = serve(plan.tokens + 1, 1)
        acted = handle is None or all(report.rows_edited > 0 for report in handle.report())
    return _Time(first, again, spent[0], steps, acted)


def _timed(
    call: Callable[..., Any], spent: list[float], wait: Callable[[], None]
) -> Callable[..., Any]:
    def timed(*args: Any) -> Any:
        wait()
        start = time.perf_counter()
        out = call(*args)
        wait()
        spent[0] += time.perf_counter() - start
        return out

    return timed


def _peak(subject: Subject, name: str, prompts: Prompts, plan: Plan) -> float:
    """Bytes of the weights and of the most that tensors took at once, over prefill and three
    tokens.
    """
    with _serving(subject, name, prompts, plan) as (serve, _):
        return weights_of(subject.model) + peak_of(subject.model, lambda: serve(4, 0))


# rows
# ----------------------------------------------------------------------------------------------


def _row(
    name: str,
    batch: int,
    rounds: list[dict[str, _Time]],
    peaks: dict[str, float],
    share: float,
    plan: Plan,
) -> Row:
    own, plain = [times[name] for times in rounds], [times["none"] for times in rounds]
    prefill, decode = [t.prefill for t in own], [statistics.median(t.steps) for t in own]
    ratios = [  # turn by turn; another package's loop may end its text early
        statistics.median(a / b for a, b in zip(one.steps, other.steps, strict=False))
        for one, other in zip(own, plain, strict=True)
    ]
    return Row(
        method=name,
        batch=batch,
        prefill_seconds=statistics.median(prefill),
        decode_seconds=statistics.median(decode),
        tokens_per_second=batch / statistics.median(decode),
        prefill_ratio=spread([a / b.prefill for a, b in zip(prefill, plain, strict=True)]),
        again_ratio=spread([a.again / b.again for a, b in zip(own, plain, strict=True)]),
        no_image_ratio=spread([a.no_image / b.again for a, b in zip(own, plain, strict=True)]),
        no_image_share=share,
        decode_ratio=spread(ratios),
        tokens_per_second_ratio=spread([1 / ratio for ratio in ratios]),
        peak_mib=peaks[name] / 2**20,
        memory_ratio=peaks[name] / peaks["none"],
        rounds=len(rounds),
        acted=all(t.acted for t in own),
    )


def _image_tokens(subject: Subject) -> Tensor:
    return torch.tensor(family_of(subject.model).image_tokens, device=subject.model.device)
