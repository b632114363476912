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

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from greenlet import getcurrent, greenlet
from torch import Tensor

from lvlm_fix.errors import SettingError
from lvlm_fix.families import family_of
from lvlm_fix.tools.bench_rivals import (
    DEFAULT,
    Plan,
    Prompts,
    check_name,
    served,
    serving,
)
from lvlm_fix.tools.bench_row import Row, Times, row_of
from lvlm_fix.tools.geometries import TOKENS, Subject
from lvlm_fix.tools.measuring import machine, peak_of, wait_for, weights_of
from lvlm_fix.watches import WithoutImage

__all__ = ["DEFAULT", "Plan", "Row", "bench", "check_name", "lengths", "machine", "steps"]


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
    subjects = {name: served(subject, name) for name in names}
    for batch in plan.batches:
        prompts = [subject.inputs(batch, 1, question) for question in range(2)]
        peaks = {}
        for name in names:  # also warms up
            peaks[name] = _peak(subjects[name], name, prompts, plan)
            progress(done := done + 1)
        rounds: list[dict[str, Times]] = []
        for number in range(plan.rounds(batch)):
            turn = number % len(names)
            rounds.append(_round(subjects, names[turn:] + names[:turn], prompts, plan))
            progress(done := done + len(names))
        share = float((~torch.isin(prompts[1]["input_ids"], _image_tokens(subject))).float().mean())
        rows += [row_of(name, batch, rounds, peaks, share, plan) for name in names]
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
    subjects = {name: served(subject, name) for name in ("none", *plan.methods)}
    for count in tokens:
        prompts = [subject.inputs(1, count // TOKENS, 0)]
        for name in subjects:
            peaks[name] = _peak(subjects[name], name, prompts, plan) / 2**20
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


def _round(
    subjects: Mapping[str, Subject], names: Sequence[str], prompts: Prompts, plan: Plan
) -> dict[str, Times]:
    """Serve the same prompts under every name, all at once and in turns. Raises what one of them
    raises.
    """
    times, here = dict[str, Times](), getcurrent()

    def run(name: str) -> None:
        times[name] = _time(subjects[name], name, prompts, plan, here.switch)

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


def _time(
    subject: Subject, name: str, prompts: Prompts, plan: Plan, pause: Callable[[], object]
) -> Times:
    spent, wait = [0.0], wait_for(subject.model)
    with serving(subject, name, prompts, plan, pause) as (serve, handle):
        (first,) = serve(1, 0)
        for live in () if handle is None else handle._lives.values():
            if isinstance(live.watch, WithoutImage):
                attribute = live.__dict__
                attribute["_pass"] = _timed(live.__getattribute__("_pass"), spent, wait)
        again, *steps = serve(plan.tokens + 1, 1)
        acted = handle is None or all(report.rows_edited > 0 for report in handle.report())
    return Times(first, again, spent[0], steps, acted)


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
    with serving(subject, name, prompts, plan) as (serve, _):
        return weights_of(subject.model) + peak_of(subject.model, lambda: serve(4, 0))


def _image_tokens(subject: Subject) -> Tensor:
    return torch.tensor(family_of(subject.model).image_tokens, device=subject.model.device)
