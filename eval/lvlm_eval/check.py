"""What a file is, what was understood of it, and what is odd: before hours are spent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from lvlm_eval import pope
from lvlm_eval.coco import Truth, photos_in, read_truth, truth_of
from lvlm_eval.ended import cut_in, is_cut
from lvlm_eval.names import known
from lvlm_eval.other_truth import IDS, OBJECTS, voc_files
from lvlm_eval.records import by_id, read, read_json
from lvlm_fix.errors import DataError, ImageError
from lvlm_fix.images import SUFFIXES, open_image
from lvlm_fix.objects.extract import nodes

__all__ = ["CAPTIONS", "CAPTION_IDS", "check"]

CAPTION_IDS = ("image_id", "image", "file_name", "filename", "question_id", "id")
CAPTIONS = ("prediction", "response", "caption", "text", "answer")
"""Where a model's text is: a `caption` or an `answer` beside a `prediction` is what is right."""
FEW = 5  # examples that are shown of what is odd
Odd = list[str]


def check(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """A row per file or folder: `file`, `kind`, `rows`, `odd`, or `error` where it is not
    understood; files given together are also checked against each other.
    """
    rows: list[dict[str, Any]] = []
    photos, truth = set[int](), Truth()
    questions: dict[int, pope.Question] = {}
    answered: list[tuple[dict[str, Any], Path]] = []
    captioned: list[tuple[dict[str, Any], Mapping[int, str]]] = []
    for path in paths:
        row: dict[str, Any] = {"file": str(path), "kind": None, "rows": 0, "odd": []}
        rows.append(row)
        try:
            kind, found = _read(path)
            cut = _cut(found, path) if kind in ("captions", "answers") else []
        except (DataError, ImageError) as error:
            row["error"] = str(error)
            continue
        row |= {"kind": kind, "rows": len(found)}
        if kind == "photos":
            photos |= set(found)
        elif kind == "truth":
            truth.update(found)
            row["odd"] += _some(
                "photos without an object", [k for k, v in found.items() if not known(v)]
            )
            row["odd"] += _some(
                "photos in which nobody looked for some objects",
                [k for k, v in found.items() if known(v) != v],
            )
        elif kind == "questions":
            questions.update(found)
            row["odd"] += _asked(found)
        elif kind == "answers":
            answered.append((row, path))
            row["odd"] += _said(found)
        elif kind == "captions":
            captioned.append((row, found))
            row["odd"] += _told(found)
        row["odd"] += cut
    for row, found in captioned:
        if truth:
            row["odd"] += _some("captions of photos without truth", found.keys() - truth.keys())
        if photos:
            row["odd"] += _some("captions without a photo", found.keys() - photos)
    for row, path in answered if questions else []:
        try:
            keys = pope.read_answers(path, questions).keys()
        except DataError as error:
            row["odd"].append(str(error))
            continue
        row["odd"] += _some("answers without a question", keys - questions.keys())
        row["odd"] += _some("questions without an answer", questions.keys() - keys)
    return rows


def _read(path: Path) -> tuple[str, Any]:
    """The kind of a file or folder, and what its reader makes of it."""
    if path.is_dir():
        if (path / "annotations").is_dir() or voc_files(path):
            return "truth", truth_of(path, None)
        found = photos_in(path)
        if not found:
            raise DataError(f"{path} holds no photos named by their ids, and no annotations")
        return "photos", found
    if path.suffix.lower() in SUFFIXES:
        return "picture", [open_image(path)]
    if _objects(path):
        return "truth", read_truth(path)
    first = (records := read(path))[0]
    texts = {"caption", "text", "answer", "question", "response", "prediction"} & first.keys()
    if not texts and first.keys() & {*OBJECTS} and first.keys() & {*IDS}:
        return "truth", read_truth(path)
    if first.keys() >= {"label", "image"} or first.keys() >= {"question", "image_source"}:
        return "questions", pope.read_questions(path)
    if {"question_id", "image_id"} <= first.keys() and "caption" not in first:  # of `eval run pope`
        return "answers", pope.read_answers(path)
    if "image_id" in first or "caption" in first or "image" in first:
        return "captions", by_id(records, CAPTION_IDS, CAPTIONS, path)
    if first.keys() & {*pope.IDS}:
        return "answers", pope.read_answers(path)
    raise DataError(
        f"{path} holds no captions, questions, answers or objects; its first record has the keys "
        f"{', '.join(map(repr, list(first)[:FEW]))}"
    )


def _objects(path: Path) -> bool:
    """Whether a file is one JSON object of number -> list, or annotations of COCO's kind."""
    try:
        whole = read_json(path)
    except DataError:  # JSON lines or a table, or a fault that the reader names
        return False
    if not isinstance(whole, dict) or not whole:
        return False
    if isinstance(whole.get("categories"), list) and "annotations" in whole:
        return True
    return all(key.isdecimal() and isinstance(value, list) for key, value in whole.items())


def _asked(questions: Mapping[int, pope.Question]) -> Odd:
    counts = Counter((one.image, one.text) for one in questions.values())
    share = sum(one.label == "yes" for one in questions.values()) / len(questions)
    odd = _some("questions asked twice", [text for (_, text), n in counts.items() if n > 1])
    return odd + ([] if 0.45 <= share <= 0.55 else [f"{share:.0%} of the labels are yes"])


def _said(answers: Mapping[int, str]) -> Odd:
    read = [pope.reading(text) for text in answers.values()]
    share = sum(says == "yes" for says, _ in read) / len(read)
    odd = _some("answers that hold no yes or no",
                [k for k, (_, plain) in zip(answers, read, strict=True) if not plain])  # fmt: skip
    if misread := pope.doubtful(answers.values()):
        odd.append(f"{misread} answers that the published rule reads the other way")
    return odd + ([] if 0.3 <= share <= 0.7 else [f"{share:.0%} of the answers are yes"])


def _told(captions: Mapping[int, str]) -> Odd:
    empty = [key for key, text in captions.items() if not text.strip()]
    silent = [key for key, text in captions.items() if text.strip() and not nodes(text)]
    return _some("empty captions", empty) + _some("captions that name no object", silent)


def _cut(texts: Iterable[int], path: Path) -> Odd:
    cut_in(records := read(path), path)
    cut = [key for key, record in zip(texts, records, strict=True) if is_cut(record)]
    return _some("texts cut at the token limit", cut)


def _some(what: str, found: Collection[Any]) -> Odd:
    """ "3 captions without a photo: 4, 5, 9"; nothing where there are none."""
    if not found:
        return []
    shown = ", ".join(str(one) for one in list(found)[:FEW])
    return [f"{len(found)} {what}: {shown}{', ...' if len(found) > FEW else ''}"]
