"""A finished run: its figures, and every method against the unmodified model on the same photos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lvlm_eval import chair, pope
from lvlm_eval.chair.extract import Dialect
from lvlm_eval.chair.score import Judgement, columns, cut, none_if_nan
from lvlm_eval.records import Record, by_id, read, read_json
from lvlm_eval.run import stem
from lvlm_eval.stats import Array, Figures, holm, paired
from lvlm_fix.errors import DataError

__all__ = ["BASE", "Run", "compare", "load"]

BASE = "none"
"""The unmodified model."""


@dataclass(frozen=True)
class Run:
    """The record of a finished run; captions by method, or answers by split and method."""

    folder: Path
    record: Record
    captions: Mapping[str, Mapping[int, str]]
    questions: Mapping[str, Mapping[int, pope.Question]]
    answers: Mapping[str, Mapping[str, Mapping[int, str]]]

    @property
    def methods(self) -> list[str]:
        """In the order they were asked for."""
        return self.record["methods"]

    def judgements(self, method: str, dialect: Dialect = "published") -> list[Judgement]:
        """The captions of a method, judged."""
        return chair.judge(self.captions[method], self.truth(), dialect)

    def truth(self) -> dict[int, frozenset[str]]:
        """The objects of every photo of the run."""
        return {int(key): frozenset(names) for key, names in self.record["objects"].items()}


def load(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        DataError: it is no run, is not finished, or a file is damaged or holds other samples than the run.
    """
    if not (folder / "run.json").is_file():
        raise DataError(f"{folder} is no run folder: it has no run.json")
    record = read_json(folder / "run.json")
    captions: dict[str, dict[int, str]] = {}
    questions: dict[str, dict[int, pope.Question]] = {}
    answers: dict[str, dict[str, dict[int, str]]] = {}
    for method in record["methods"]:
        if record["task"] == "chair":
            path = _finished(folder / f"{stem(method)}.jsonl")
            captions[method] = by_id(read(path), "image_id", ("caption",), path)
            _same(path, list(captions[method]), record["image_ids"])
            continue
        for split in record["samples"]:
            questions.setdefault(split, pope.read_questions(folder / f"questions.{split}.jsonl"))
            path = _finished(folder / f"{stem(method)}.{split}.jsonl")
            answers.setdefault(split, {})[method] = pope.read_answers(path)
            _same(path, list(answers[split][method]), list(questions[split]))
    return Run(folder, record, captions, questions, answers)


def compare(run: Run, dialect: Dialect = "published", rule: pope.Rule = "published", seed: int = 0) -> dict[str, Any]:
    """Per method the figures and the differences from the unmodified model, with 95 % intervals, p and Holm's p.

    Captions are also compared at equal length: both texts of a photo cut to the words of the shorter one.

    Raises:
        DataError: the run has no unmodified model to compare with.
    """
    if BASE not in run.methods:
        raise DataError(f"a comparison needs the unmodified model; run again with --method {BASE} added")
    others = [method for method in run.methods if method != BASE]
    out: dict[str, Any] = {"task": run.record["task"], "model": run.record["model"], "base": BASE}
    if run.captions:
        judged = {method: run.judgements(method, dialect) for method in run.methods}
        rows = {method: columns(judgements) for method, judgements in judged.items()}
        out["methods"] = {method: chair.score(judgements, seed) for method, judgements in judged.items()}
        pairs = {method: (rows[method], rows[BASE]) for method in others}
        out["differences"] = _differences(pairs, chair.figures, seed)
        matched = {method: _matched(run, method, dialect) for method in others}
        out["length_matched"] = _differences(matched, chair.figures, seed)
        return out
    out["splits"] = {}
    for split, answers in run.answers.items():
        counts = {method: pope.columns(run.questions[split], texts, rule) for method, texts in answers.items()}
        pairs = {method: (counts[method], counts[BASE]) for method in others}
        out["splits"][split] = {
            "methods": {method: pope.score(count, seed) for method, count in counts.items()},
            "differences": _differences(pairs, pope.figures, seed),
        }
    return out


def _differences(pairs: Mapping[str, tuple[Array, Array]], figures: Figures, seed: int) -> dict[str, Any]:
    found = {method: paired(ours, base, figures, seed=seed) for method, (ours, base) in pairs.items()}
    out: dict[str, Any] = {method: {} for method in found}
    for name in next(iter(found.values()), {}):
        corrected = holm({method: differences[name].p for method, differences in found.items()})
        for method, differences in found.items():
            difference = differences[name]
            out[method][name] = {
                "difference": none_if_nan(difference.difference),
                "ci": [none_if_nan(difference.low), none_if_nan(difference.high)],
                "p": difference.p,
                "p_holm": corrected[method],
            }
    return out


def _matched(run: Run, method: str, dialect: Dialect) -> tuple[Array, Array]:
    ours, base = run.captions[method], run.captions[BASE]
    words = {key: min(len(ours[key].split()), len(base[key].split())) for key in base}
    shorter = [{key: cut(captions[key], words[key]) for key in base} for captions in (ours, base)]
    first, second = (columns(chair.judge(captions, run.truth(), dialect)) for captions in shorter)
    return first, second


def _finished(path: Path) -> Path:
    if not path.exists():
        raise DataError(f"{path.parent} is not finished: {path.name} is missing; run the same command again to resume")
    return path


def _same(path: Path, found: list[int], expected: list[int]) -> None:
    if found != expected:
        odd = sorted(set(found) ^ set(expected))
        raise DataError(
            f"{path} does not hold the samples of the run: {len(found)} of {len(expected)}, first odd {odd[:1]}"
        )
