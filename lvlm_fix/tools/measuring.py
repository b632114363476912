"""What is measured of a model: where, the memory that tensors take, and the spread of figures."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel, StoppingCriteria, StoppingCriteriaList

from lvlm_fix.errors import ModelError
from lvlm_fix.private import implementation_of
from lvlm_fix.tools.geometries import Subject

__all__ = ["Clock", "machine", "peak_of", "spread", "wait_for", "weights_of"]


def machine(subject: Subject) -> dict[str, Any]:
    """Where it was measured, and of what."""
    device = subject.model.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "name": name,
        "device": device.type,
        "cores": (
            len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        ),
        "threads": torch.get_num_threads(),
        "model": subject.name,
        "random_weights": subject.processor is None,
        "parameters": sum(p.numel() for p in subject.model.parameters()),
        "dtype": str(subject.model.dtype).removeprefix("torch."),
        "attention": implementation_of(subject.model.get_decoder()),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def wait_for(model: PreTrainedModel) -> Callable[[], None]:
    """Waits for the model's device."""
    return torch.cuda.synchronize if model.device.type == "cuda" else lambda: None


class Clock(StoppingCriteria):
    """The seconds of every token of the stock `generate`, the first with the prompt; stops nothing.
    Give `generate` its `options`. What `pause` takes after a token is not counted.
    """

    def __init__(self, model: PreTrainedModel, pause: Callable[[], object] = lambda: None) -> None:
        self.model, self._wait, self._pause = model, wait_for(model), pause
        self.seconds: list[float] = []
        self.options: dict[str, Any] = {"stopping_criteria": StoppingCriteriaList([self])}
        self._wait()
        self.start()

    def start(self) -> None:
        """Count from now."""
        self._from = time.perf_counter()

    def tick(self, *_: Any) -> None:
        """A token is there."""
        self._wait()
        self.seconds.append(time.perf_counter() - self._from)
        self._pause()
        self.start()

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        self.tick()
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def weights_of(model: PreTrainedModel) -> float:
    """Bytes of the weights."""
    tensors = (*model.parameters(), *model.buffers())
    return float(sum(tensor.numel() * tensor.element_size() for tensor in tensors))


def peak_of(model: PreTrainedModel, serve: Callable[[], object]) -> float:
    """Bytes of the most that tensors took at once in a call, beyond what was there before.

    On a CPU the sum of the allocator's events (scratch inside kernels is not seen), on CUDA its own
    high-water mark. Raises `ModelError` where the profiler sees nothing.
    """
    if model.device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        serve()
        return float(torch.cuda.max_memory_allocated() - before)
    os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # it announces each start and stop
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as profile:
        serve()
    results: Any = profile.profiler
    events = [e for e in results.kineto_results.events() if e.name() == "[memory]"]
    level = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        level += event.nbytes()
        peak = max(peak, level)
    if not events:
        raise ModelError(
            "the profiler saw no allocation: this build of torch cannot measure memory on a CPU"
        )
    return float(peak)


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, first and third quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return middle, low, high


def _processor() -> str:
    """The processor's name."""
    try:
        with open("/proc/cpuinfo") as file:
            return next(
                line.split(":", 1)[1].strip() for line in file if line.startswith("model name")
            )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
