"""lmms-eval's logs (`--log_samples`): what the model said, and the id that a figure kept of it.

A log numbers its rows by `doc_id`, the place in the data set, which tells no photo and no question.
The ids are in what the task gave to its figures (`pope_accuracy`, `coco_CIDEr` ...).
"""

from __future__ import annotations

from typing import Any, cast

__all__ = ["unwrapped"]

IDS = ("image_id", "question_id")


def unwrapped(record: dict[str, Any]) -> dict[str, Any]:
    """A row of such a log as `prediction`, `question` and its ids; other records as they are, and
    rows of which no figure kept an id.
    """
    said = record.get("filtered_resps")
    if "doc_id" not in record or said is None:
        return record
    if isinstance(said, list) and len(cast(list[Any], said)) == 1:
        said = cast(list[Any], said)[0]
    found: dict[str, Any] = {}
    for kept in (record, *record.values()):
        if isinstance(kept, dict):
            kept = cast(dict[str, Any], kept)
            found = {key: kept[key] for key in IDS if key in kept} | found
    if not found:
        return record
    return found | {"prediction": said, "question": record.get("input")}
