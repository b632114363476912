"""A finished run: its figures, and every method against the unmodified model on the same photos."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lvlm_eval import chair, pope
from lvlm_eval.chair.score import Judgement, columns, cut
from lvlm_eval.ended import cut_in
from lvlm_eval.fair import distances, is_control, length_adjusted
from lvlm_eval.left_out import LeftOut, read_left_out
from lvlm_eval.records import Record, by_id, read, read_json
from lvlm_eval.run import stem
from lvlm_eval.stats import Array, Figures, corrected, none_if_nan, paired
from lvlm_eval.yes_no import aucs, odds_in
from lvlm_fix.errors import DataError
from lvlm_fix.objects.extract import Dialect

__all__ = ["BASE", "CONTROLS", "Run", "compare", "control", "drawn", "drawn_of_all", "load",
           "of_captions"]  # fmt: skip

BASE = "none"
"""The unmodified model."""
CONTROLS = {"random-heads": "vhr", "random-vector": "steer"}
"""Methods whose seeds are a control, and what each is a control for."""


@dataclass(frozen=True)
class Run:
    """The record of a finished run; captions by method, or answers by split and method."""

    folder: Path
    record: Record
    captions: Mapping[str, Mapping[int, str]]
    questions: Mapping[str, Mapping[int, pope.Question]]
    answers: Mapping[str, Mapping[str, Mapping[int, str]]]
    odds: Mapping[str, Mapping[str, list[float] | None]]
    """By split and method: log-odds of Yes against No, in the order of the questions; None: not
    recorded."""
    cut: Mapping[str, Mapping[str, int | None]]
    """By split ("" for captions) and method: texts cut at the token limit; None: not recorded."""
    left_out: LeftOut = field(default_factory=LeftOut)
    """Photos that could not be read; none of their texts counts, and `image_ids` lacks them."""

    @property
    def methods(self) -> list[str]:
        """In the order they were asked for."""
        return self.record["methods"]

    @property
    def draws(self) -> list[str]:
        """Seeds of a control, where there are several: a distribution, and no methods to be
        compared.
        """
        return drawn_of_all(self.methods)

    def judgements(self, method: str, dialect: Dialect = "published") -> list[Judgement]:
        """The captions of a method, judged."""
        return chair.judge(self.captions[method], self.truth(), dialect)

    def cut_of(self, method: str, split: str | None = None) -> int | None:
        """How many texts of a method, of a split or of all, the token limit cut; None: unknown."""
        splits = self.cut.values() if split is None else [self.cut[split]]
        counts = [counts[method] for counts in splits]
        return None if None in counts else sum(filter(None, counts))

    def odds_of(self, split: str | None = None) -> dict[str, list[float]]:
        """Log-odds of a split, or of all one after another, of the methods that recorded them."""
        parts = list(self.odds.values()) if split is None else [self.odds[split]]
        found = {method: [part[method] for part in parts] for method in self.methods}
        return {
            method: [one for odds in known for one in odds]
            for method, each in found.items()
            if len(known := [odds for odds in each if odds is not None]) == len(each)
        }

    def truth(self) -> dict[int, frozenset[str]]:
        """The objects of every photo of the run."""
        return {int(key): frozenset(names) for key, names in self.record["objects"].items()}


def drawn(methods: Iterable[str]) -> dict[str, list[str]]:
    """Of each control the seeds among some methods, where there are several."""
    names = list(methods)
    found = {one: [name for name in names if _kind(name) == one] for one in CONTROLS}
    return {one: draws for one, draws in found.items() if len(draws) > 1}


def drawn_of_all(methods: Iterable[str]) -> list[str]:
    """The seeds of all controls among some methods."""
    return [draw for draws in drawn(methods).values() for draw in draws]


def load(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        DataError: it is no run, is not finished, or a file is damaged or holds other samples than
        the run.
    """
    if not (folder / "run.json").is_file():
        raise DataError(f"{folder} is not a run folder: it has no run.json")
    record, gone = read_json(folder / "run.json"), read_left_out(folder)
    record["image_ids"] = [key for key in record["image_ids"] if key not in gone]
    captions: dict[str, dict[int, str]] = {}
    questions: dict[str, dict[int, pope.Question]] = {}
    answers: dict[str, dict[str, dict[int, str]]] = {}
    odds: dict[str, dict[str, list[float] | None]] = {}
    cut: dict[str, dict[str, int | None]] = {split: {} for split in record["samples"]}
    if record["task"] == "pope":
        for split in record["samples"]:
            asked = pope.read_questions(folder / f"questions.{split}.jsonl")
            questions[split] = {k: one for k, one in asked.items() if one.image_id not in gone}
    for method in record["methods"]:
        if record["task"] == "chair":
            path = _finished(folder / f"{stem(method)}.jsonl")
            records = [one for one in read(path) if one.get("image_id") not in gone]
            captions[method] = by_id(records, ("image_id",), ("caption",), path)
            cut[""][method] = cut_in(records, path)
            _same(path, list(captions[method]), record["image_ids"])
            continue
        for split in record["samples"]:
            path = _finished(folder / f"{stem(method)}.{split}.jsonl")
            records = [one for one in read(path) if one.get("image_id") not in gone]
            answers.setdefault(split, {})[method] = pope.answers_in(records, path)
            cut[split][method] = cut_in(records, path)
            odds.setdefault(split, {})[method] = odds_in(records)
            _same(path, list(answers[split][method]), list(questions[split]))
    return Run(folder, record, captions, questions, answers, odds, cut, gone)


def compare(
    run: Run,
    dialect: Dialect = "published",
    rule: pope.Rule = "published",
    seed: int = 0,
    *,
    fair: bool = True,
) -> dict[str, Any]:
    """Per method the figures and the differences from the unmodified model, with 95 % intervals, p
    and Holm's p.

    Captions are also compared at equal length: both texts of a photo cut to the words of the
    shorter one; if `fair`, also by a model of length and beside trivial controls of equal recall.
    Answers are compared split by split, and over all splits. `control` is a method among the seeds
    of its control.

    Raises:
        DataError: the run has no unmodified model to compare with.
    """
    if BASE not in run.methods:
        raise DataError(
            f"a comparison needs the unmodified model; run again with --method {BASE} added"
        )
    others = [method for method in run.methods if method != BASE and method not in run.draws]
    out: dict[str, Any] = {
        "task": run.record["task"], "model": run.record["model"], "base": BASE,
        "left_out": len(run.left_out),
    }  # fmt: skip
    if run.captions:
        judged = {method: run.judgements(method, dialect) for method in run.methods}
        rows = {method: columns(judgements) for method, judgements in judged.items()}
        out["methods"] = {
            method: {**chair.score(judgements, seed), "cut": run.cut_of(method)}
            for method, judgements in judged.items()
        }
        pairs = {method: (rows[method], rows[BASE]) for method in others}
        out["differences"] = _differences(pairs, chair.figures, seed)
        matched = {method: _matched(run, method, dialect) for method in others}
        out["length_matched"] = _differences(matched, chair.figures, seed)
        out["control"] = control(out["methods"])
        return out | (_fair(run, rows, dialect, seed) if fair else {})
    out["splits"] = {}
    for split, (asked, answers) in _together(run).items():
        odds = run.odds_of(split)
        counts = {method: pope.columns(asked, answers[method], rule) for method in run.methods}
        pairs = {method: (counts[method], counts[BASE]) for method in others}
        part = {
            "methods": {
                method: {**pope.score(count, seed), "cut": run.cut_of(method, split)}
                for method, count in counts.items()
            },
            "differences": _differences(pairs, pope.figures, seed),
        }
        part |= {"control": control(part["methods"])}
        if BASE in odds:
            part["auc"] = aucs(asked, odds, BASE, seed, apart=run.draws)
        out |= part if split is None else {"splits": out["splits"] | {split: part}}
    return out


def of_captions(
    files: Mapping[str, Path], truth: Mapping[int, frozenset[str]], model: str = ""
) -> Run:
    """A run of captions that are there already: method -> file; the first is the unmodified model's
    and is called so, whatever its name.

    Raises:
        DataError: a file is damaged, or holds other photos than the first.
    """
    captions: dict[str, dict[int, str]] = {}
    cut: dict[str, int | None] = {}
    for number, (name, path) in enumerate(files.items()):
        method, records = BASE if number == 0 else name, read(path)
        captions[method] = by_id(records, ("image_id",), ("caption",), path)
        cut[method] = cut_in(records, path)
    ids = sorted(captions[BASE])
    for path, found in zip(files.values(), captions.values(), strict=True):
        _same(path, sorted(found), ids)
    ordered = {name: {key: found[key] for key in ids} for name, found in captions.items()}
    objects = {str(key): sorted(truth[key]) for key in ids if key in truth}
    record = {
        "task": "chair", "model": model, "methods": list(captions), "image_ids": ids,
        "objects": objects,
    }  # fmt: skip
    return Run(Path(), record, ordered, {}, {}, {}, {"": cut})


def _fair(run: Run, rows: Mapping[str, Array], dialect: Dialect, seed: int) -> dict[str, Any]:
    """CHAIR at equal length and at equal recall, beside what trivial controls do.

    The controls are the run's own (`truncate`, `eos-boost`) and the unmodified model's captions cut
    to tenths of their words, which needs no run.
    """
    cuts = {f"cut to {tenths}0 %": _cut(run, tenths, dialect) for tenths in range(9, 0, -1)}
    plain = {name: rows[name] for name in run.methods if is_control(name)} | cuts
    asked = {name: rows[name] for name in run.methods if is_control(name, ask=True)} | cuts
    rivals = {
        name: rows[name]
        for name in run.methods
        if not is_control(name, ask=True) and name not in run.draws
    }
    compared = {name: rows[name] for name in run.methods if name not in run.draws}
    out: dict[str, Any] = {
        "length_adjusted": length_adjusted(compared, BASE),
        "controls": {name: _point(found) for name, found in plain.items()},
        "equal_recall": distances(rivals, plain, seed=seed),
    }
    if len(asked) > len(plain):
        out["controls_asked"] = {name: _point(found) for name, found in asked.items()}
        out["equal_recall_asked"] = distances(rivals, asked, seed=seed)
    return out


def _cut(run: Run, tenths: int, dialect: Dialect) -> Array:
    shorter = {
        key: cut(text, max(1, round(len(text.split()) * tenths / 10)))
        for key, text in run.captions[BASE].items()
    }
    return columns(chair.judge(shorter, run.truth(), dialect))


def _point(found: Array) -> dict[str, float | None]:
    values = chair.figures(found.sum(axis=0))
    return {name: none_if_nan(float(values[name])) for name in ("recall", "chair_i", "length")}


def control(methods: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Where VHR stands among the draws of random heads, and `steer` among those of random vectors,
    figure by figure; empty without both.

    Per method and figure: its value, the control (`of`), the draws' number, mean, least and
    greatest, how many lie below and above it, and p: were it one more draw, the chance that it
    would lie as far out, on either side (exact, by ranks).
    """
    out: dict[str, Any] = {}
    beside = [
        (method, of, draws)
        for of, draws in drawn(methods).items()
        for method in methods
        if _kind(method) == CONTROLS[of]
    ]
    for method, of, draws in beside:
        found = methods[method]
        out[method] = {}
        for name in found["ci"]:
            values = [methods[draw][name] for draw in draws if methods[draw][name] is not None]
            value = found[name]
            if value is None or not values:
                continue
            at_most, at_least = sum(v <= value for v in values), sum(v >= value for v in values)
            out[method][name] = {
                "of": of,
                "value": value,
                "draws": len(values),
                "mean": sum(values) / len(values),
                "range": [min(values), max(values)],
                "below": len(values) - at_least,
                "above": len(values) - at_most,
                "p": min(1.0, 2 * (1 + min(at_most, at_least)) / (len(values) + 1)),
            }
    return out


def _kind(method: str) -> str:
    """The name in "random-heads:seed=3"; of several methods together, all of it."""
    return method.partition(":")[0]


def _together(
    run: Run,
) -> dict[str | None, tuple[dict[int, pope.Question], dict[str, dict[int, str]]]]:
    """Questions and answers by method, of every split, and of all of them (None) under
    new numbers.
    """
    out: dict[str | None, tuple[dict[int, pope.Question], dict[str, dict[int, str]]]] = {}
    asked: dict[int, pope.Question] = {}
    given: dict[str, dict[int, str]] = {method: {} for method in run.methods}
    for split, answers in run.answers.items():
        out[split] = (
            dict(run.questions[split]),
            {method: dict(texts) for method, texts in answers.items()},
        )
        start = len(asked)
        for number, (key, question) in enumerate(run.questions[split].items(), start):
            asked[number] = question
            for method in run.methods:
                given[method][number] = answers[method][key]
    return out | {None: (asked, given)}


def _differences(
    pairs: Mapping[str, tuple[Array, Array]], figures: Figures, seed: int
) -> dict[str, Any]:
    found = {
        method: paired(ours, base, figures, seed=seed) for method, (ours, base) in pairs.items()
    }
    out: dict[str, Any] = {method: {} for method in found}
    for name in next(iter(found.values()), {}):
        changes = {method: differences[name] for method, differences in found.items()}
        for method, row in corrected(changes).items():
            out[method][name] = row
    return out


def _matched(run: Run, method: str, dialect: Dialect) -> tuple[Array, Array]:
    ours, base = run.captions[method], run.captions[BASE]
    words = {key: min(len(ours[key].split()), len(base[key].split())) for key in base}
    shorter = [{key: cut(captions[key], words[key]) for key in base} for captions in (ours, base)]
    first, second = (columns(chair.judge(captions, run.truth(), dialect)) for captions in shorter)
    return first, second


def _finished(path: Path) -> Path:
    if not path.exists():
        raise DataError(
            f"{path.parent} is not finished: {path.name} is missing; give the same command again to"
            " resume"
        )
    return path


def _same(path: Path, found: list[int], expected: list[int]) -> None:
    if found != expected:
        odd = sorted(set(found) ^ set(expected))
        raise DataError(
            f"{path} does not hold the samples of the run: {len(found)} of {len(expected)}, first"
            f" odd {odd[:1]}"
        )
