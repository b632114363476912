"""POPE: yes/no questions about objects, their generation, the reading of answers, the figures.

Source: Li et al., "Evaluating Object Hallucination in Large Vision-Language Models" (2023), with
the authors' evaluate.py.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Literal, NamedTuple

import numpy as np

from lvlm_eval.coco import Truth, photo_id
from lvlm_eval.names import UNKNOWN, known
from lvlm_eval.records import Record, by_id, read
from lvlm_eval.stats import Array, bootstrap, none_if_nan, ratio
from lvlm_fix.errors import DataError, SettingError
from lvlm_fix.objects.vocabulary import NODES

__all__ = [
    "IDS",
    "SPLITS",
    "Question",
    "Rule",
    "answers_in",
    "columns",
    "corrected",
    "doubtful",
    "figures",
    "generate",
    "read_answers",
    "read_questions",
    "reading",
    "score",
]

Rule = Literal["published", "strict"]
"""`published`: whatever holds no "no" is a yes. `strict`: an answer is what it begins with, else
wrong.
"""
IDS = ("question_id", "id", "index")
"""What the number of a question is called."""
SPLITS = ("random", "popular", "adversarial")


class Question(NamedTuple):
    """One line of a question file; `label` is "yes" or "no"."""

    question_id: int
    image: str
    text: str
    label: str

    @property
    def image_id(self) -> int:
        """The COCO id in the photo's name."""
        return photo_id(self.image)


def read_questions(path: Path) -> dict[int, Question]:
    """Questions of one split (POPE or RePOPE; of lmms-eval's, which says `image_source`, `question`
    and `answer`), by `question_id`.

    Raises:
        DataError: a damaged line, a missing key, a label that is neither yes nor no, an id that
        comes twice.
    """
    records = read(path)
    texts = by_id(records, ("question_id", "id"), ("text", "question"), path)
    out: dict[int, Question] = {}
    for (key, text), record in zip(texts.items(), records, strict=True):
        lmms = "image_source" in record
        label = str(record.get("answer" if lmms else "label", "")).strip().lower()
        image = record.get("image_source" if lmms else "image")
        if label not in ("yes", "no") or not isinstance(image, str):
            raise DataError(
                f"{path}: question {key} needs an image and a label of yes or no, found {record}"
            )
        out[key] = Question(key, image, text, label)
    return out


def corrected(
    questions: Mapping[int, Question], corrections: Iterable[Question]
) -> tuple[dict[int, Question], frozenset[int]]:
    """The questions with the labels of corrections (RePOPE) about the same photo and text, and the
    disputed ones: those that the corrections leave out. Raises `DataError` where none is shared.
    """
    labels = {(one.image, one.text): one.label for one in corrections}
    known = {key: one for key, one in questions.items() if (one.image, one.text) in labels}
    if not known:
        raise DataError("the corrections share no photo and text with the questions")
    out = {key: one._replace(label=labels[one.image, one.text]) for key, one in known.items()}
    return out, frozenset(questions.keys() - known.keys())


def read_answers(path: Path, questions: Mapping[int, Question] | None = None) -> dict[int, str]:
    """The answers of a file, as `answers_in` takes them. Raises `DataError`."""
    return answers_in(read(path), path, questions)


def answers_in(
    records: Sequence[Record], path: Path, questions: Mapping[int, Question] | None = None
) -> dict[int, str]:
    """Answers by `question_id`, `id` or `index`, under `prediction` or `response` (an `answer`
    beside these is what is right, and is not read), `answer` or `text`.

    Where an answer carries its question (`question`, `prompt`, or `text` beside `answer`), it must
    be the one that `questions` has under its number. Raises `DataError`.
    """
    answers = by_id(records, IDS, ("prediction", "response", "answer", "text"), path)
    for (key, _), record in zip(answers.items(), records, strict=True):
        labelled = record.keys() >= {"image", "label", "text"} or "image_source" in record
        if labelled and record.keys().isdisjoint(("prediction", "response")):
            raise DataError(
                f"{path}: record {key} is a question and what is right, not what a model said;"
                " answers are under 'prediction', 'response', 'answer' or 'text'"
            )
        asked = record.get("question", record.get("prompt"))
        if asked is None and "answer" in record:
            asked = record.get("text")
        question = (questions or {}).get(key)
        if question is not None and isinstance(asked, str) and question.text not in asked:
            raise DataError(
                f"{path}: answer {key} is to {asked[:60]!r}, but question {key} is "
                f"{question.text!r}: the numbers do not belong together"
            )
    return answers


def doubtful(answers: Iterable[str]) -> int:
    """How many answers begin with a yes or no that the published rule reads the other way, as it
    does with `NO` and `**No**`.
    """
    read = [(reading(text)[0], *reading(text, "strict")) for text in answers]
    return sum(plain and says != strict for says, strict, plain in read)


def reading(answer: str, rule: Rule = "published") -> tuple[Literal["yes", "no"], bool]:
    """What an answer says, and whether it could be read at all.

    The authors take the first sentence, drop commas, and look for "No", "not" or "no" among the
    words; everything else is a yes. An answer is readable if its first sentence holds yes, no or
    not; by the strict rule, if it begins so.
    """
    sentence = answer.split(".")[0].replace(",", "")
    words = sentence.split(" ")
    if rule == "published":
        lower = re.findall(r"[a-z]+", sentence.lower())
        says = "no" if {"No", "not", "no"}.intersection(words) else "yes"
        return says, bool({"yes", "no", "not"}.intersection(lower))
    match = re.match(r"\W*(yes|no)\b", answer, re.IGNORECASE)
    return ("no" if match and match[1].lower() == "no" else "yes"), match is not None


def generate(
    truth: Truth, ids: Iterable[int], split: str, *, seed: int = 0, per_photo: int = 3
) -> list[Record]:
    """As many yes as no questions for every photo with objects: up to `per_photo` of each.

    Absent objects are drawn at random, or are the most frequent of the photos (popular), or those
    that most often come with the objects present (adversarial). Frequencies are counted over
    `truth`, ties in the order of COCO.

    Raises:
        SettingError: no such split, or per_photo < 1. DataError: no photo has objects.
    """
    if split not in SPLITS:
        raise SettingError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    if per_photo < 1:
        raise SettingError(f"per-photo must be >= 1, got {per_photo}")
    rng = Random(f"{seed} {split}")
    seen = {key: known(names) for key, names in truth.items()}
    frequent = Counter(name for names in seen.values() for name in names)
    together = {name: Counter[str]() for name in NODES}
    for names in seen.values():
        for name in names:
            together[name].update(names)
    records: list[Record] = []
    for image_id in sorted(ids):
        if image_id not in truth:
            raise DataError(
                f"the objects of photo {image_id} are unknown; give the truth file for these photos"
            )
        present = [name for name in NODES if name in truth[image_id]]
        absent = [name for name in NODES if truth[image_id].isdisjoint((name, f"{UNKNOWN}{name}"))]
        count = min(per_photo, len(present), len(absent))
        asked = Random(f"{seed} {image_id}").sample(present, count)
        if split == "random":
            missing = rng.sample(absent, count)
        else:
            weight: Counter[str] = (
                frequent if split == "popular" else sum((together[n] for n in present), Counter())
            )
            missing = sorted(absent, key=lambda name: -weight[name])[:count]
        for yes, no in zip(asked, missing, strict=True):
            for name, label in ((yes, "yes"), (no, "no")):
                article = "an" if name[0] in "aeiou" else "a"
                text = f"Is there {article} {name} in the image?"
                number = len(records) + 1
                records.append(
                    {
                        "question_id": number,
                        "image": f"{image_id:012d}.jpg",
                        "text": text,
                        "label": label,
                    }
                )
    if not records:
        raise DataError("no photo has objects to ask about")
    return records


def columns(
    questions: Mapping[int, Question], answers: Mapping[int, str], rule: Rule = "published"
) -> Array:
    """One row per photo (answers about one photo are not independent), counts that `figures` sums.

    Questions without an answer are left out.

    Raises:
        DataError: an answer to no question, or no answers.
    """
    if unknown := [key for key in answers if key not in questions]:
        raise DataError(
            f"{len(unknown)} of {len(answers)} answers have no question (first: question_id"
            f" {unknown[0]})"
        )
    rows: dict[str, Array] = {}
    for key, answer in answers.items():
        question = questions[key]
        says, readable = reading(answer, rule)
        right = says == question.label and (readable or rule == "published")
        kind = (1 if right else 4) if question.label == "yes" else (3 if right else 2)
        row = rows.setdefault(question.image, np.zeros(7))
        row[[0, kind]] += 1
        row[5] += says == "yes" and (readable or rule == "published")
        row[6] += not readable
    return np.stack(list(rows.values())) if rows else np.zeros((0, 7))


def figures(sums: Array) -> dict[str, Array]:
    """The figures from sums of `columns`; the last axis holds n, tp, fp, tn, fn, yes,
    unreadable.
    """
    n, tp, fp, tn, fn, yes, unreadable = np.moveaxis(sums, -1, 0)
    return {
        "accuracy": ratio(tp + tn, n),
        "precision": ratio(tp, tp + fp),
        "recall": ratio(tp, tp + fn),
        "f1": ratio(2 * tp, 2 * tp + fp + fn),
        "yes_ratio": ratio(yes, n),
        "unreadable": ratio(unreadable, n),
    }


def score(rows: Array, seed: int = 0) -> dict[str, object]:
    """The figures as fractions with n, the confusion counts and 95 % intervals; `unreadable` is a
    count.
    """
    values, intervals = bootstrap(rows, figures, seed=seed)
    n, tp, fp, tn, fn, _, unreadable = (int(total) for total in rows.sum(axis=0))
    out: dict[str, object] = {
        "n": n,
        **{name: none_if_nan(value) for name, value in values.items()},
    }
    ci = {name: [none_if_nan(end) for end in ends] for name, ends in intervals.items()}
    ci["unreadable"] = [None if end is None else end * n for end in ci["unreadable"]]
    return out | {"unreadable": unreadable, "tp": tp, "fp": fp, "tn": tn, "fn": fn, "ci": ci}
