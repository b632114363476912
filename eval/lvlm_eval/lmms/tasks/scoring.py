"""The figures of lvlm_chair and lvlm_pope: those of this library's own scorers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lvlm_eval import pope
from lvlm_eval.chair.score import columns, figures, judge
from lvlm_eval.stats import Array

CHAIR = ("chair_i", "chair_s", "recall", "precision", "f1", "length")
POPE = ("accuracy", "precision", "recall", "f1", "yes_ratio", "unreadable")


def picture(doc: Mapping[str, Any]) -> list[Any]:
    """The photo of a row."""
    return [doc["image"].convert("RGB")]


def describe(_: Mapping[str, Any], lmms_eval_specific_kwargs: Mapping[str, str]) -> str:
    """What a caption answers."""
    return lmms_eval_specific_kwargs["prompt"]


def question(doc: Mapping[str, Any], lmms_eval_specific_kwargs: Mapping[str, str]) -> str:
    """A question of POPE."""
    return doc["question"] + lmms_eval_specific_kwargs.get("post_prompt", "")


def caption_row(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """A caption and the objects in its photo, for every figure."""
    row = {"image_id": doc["image_id"], "caption": results[0].strip(), "objects": doc["objects"]}
    return dict.fromkeys(CHAIR, row)


def answer_row(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """An answer and its question, for every figure."""
    label = doc["answer"].strip().lower()
    row = {"photo": doc["image_source"], "label": label, "answer": results[0].strip()}
    row["question_id"] = doc["question_id"]
    return dict.fromkeys(POPE, row)


def _chair(name: str) -> Callable[[Sequence[Mapping[str, Any]]], float]:
    def figure(rows: Sequence[Mapping[str, Any]]) -> float:
        captions = {row["image_id"]: row["caption"] for row in rows}
        truth = {row["image_id"]: frozenset(row["objects"]) for row in rows}
        return _one(name, columns(judge(captions, truth)), figures)

    return figure


def _pope(name: str) -> Callable[[Sequence[Mapping[str, Any]]], float]:
    def figure(rows: Sequence[Mapping[str, Any]]) -> float:
        asked = {n: pope.Question(n, row["photo"], "", row["label"]) for n, row in enumerate(rows)}
        answers = {n: row["answer"] for n, row in enumerate(rows)}
        return _one(name, pope.columns(asked, answers), pope.figures)

    return figure


def _one(name: str, rows: Array, of: Callable[[Array], dict[str, Array]]) -> float:
    return float(of(rows.sum(axis=0))[name])


chair_i, chair_s, chair_recall, chair_precision, chair_f1, chair_length = map(_chair, CHAIR)
accuracy, precision, recall, f1, yes_ratio, unreadable = map(_pope, POPE)
