"""Runs: every sample under every method, written as it goes, resumable after a kill at any moment.

A run folder holds `run.json` (what was asked, of what, with which versions), `<method>.jsonl` for
captions or `<method>.<split>.jsonl` for answers (each says in `ended` whether the model ended the
text, `end`, or the token limit, `limit`), the questions as `questions.<split>.jsonl`,
`left-out.jsonl` where photos are broken, and `parts/` while it lasts.

The batch is the unit of work, and is served under one method after the other, so that what they
share (photos, image features) is made once. Batches are cut once from the ordered samples, so a
text never depends on what was done before, nor on how many processes share the work; process r of w
takes batches r, r + w, ... A question that several splits ask about a photo is asked once. A
broken photo is left out of its batch; once it is mended, the whole batch is served again.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import Progress, ProgressColumn
from rich.progress import Task as Bar
from rich.text import Text

from lvlm_eval import pope
from lvlm_eval.coco import FOLDERS, Truth, choose, photos_in, read_ids, truth_of
from lvlm_eval.ended import Said, Unread
from lvlm_eval.left_out import LeftOut, is_broken, read_left_out, write_left_out
from lvlm_eval.records import Record, append, dumps, finished, read_json, write, write_json
from lvlm_fix.errors import DataError, SettingError

__all__ = ["Plan", "Serve", "Task", "Texts", "all_there", "draw", "resumable", "run", "stem"]

Task = Literal["chair", "pope"]
Texts = Callable[[str], Sequence[Said | Unread]]
"""Method as on the command line -> what is said per photo and prompt of the batch."""
Serve = Callable[[Sequence[Path], Sequence[str]], AbstractContextManager[Texts]]
"""Photos and prompts of one batch -> its `Texts`, while the block lasts."""
Batch = list[list[Record]]
"""Per photo and prompt, the samples that it answers."""

_SAME = (
    "task",
    "model",
    "model_revision",
    "settings",
    "prompt",
    "seed",
    "batch_size",
    "max_new_tokens",
    "samples",
)


@dataclass(frozen=True)
class Plan:
    """What a run does. Samples by split ("" for captions); each has `image_id`, for answers also
    its question.
    """

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
                raise SettingError(
                    f"{name.replace('_', '-')} must be >= 1, got {getattr(self, name)}"
                )
        if not self.methods or len({stem(method) for method in self.methods}) != len(self.methods):
            raise SettingError(
                f"name each method once, and at least one; got {', '.join(self.methods) or 'none'}"
            )
        if not any(self.samples.values()):
            raise DataError("nothing to run: no samples")
        ids = self.image_ids()
        all_there(ids, self.photos)

    def image_ids(self) -> list[int]:
        """The photos of the run, sorted."""
        return sorted(
            {record["image_id"] for records in self.samples.values() for record in records}
        )

    def asked(self, record: Record) -> str:
        """The prompt of a sample."""
        return record.get("question", self.prompt)

    def batches(self) -> list[Batch]:
        """The samples by photo and prompt, whole photos together where they fit into
        `batch_size`.
        """
        asks: dict[tuple[int, str], list[Record]] = {}
        for split, records in self.samples.items():
            for record in records:
                asks.setdefault((record["image_id"], self.asked(record)), []).append(
                    record | {"split": split}
                )
        batches: list[Batch] = [[]]
        for _, group in groupby(sorted(asks, key=lambda ask: ask[0]), key=lambda ask: ask[0]):
            photo = [asks[ask] for ask in group]
            if len(batches[-1]) + len(photo) > self.batch_size:
                batches.append([])
            while len(photo) > self.batch_size:
                batches[-1:] = [photo[: self.batch_size], []]
                photo = photo[self.batch_size :]
            batches[-1] += photo
        return [batch for batch in batches if batch]

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
            "objects": {
                str(key): sorted(self.truth[key]) for key in self.image_ids() if key in self.truth
            },
            "command": " ".join(["lvlm-fix", *sys.argv[1:]]),
            "commit": commit_of(),
            "versions": _versions(),
        }


class Rate(ProgressColumn):
    """Texts a second of late."""

    def render(self, task: Bar) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.2f} texts/s")


def run(
    plan: Plan,
    serve: Serve,
    out: Path,
    *,
    rank: int = 0,
    world: int = 1,
    wait: Callable[[], None] | None = None,
) -> LeftOut:
    """Do what is left of a plan in folder `out`; the finished files equal those of an uninterrupted
    run. What is left out are photos that cannot be read, in all methods of the folder.

    Args:
        rank, world: this process and how many share the work; they must share `out`.
        wait: returns once every process has called it.

    Raises:
        DataError: `out` holds another run, or no photo can be read. Whatever the model raises;
        what is done stays.
    """
    wait = wait or _alone
    if rank == 0:
        _begin(plan, out)
    wait()
    parts = out / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    broken = {key: why for key, why in read_left_out(out).items() if is_broken(plan.photos[key])}
    done = {method: _done(plan, out, method, broken) for method in plan.methods}
    left = [method for method in plan.methods if not _whole(plan, out, method, done[method])]
    own = {method: parts / f"{stem(method)}.{rank}.jsonl" for method in left}
    for path in own.values():
        write(path, finished(path))  # a torn line goes before anything is added behind it
    batches = plan.batches()[rank::world]
    columns = (*Progress.get_default_columns(), Rate())  # the default ones tell the time left
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=rank != 0) as progress:
        bar = progress.add_task("", total=len(left) * sum(map(len, batches)))
        for batch in batches:
            missing = [
                method
                for method in left
                if any(_key(r) not in done[method] for ask in batch for r in ask)
            ]
            progress.advance(bar, len(batch) * (len(left) - len(missing)))
            if not missing:
                continue
            photos = [plan.photos[ask[0]["image_id"]] for ask in batch]
            with serve(photos, [plan.asked(ask[0]) for ask in batch]) as texts:
                for method in missing:
                    progress.update(bar, description=method)
                    answered = zip(batch, texts(method), strict=True)
                    append(
                        own[method],
                        [_result(record, said) for ask, said in answered for record in ask],
                    )
                    progress.advance(bar, len(batch))
    wait()
    if rank == 0:
        _finish(plan, out, left)
    wait()
    return read_left_out(out)


@contextmanager
def resumable(out: Path) -> Generator[None]:
    """Ctrl-C within the block ends the process with status 130, and with how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        print(
            f"lvlm-fix: stopped; what is done stays in {out}; give the same command again to"
            " resume",
            file=sys.stderr,
        )
        raise SystemExit(130) from None


def all_there(ids: Collection[int], photos: Collection[int]) -> None:
    """Raise `DataError` where a photo is missing."""
    if missing := [key for key in ids if key not in photos]:
        raise DataError(
            f"{len(missing)} of {len(ids)} photos are missing (first: {missing[0]:012d}.jpg); see"
            " --images"
        )


def draw(
    task: str,
    data: Path,
    images: Path | None,
    truth: Path | None,
    questions: Sequence[Path],
    ids: str | None,
    split: str | None,
    limit: int | None,
    seed: int,
    synonyms: Path | None = None,
) -> tuple[dict[str, list[Record]], dict[int, Path], Truth]:
    """The samples of a run by split, all photos there are, and the objects in them, as `eval run`
    describes them.

    Raises:
        DataError: photos, objects, questions or ids are missing or damaged.
    """
    folder = images or next((data / name for name in FOLDERS if (data / name).is_dir()), data)
    photos = photos_in(folder)
    listed = f"{data / 'splits.json'}:{split}" if split else ids
    wanted = read_ids(listed) if listed else None
    needed = task == "chair" or not questions or truth
    known = truth_of(data, truth, synonyms=synonyms) if needed else {}
    samples: dict[str, list[Record]] = {}
    for name, path in _splits(questions).items():
        asked = pope.read_questions(path)
        chosen = set(choose(wanted or {item.image_id for item in asked.values()}, limit, seed))
        samples[name] = [_sample(item) for item in asked.values() if item.image_id in chosen]
    if questions:
        return samples, photos, known
    chosen = choose(wanted or set(known) & set(photos), limit, seed)
    if unknown := [key for key in chosen if key not in known]:
        raise DataError(
            f"the objects of {len(unknown)} photos are unknown (first: {unknown[0]}); see --truth"
        )
    if task == "chair":
        return {"": [{"image_id": key} for key in chosen]}, photos, known
    here = {key: known[key] for key in chosen}
    for name in pope.SPLITS:
        made = pope.generate(here, chosen, name, seed=seed)
        samples[name] = [_sample(pope.Question(**record)) for record in made]
    return samples, photos, known


def _splits(questions: Sequence[Path]) -> dict[str, Path]:
    """A name for each file of questions: its own, or with its folder's where two have one name.

    Raises `DataError` where that does not tell them apart either.
    """
    alone = len({path.stem for path in questions}) == len(questions)
    named: dict[str, Path] = {}
    for path in questions:
        name = path.stem if alone else f"{path.resolve().parent.name}-{path.stem}"
        if name in named:
            raise DataError(f"{named[name]} and {path} have the same name: rename one of them")
        named[name] = path
    return named


def stem(method: str) -> str:
    """A method as a file name: "random-heads:seed=3" -> "random-heads-seed-3"."""
    return "".join(letter if letter.isalnum() or letter in "+-_." else "-" for letter in method)


def _key(record: Record) -> tuple[str, int]:
    """What tells the samples of a run apart."""
    return record["split"], int(record.get("question_id", record["image_id"]))


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
        methods = [
            *old["methods"],
            *(method for method in plan.methods if method not in old["methods"]),
        ]
        if methods == old["methods"]:
            return
        new = old | {"methods": methods}
    for split, records in plan.samples.items():
        if plan.task == "pope":
            write(out / f"questions.{split}.jsonl", map(_as_question, records))
    write_json(path, new)


def _finish(plan: Plan, out: Path, left: Sequence[str]) -> None:
    """Write the files of the methods that were left, and the list of broken photos."""
    before = read_left_out(out)
    found = {method: _done(plan, out, method, before, again=False) for method in left}
    unread = {
        record["image_id"]: record["unread"]
        for records in found.values()
        for record in records.values()
        if "unread" in record
    }
    if len(unread) == len(plan.image_ids()):
        first = next(iter(unread.values()))
        raise DataError(f"no photo of {len(unread)} can be read (first: {first})")
    for method in read_json(out / "run.json")["methods"]:  # those of earlier commands, too
        if method not in left:
            there = set(map(_key, _in_files(plan, out, method)))
            absent = {key[2] for key in _keys(plan) if key[:2] not in there}
            unread |= {key: why for key, why in before.items() if key in absent}
    write_left_out(out, unread)
    for method, records in found.items():
        for split, samples in plan.samples.items():
            lines = (records[_key(sample | {"split": split})] for sample in samples)
            write(
                out / _file(method, split),
                [
                    {k: v for k, v in line.items() if k != "split"}
                    for line in lines
                    if "unread" not in line
                ],
            )
    shutil.rmtree(out / "parts")


def _whole(plan: Plan, out: Path, method: str, done: Mapping[tuple[str, int], Record]) -> bool:
    """Whether nothing is left to do for a method."""
    return all((out / _file(method, split)).exists() for split in plan.samples) and all(
        key[:2] in done for key in _keys(plan)
    )


def _result(record: Record, said: Said | Unread) -> Record:
    kind = {"question_id": record["question_id"]} if "question" in record else {}
    found = {"split": record["split"], **kind, "image_id": record["image_id"]}
    if isinstance(said, Unread):
        return found | {"unread": said.why}
    found |= {"text" if kind else "caption": said.text, "ended": said.ended}
    return found if said.log_odds is None else found | {"log_odds": said.log_odds}


def _sample(question: pope.Question) -> Record:
    return {
        "question_id": question.question_id,
        "image_id": question.image_id,
        "image": question.image,
        "question": question.text,
        "label": question.label,
    }


def _as_question(record: Record) -> Record:
    return {key: record[key] for key in ("question_id", "image")} | {
        "text": record["question"],
        "label": record["label"],
    }


def _file(method: str, split: str) -> str:
    return f"{stem(method)}.{split}.jsonl" if split else f"{stem(method)}.jsonl"


def _done(
    plan: Plan, out: Path, method: str, broken: LeftOut, *, again: bool = True
) -> dict[tuple[str, int], Record]:
    """What is there of a method: texts, and marks (`unread`) of broken photos; `again`: not of
    those that are mended.
    """
    found = {
        _key(sample | {"split": split}): _result(sample | {"split": split}, Unread(broken[key]))
        for split, samples in plan.samples.items()
        for sample in samples
        if (key := sample["image_id"]) in broken
    }
    found |= {_key(record): record for record in _in_files(plan, out, method)}
    files = sorted((out / "parts").glob("*.jsonl"))
    for path in (path for path in files if path.name.rsplit(".", 2)[0] == stem(method)):
        for record in finished(path):
            if "unread" not in record:
                found[_key(record)] = record
            elif not again or is_broken(plan.photos[record["image_id"]]):
                found.setdefault(_key(record), record)
    return found


def _keys(plan: Plan) -> list[tuple[str, int, int]]:
    """The key of every sample, and its photo."""
    return [
        (*_key(sample | {"split": split}), sample["image_id"])
        for split, samples in plan.samples.items()
        for sample in samples
    ]


def _in_files(plan: Plan, out: Path, method: str) -> list[Record]:
    """The records of a method in its finished files."""
    return [
        record | {"split": split}
        for split in plan.samples
        for record in finished(out / _file(method, split))
    ]


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
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return None
    return found.stdout.strip() or None
