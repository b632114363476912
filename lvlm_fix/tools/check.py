"""Whether methods act rightly on one model, on one machine and release: a line for each promise.

Neutral settings are bit-equal; a method acts in the prompt and in decoding; a batch gives what its
samples give one by one; cached and uncached agree; all is restored afterwards; what it costs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from lvlm_fix.attach import fix
from lvlm_fix.core.turns import beside
from lvlm_fix.errors import LvlmFixError, ModelError
from lvlm_fix.images import open_image, sample_photos
from lvlm_fix.method import Method
from lvlm_fix.methods import M3ID, parse_methods
from lvlm_fix.models import prepare
from lvlm_fix.private import implementation_of
from lvlm_fix.tools.geometries import QUESTIONS, Subject
from lvlm_fix.tools.measuring import Clock, peak_of, spread, weights_of
from lvlm_fix.tools.miniature import sample
from lvlm_fix.tools.probing import PROBES
from lvlm_fix.tools.two_ways import Found, apart, batches, caches, compared, most, passes, texts

__all__ = ["Case", "Line", "case_of", "cases", "check"]

# a trained model may be sure of its words, which M3ID leaves alone
LOOSE: dict[str, Method] = {"m3id": M3ID(decay=0.2, certainty=1.0)}


@dataclass(frozen=True)
class Case:
    """Methods to be checked under one name."""

    name: str
    neutral: tuple[Method, ...]  # settings that change nothing; none where none are known
    acting: tuple[Method, ...]
    named: bool = True  # asked for by name: it must not be refused


@dataclass(frozen=True)
class Line:
    """One promise about one method: whether it holds here, and what was found."""

    method: str
    promise: str
    holds: bool
    found: str
    figures: Mapping[str, Any]


def case_of(name: str, settings: Mapping[str, str]) -> Case:
    """Methods joined by "+", as they will be used."""
    parts = name.split("+")
    own = {key: value for key, value in settings.items() if key.split(".")[0] in parts}
    acting = parse_methods(name, own)
    known = all(method.method_name() in PROBES for method in acting)
    neutral = tuple(PROBES[method.method_name()][0] for method in acting) if known else ()
    return Case(name, neutral, acting)


def cases(names: Sequence[str], settings: Mapping[str, str]) -> list[Case]:
    """These methods; without names all, with settings loose enough to act on any model."""
    if names:
        return [case_of(name, settings) for name in names]
    loose = {name: probe[1] for name, probe in PROBES.items()} | LOOSE
    return [Case(name, (PROBES[name][0],), (acting,), False) for name, acting in loose.items()]


def check(subject: Subject, chosen: Sequence[Case], rounds: int = 4) -> Iterator[Line]:
    """The lines of every case, as they are found; never raises."""
    with torch.no_grad():
        plain = _Plain(subject)
        for case in chosen:
            yield from _lines(plain, case, rounds)


class _Plain:
    """The unmodified model, and what it gives."""

    def __init__(self, subject: Subject) -> None:
        self.subject, self.model = subject, subject.model
        self.together, self.alone = _inputs(subject)
        self.half = subject.model.dtype.itemsize < 4
        self.steps = texts(self.model, self.together)  # first of all: it may leave hooks behind
        self.first = passes(self.model, self.alone[0])[0]

    @cached_property
    def batch(self) -> float:
        """What a batch and its samples differ by."""
        return apart(*batches(self.model, self.together, self.alone))[0]

    @cached_property
    def cache(self) -> float:
        """What cached and uncached differ by."""
        return apart(*caches(self.model, self.alone[0]))[0]

    @cached_property
    def bytes(self) -> float:
        return peak_of(self.model, lambda: texts(self.model, self.alone[0]))


def _inputs(subject: Subject) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Two samples as a batch, padded where there is a processor, and one by one."""
    if subject.processor is None:
        together = subject.inputs(2, 1, 0)
        return together, [sample(together, number) for number in range(2)]
    photos = [open_image(path) for path in sample_photos()[:2]]
    made = [
        dict(prepare(subject.model, subject.processor, *which))
        for which in ((photos, QUESTIONS), (photos[:1], QUESTIONS[:1]), (photos[1:], QUESTIONS[1:]))
    ]
    return made[0], made[1:]


def _lines(plain: _Plain, case: Case, rounds: int) -> Iterator[Line]:
    before = _state(plain.model)
    promises: dict[str, Callable[[], Found]] = {
        "neutral settings are bit-equal": lambda: _neutral(plain, case),
        "acts in the prompt and in decoding": lambda: _acts(plain, case),
        "a batch is its samples one by one": lambda: _batch(plain, case),
        "cached is uncached": lambda: _cache(plain, case),
        "restored afterwards": lambda: _restored(plain, case, before),
        "cost": lambda: _cost(plain, case, rounds),
    }
    for promise, look in promises.items():
        try:
            holds, found, figures = look()
        except ModelError as error:
            yield Line(case.name, promise, not case.named, f"refused: {error}", {})
            return
        except LvlmFixError as error:  # one way is refused, the others serve
            holds, found, figures = promise == "cached is uncached", f"refused: {error}", {}
        except Exception as error:
            words = " ".join(str(error).split())[:200]
            holds, found, figures = False, f"{type(error).__name__}: {words}", {}
        yield Line(case.name, promise, holds, found, figures)


def _neutral(plain: _Plain, case: Case) -> Found:
    if not case.neutral:
        return True, "no neutral settings are known", {}
    with fix(plain.model, case.neutral):
        found = texts(plain.model, plain.together)
    same = all(map(torch.equal, found.logits, plain.steps.logits))
    worst = apart(found.logits, plain.steps.logits)[0]
    return same, "yes" if same else f"logits differ by up to {worst:.3g}", {"difference": worst}


def _acts(plain: _Plain, case: Case) -> Found:
    model, inputs = plain.model, plain.alone[0]
    with fix(model, case.acting) as handle:
        edited, step, token = passes(model, inputs)
        notes = [report.note for report in handle.report()]
        _, left, _ = passes(model, inputs, token, lambda: beside(model))
    prompt, decoding = most(edited, plain.first), most(step, left)
    if bool(edited.isnan().any() | step.isnan().any()):
        return False, "NaN", {}
    figures = {"prompt": prompt, "decoding": decoding}
    words = f"logits change by up to {prompt:.3g} in the prompt, {decoding:.3g} in decoding"
    why = "; ".join(dict.fromkeys(note for note in notes if note))
    return prompt > 0 and decoding > 0, words + (f" ({why})" if why else ""), figures


def _batch(plain: _Plain, case: Case) -> Found:
    with fix(plain.model, case.acting):
        found = batches(plain.model, plain.together, plain.alone)
    return compared(*found, plain.batch, half=plain.half)


def _cache(plain: _Plain, case: Case) -> Found:
    with fix(plain.model, case.acting):
        found = caches(plain.model, plain.alone[0])
    return compared(*found, plain.cache, half=plain.half)


def _restored(plain: _Plain, case: Case, before: Any) -> Found:
    with fix(plain.model, case.acting):
        passes(plain.model, plain.alone[0])
    now = _state(plain.model)
    left = [name for name, was in before.items() if now[name] != was]
    if not all(map(torch.equal, texts(plain.model, plain.together).logits, plain.steps.logits)):
        left.append("logits")
    return not left, "yes" if not left else f"not as before: {', '.join(left)}", {}


def _cost(plain: _Plain, case: Case, rounds: int) -> Found:
    """Ratios to the unmodified model, in turns."""
    seconds: dict[bool, list[list[float]]] = {False: [], True: []}
    inputs = plain.alone[0]
    for number in range(rounds + 1):
        for fixed in (False, True) if number % 2 else (True, False):
            with fix(plain.model, case.acting) if fixed else nullcontext():
                clock = Clock(plain.model)
                texts(plain.model, inputs, max_new_tokens=6, min_new_tokens=6, **clock.options)
            if number:  # the first warms up
                seconds[fixed].append(clock.seconds)
    pairs = list(zip(seconds[True], seconds[False], strict=True))
    prefill = spread([one[0] / other[0] for one, other in pairs])
    token = spread([a / b for one, other in pairs for a, b in zip(one[1:], other[1:], strict=True)])
    with fix(plain.model, case.acting):
        peak = peak_of(plain.model, lambda: texts(plain.model, inputs))
    weights = weights_of(plain.model)
    memory = (weights + peak) / (weights + plain.bytes)
    words = f"prefill × {_quartiles(prefill)}, a token × {_quartiles(token)}, memory × {memory:.3f}"
    return True, words, {"prefill": prefill, "token": token, "memory": memory, "rounds": rounds}


def _state(model: PreTrainedModel) -> dict[str, Any]:
    """What a fix changes on a model while it runs."""
    modules: list[nn.Module] = list(model.modules())
    return {
        "hooks": [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in modules],
        "attributes": [sorted(m.__dict__) for m in modules],
        "configuration": copy.deepcopy(model.config.to_dict()),
        "attention": implementation_of(model.get_decoder()),
    }


def _quartiles(found: tuple[float, float, float]) -> str:
    return f"{found[0]:.3f} ({found[1]:.3f}–{found[2]:.3f})"
