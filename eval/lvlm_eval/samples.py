"""Records that hold a text deeper inside: chat transcripts, and lmms-eval's logs.

A log (`--log_samples`) numbers its rows by `doc_id`, the place in the data set, which tells no
photo and no question. The ids are in what the task gave to its figures (`pope_accuracy` ...).
"""

from __future__ import annotations

from typing import Any, cast

__all__ = ["unwrapped"]

IDS = ("image_id", "question_id")
MODELS, USERS = ("assistant", "gpt", "model"), ("user", "human")


def unwrapped(record: dict[str, Any]) -> dict[str, Any]:
    """A row of such a log, or a transcript, as `prediction`, `question` and its ids; other records
    as they are, and rows of which no figure kept an id.
    """
    for key in ("messages", "conversations", "conversation"):
        if isinstance(record.get(key), list) and record.keys().isdisjoint(("prediction", "label")):
            said = _last(record[key], MODELS)
            rest = {name: value for name, value in record.items() if name != key}
            if said is not None:
                return rest | {"prediction": said, "question": _last(record[key], USERS)}
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


def _last(turns: list[Any], roles: tuple[str, ...]) -> str | None:
    """The text of the last turn of one of these roles, of OpenAI's or LLaVA's kind."""
    for turn in reversed(turns):
        if not isinstance(turn, dict):
            return None
        turn = cast(dict[str, Any], turn)
        if turn.get("role", turn.get("from")) in roles:
            said = turn.get("content", turn.get("value"))
            if isinstance(said, list):
                parts = cast(list[Any], said)
                texts = [part.get("text") for part in parts if isinstance(part, dict)]
                said = "".join(text for text in texts if isinstance(text, str))
            return said if isinstance(said, str) else None
    return None
