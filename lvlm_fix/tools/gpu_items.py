"""What is measured when a GPU is lent, item by item: `python -m lvlm_fix.gpucheck`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch
from transformers import CompileConfig

from lvlm_fix.attach import fix
from lvlm_fix.families import family_of
from lvlm_fix.tools.check import Case, case_of, cases, check
from lvlm_fix.tools.counting import WAITS, Counted, Waits
from lvlm_fix.tools.geometries import Subject, subject
from lvlm_fix.tools.measuring import Clock, peak_of, spread, weights_of
from lvlm_fix.tools.probing import PROBES
from lvlm_fix.tools.two_ways import apart, passes, texts

__all__ = ["FULL", "MINIATURE", "Scale", "items"]

NAMES = ("none", "vhr", "var", "var+vhr")
Left = Callable[[], float]  # seconds
Rows = Iterator[tuple[str, Any]]


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    geometry: str
    batches: tuple[int, int]
    rounds: int
    tokens: int
    checked: int  # methods on the embedded model
    copied: int  # bytes
    compiled: str  # geometry of the compiled model
    backend: str
    mode: str | None
    texts: int  # tokens of a text on both devices
    traced: tuple[str, ...]  # rows of the compiled table


FULL = Scale(
    "llava-1.5-7b", (1, 32), 5, 48, len(PROBES), 2 << 30, "llava-1.5-7b-scaled", "inductor",
    "reduce-overhead", 32, NAMES,
)  # fmt: skip
MINIATURE = Scale("smallest", (1, 2), 1, 2, 1, 16 << 20, "smallest", "eager", None, 3, NAMES[:2])


def items(scale: Scale, device: str) -> dict[str, Callable[[Left], Rows]]:
    """By name, what gives rows as they are found while there is time; most important first."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    small, large = scale.batches

    @cache
    def whole(name: str) -> Subject:
        return subject(name, dtype=dtype, device=device)

    def table(batch: int, left: Left) -> Rows:
        return _table(whole(scale.geometry), batch, scale, left)

    return {
        "bandwidth": lambda _: _bandwidth(scale.copied, device),
        f"batch {small}": lambda left: table(small, left),
        "operations": lambda left: _operations(whole(scale.geometry), left),
        "same texts": lambda left: _same_texts(scale.texts, scale.checked, device, left),
        f"batch {large}": lambda left: table(large, left),
        "compiled": lambda left: _compiled(whole(scale.compiled), scale, left),
        "check": lambda left: _check(scale.checked, device, left),
    }


def _bandwidth(size: int, device: str) -> Rows:
    """Bytes a second of a large copy, read and written."""
    one = torch.ones(size, dtype=torch.uint8, device=device)
    other, seconds = torch.empty_like(one), []
    for _ in range(6):
        _wait(device)
        start = time.perf_counter()
        other.copy_(one)
        _wait(device)
        seconds.append(time.perf_counter() - start)
    yield "bytes_per_second", 2 * size / min(seconds[1:])


def _table(measured: Subject, batch: int, scale: Scale, left: Left) -> Rows:
    """Ratios of a prefill, another question and a token, method by method in turns."""
    model, prompts = measured.model, [measured.inputs(batch, 1, n) for n in range(2)]
    yield "bytes_of_a_step", _bytes(measured, prompts[0]["input_ids"].shape[1], batch)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in NAMES}
    peaks: dict[str, float] = {}
    for name in NAMES:  # warms up
        with _acting(measured, name):
            peaks[name] = peak_of(model, lambda: texts(model, prompts[0]))
    for number in range(scale.rounds):
        start = time.perf_counter()
        for name in NAMES[number % 4 :] + NAMES[: number % 4]:
            with _acting(measured, name) as handle:
                first = _seconds(measured, prompts[0], 1)
                again, *steps = _seconds(measured, prompts[1], scale.tokens + 1)
                acted = handle is None or all(r.rows_edited > 0 for r in handle.report())
            row = {"first": first[0], "again": again, "token": statistics.median(steps)}
            found[name].append(row | {"least": min(steps), "acted": float(acted)})
        for name in NAMES:
            yield name, _row(found[name], found["none"], peaks, name, weights_of(model))
        if left() < 1.2 * (time.perf_counter() - start):
            return


def _row(
    own: list[dict[str, float]],
    plain: list[dict[str, float]],
    peaks: Mapping[str, float],
    name: str,
    weights: float,
) -> dict[str, Any]:
    ratios = {
        f"{key}_ratio": spread([a[key] / b[key] for a, b in zip(own, plain, strict=True)])
        for key in ("first", "again", "token", "least")
    }
    medians = {f"{key}_ms": 1e3 * statistics.median(r[key] for r in own) for key in plain[0]}
    medians.pop("acted_ms")
    memory = (weights + peaks[name]) / (weights + peaks["none"])
    acted = all(row["acted"] for row in own)
    return {"n": len(own), **ratios, **medians, "memory_ratio": memory, "acted": acted}


def _bytes(measured: Subject, keys: int, batch: int) -> float:
    """What one decoding step must read: weights behind the embedding, and keys and values."""
    decoder, model = measured.model.get_decoder(), measured.model
    head: Any = model.get_output_embeddings()
    weights = [p for layer in family_of(model).layers for p in layer.parameters()] + [head.weight]
    text = decoder.config
    dim = text.hidden_size // text.num_attention_heads
    cells = 2 * text.num_hidden_layers * text.num_key_value_heads * dim * keys * batch
    return float((sum(p.numel() for p in weights) + cells) * model.dtype.itemsize)


def _operations(measured: Subject, left: Left) -> Rows:
    """Operations and waits of the host, in a prompt and in a decoding step."""
    model, inputs = measured.model, measured.inputs(1, 1, 0)
    for name in NAMES:
        if left() < 2:
            return
        with _acting(measured, name):
            texts(model, inputs)
            row: dict[str, Any] = {}
            for what in (Counted, Waits) if model.device.type == "cuda" else (Counted,):
                step, prompt = what(), what()
                passes(model, inputs, None, lambda step=step: step)
                with prompt:
                    texts(model, inputs, max_new_tokens=1, min_new_tokens=1)
                if isinstance(step, Counted) and isinstance(prompt, Counted):
                    for where, counted in (("step", step.found), ("prompt", prompt.found)):
                        row[f"operations_{where}"] = counted.total()
                        row[f"may_wait_{where}"] = sum(counted[name] for name in WAITS)
                else:
                    row |= {"waits_step": step.found, "waits_prompt": prompt.found}
            yield name, row


def _same_texts(tokens: int, count: int, device: str, left: Left) -> Rows:
    """Whether the embedded model's float32 texts are those of the CPU, method by method."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    pair = [subject("tiny", dtype=torch.float32, device=place) for place in (device, "cpu")]
    for case in cases((), {})[:count]:
        if left() < 5:
            return
        found = []
        for one in pair:
            with fix(one.model, case.acting):
                inputs = one.inputs(1, 1, 0)
                out = texts(one.model, inputs, max_new_tokens=tokens, min_new_tokens=1)
            found.append((out.sequences.cpu(), out.logits[0].float().cpu()))
        (ids, first), (other, wanted) = found
        worst, _ = apart([first], [wanted])
        yield case.name, {"equal": torch.equal(ids, other), "difference": worst}


def _compiled(measured: Subject, scale: Scale, left: Left) -> Rows:
    """A static cache and a compiled decoding step, whole graphs: ratios of a token."""
    how: Any = CompileConfig(fullgraph=True, backend=scale.backend)
    how.mode, how._compile_all_devices = scale.mode, True
    plain = 0.0
    for name in scale.traced:
        if left() < 10:
            return
        torch.compiler.reset()
        with _acting(measured, name):
            options = {"cache_implementation": "static", "compile_config": how}
            start, compiling, steps = time.perf_counter(), 0.0, list[float]()
            for number in range(2 + scale.rounds):
                inputs = measured.inputs(1, 1, number % 2)
                seconds = _seconds(measured, inputs, scale.tokens + 1, **options)
                if number == 1:
                    compiling = time.perf_counter() - start
                if number > 1:
                    steps += seconds[1:]
        token = statistics.median(steps)
        plain = plain or token
        row = {"token_ms": 1e3 * token, "token_ratio": token / plain, "compiling": compiling}
        yield name, row | {"n": scale.rounds}


def _check(count: int, device: str, left: Left) -> Rows:
    """The promises of every method on the embedded model."""
    tiny = subject("tiny", dtype=torch.float32, device=device)
    chosen: list[Case] = cases((), {})[-count:]
    for case in chosen:
        if left() < 5:
            return
        yield case.name, [asdict(line) for line in check(tiny, [case], 1)]


def _acting(measured: Subject, name: str) -> Any:
    if name == "none":
        return nullcontext()
    return fix(measured.model, case_of(name, measured.settings).acting)


def _seconds(measured: Subject, inputs: dict[str, Any], tokens: int, **options: Any) -> list[float]:
    clock = Clock(measured.model)
    length = {"max_new_tokens": tokens, "min_new_tokens": tokens, "output_logits": False}
    texts(measured.model, inputs, **length, **clock.options, **options)
    return clock.seconds


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
