"""Runs: every sample under every method, written as it goes, resumable after a kill at any moment.

A run folder holds `run.json` (what was asked, of what, with which versions), `<method>.jsonl` for captions or
`<method>.<split>.jsonl` for answers, the questions as `questions.<split>.jsonl`, and `parts/` while it lasts.

The batch is the unit of work. Batches are cut once from the ordered samples, so a text never depends on what was done
before, nor on how many processes share the work; process r of w takes batches r, r + w, ...
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import Progress

from lvlm_eval.records import Record, append, dumps, finished, read_json, write, write_json
from lvlm_fix.errors import DataError, SettingError

__all__ = ["Answer", "Answerer", "Plan", "Task", "commit_of", "run", "stem"]

Task = Literal["chair", "pope"]
Answer = Callable[[Sequence[Path], Sequence[str]], list[str]]
"""Photos and prompts of one batch -> texts."""
Answerer = Callable[[str], AbstractContextManager[Answer]]
"""Method as on the command line -> its `Answer`, while the block lasts."""

_SAME = ("task", "model", "model_revision", "settings", "prompt", "seed", "batch_size", "max_new_tokens", "samples")


@dataclass(frozen=True)
class Plan:
    """What a run does. Samples by split ("" for captions); each has `image_id`, for answers also its question."""

    task: Task
    model: str
    methods: tuple[str, ...]
    samples: Mapping[str, Sequence[Record]]
    photos: Mapping[int, Path] = field(repr=False)
    truth: Mapping[int, frozenset[str]] = field(repr=False)
    prompt: str = ""
    settings: Mapping[str, str] = field(default_factory=dict[str, str])
    batch_size: int = 8
    max_new_tokens: int = 128
    seed: int = 0
    model_revision: str | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name.replace('_', '-')} must be >= 1, got {getattr(self, name)}")
        if not self.methods or len({stem(method) for method in self.methods}) != len(self.methods):
            raise SettingError(f"name each method once, and at least one; got {', '.join(self.methods) or 'none'}")
        if not any(self.samples.values()):
            raise DataError("nothing to run: no samples")
        ids = self.image_ids()
        if missing := [key for key in ids if key not in self.photos]:
            raise DataError(f"{len(missing)} of {len(ids)} photos are missing (first: {missing[0]:012d}.jpg)")

    def image_ids(self) -> list[int]:
        """The photos of the run, sorted."""
        return sorted({record["image_id"] for records in self.samples.values() for record in records})

    def units(self) -> Iterator[tuple[str, str, list[list[Record]]]]:
        """(method, split, batches) for every file the run writes."""
        for method in self.methods:
            for split, records in self.samples.items():
                yield (
                    method,
                    split,
                    [list(records[i : i + self.batch_size]) for i in range(0, len(records), self.batch_size)],
                )

    def describe(self) -> Record:
        """What `run.json` records."""
        return {
            "task": self.task,
            "model": self.model,
            "model_revision": self.model_revision,
            "methods": list(self.methods),
            "settings": dict(self.settings),
            "prompt": self.prompt,
            "batch_size": self.batch_size,
            "max_new_tokens": self.max_new_tokens,
            "seed": self.seed,
            "samples": {split: len(records) for split, records in self.samples.items()},
            "image_ids": self.image_ids(),
            "photos": {str(key): str(self.photos[key]) for key in self.image_ids()},
            "objects": {str(key): sorted(self.truth[key]) for key in self.image_ids() if key in self.truth},
            "command": " ".join(["lvlm-fix", *sys.argv[1:]]),
            "commit": commit_of(),
            "versions": _versions(),
        }


def run(
    plan: Plan, answerer: Answerer, out: Path, *, rank: int = 0, world: int = 1, wait: Callable[[], None] | None = None
) -> None:
    """Do what is left of a plan in folder `out`; the finished files equal those of an uninterrupted run.

    Args:
        rank, world: this process and how many share the work; they must share `out`.
        wait: returns once every process has called it.

    Raises:
        DataError: `out` holds another run. Whatever the model or a photo raises; what is done stays.
    """
    wait = wait or _alone
    if rank == 0:
        _begin(plan, out)
    wait()
    parts = out / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    units = [
        (method, split, batches) for method, split, batches in plan.units() if not (out / _file(method, split)).exists()
    ]
    total = sum(len(batch) for _, _, batches in units for batch in batches[rank::world])
    with Progress(console=Console(stderr=True), transient=True, disable=rank != 0) as progress:
        bar = progress.add_task("", total=total)
        for method, split, batches in units:
            progress.update(bar, description=f"{method} {split}".strip())
            own = parts / f"{_file(method, split)}.{rank}"
            done = _done(parts, method, split)
            write(own, finished(own))  # a torn line goes before anything is added behind it
            left = [batch for batch in batches[rank::world] if not all(key_of(record) in done for record in batch)]
            progress.advance(bar, sum(map(len, batches[rank::world])) - sum(map(len, left)))
            if not left:
                continue
            with answerer(method) as answer:
                for batch in left:
                    prompts = [record.get("question", plan.prompt) for record in batch]
                    texts = answer([plan.photos[record["image_id"]] for record in batch], prompts)
                    append(own, [_result(record, text) for record, text in zip(batch, texts, strict=True)])
                    progress.advance(bar, len(batch))
    wait()
    if rank == 0:
        for method, split, batches in units:
            done = _done(parts, method, split)
            write(out / _file(method, split), [done[key_of(record)] for batch in batches for record in batch])
        shutil.rmtree(parts)
    wait()


def stem(method: str) -> str:
    """A method as a file name: "random-heads:seed=3" -> "random-heads-seed-3"."""
    return "".join(letter if letter.isalnum() or letter in "+-_." else "-" for letter in method)


def key_of(record: Record) -> int:
    """What tells the samples of one file apart."""
    return int(record.get("question_id", record["image_id"]))


def _begin(plan: Plan, out: Path) -> None:
    path = out / "run.json"
    new = plan.describe()
    if path.exists():
        old: Record = read_json(path)
        different = [key for key in (*_SAME, "image_ids") if old.get(key) != new[key]]
        if different:
            key = different[0]
            raise DataError(
                f"{out} holds another run: {key} was {dumps({key: old.get(key)})[:80]}, now "
                f"{dumps({key: new[key]})[:80]}; choose another --out"
            )
        methods = [*old["methods"], *(method for method in plan.methods if method not in old["methods"])]
        if methods == old["methods"]:
            return
        new = old | {"methods": methods}
    for split, records in plan.samples.items():
        if plan.task == "pope":
            write(out / f"questions.{split}.jsonl", map(_as_question, records))
    write_json(path, new)


def _result(record: Record, text: str) -> Record:
    if "question" in record:
        return {"question_id": record["question_id"], "image_id": record["image_id"], "text": text}
    return {"image_id": record["image_id"], "caption": text}


def _as_question(record: Record) -> Record:
    return {key: record[key] for key in ("question_id", "image")} | {
        "text": record["question"],
        "label": record["label"],
    }


def _file(method: str, split: str) -> str:
    return f"{stem(method)}.{split}.jsonl" if split else f"{stem(method)}.jsonl"


def _done(parts: Path, method: str, split: str) -> dict[int, Record]:
    files = sorted(parts.glob(f"{_file(method, split)}.*"))
    return {key_of(record): record for path in files for record in finished(path)}


def _alone() -> None:
    """Nobody to wait for."""


def _versions() -> dict[str, str]:
    out = {"python": platform.python_version()}
    for name in ("lvlm-fix", "torch", "transformers", "accelerate"):
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            out[name] = "not installed as a package"
    return out


def commit_of() -> str | None:
    """The commit of the checkout this file lies in; None for an installed package."""
    try:
        found = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    return found.stdout.strip() or None
