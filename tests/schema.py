"""The JSON documents of the commands, held to the schemas in `docs/json.schema.json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SCHEMAS: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "docs" / "json.schema.json").read_text()
)["$defs"]
KINDS: dict[str, type | tuple[type, ...]] = {
    "object": dict, "array": list, "string": str, "integer": int, "number": (int, float),
    "boolean": bool, "null": type(None),
}  # fmt: skip
WORDS = {
    "$ref", "type", "properties", "required", "additionalProperties", "items", "anyOf", "enum",
    "description", "minItems", "maxItems",
}  # fmt: skip


def held(words: Sequence[object], out: str) -> None:
    """Fail where what a command printed is not what its schema says."""
    named = [str(word) for word in words]
    name = max(
        (name for name in SCHEMAS if named[: len(name.split())] == name.split()),
        key=len,
        default="",
    )
    assert name, f"{' '.join(named)}: no schema"
    fault = wrong(json.loads(out), SCHEMAS[name])
    assert not fault, f"{name}: {fault}"


def wrong(value: Any, schema: dict[str, Any], at: str = "$") -> str:
    """What is wrong with a value, and where; empty where nothing is."""
    assert schema.keys() <= WORDS, schema.keys() - WORDS
    if "$ref" in schema:
        return wrong(value, SCHEMAS[schema["$ref"].removeprefix("#/$defs/")], at)
    if "anyOf" in schema:
        faults = [wrong(value, one, at) for one in schema["anyOf"]]
        return "" if not all(faults) else "; ".join(faults)
    if "enum" in schema and value not in schema["enum"]:
        return f"{at} is {value!r}"
    if "type" in schema and not any(_is(value, kind) for kind in _list(schema["type"])):
        return f"{at} is a {type(value).__name__}, not {schema['type']}"
    if isinstance(value, dict):
        return _of_object(value, schema, at)
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            return f"{at} has {len(value)} entries"
        inner = schema.get("items", {})
        return next(
            (f for n, one in enumerate(value) if (f := wrong(one, inner, f"{at}[{n}]"))), ""
        )
    return ""


def _of_object(value: dict[str, Any], schema: dict[str, Any], at: str) -> str:
    if missing := [name for name in schema.get("required", []) if name not in value]:
        return f"{at} lacks {missing[0]!r}"
    known, rest = schema.get("properties", {}), schema.get("additionalProperties", True)
    for name, one in value.items():
        if name not in known and rest is False:
            return f"{at} has {name!r}, which no schema names"
        inner = known.get(name, rest if isinstance(rest, dict) else {})
        if fault := wrong(one, inner, f"{at}.{name}"):
            return fault
    return ""


def _is(value: Any, kind: str) -> bool:
    return isinstance(value, KINDS[kind]) and (kind == "boolean" or not isinstance(value, bool))


def _list(kinds: str | list[str]) -> list[str]:
    return [kinds] if isinstance(kinds, str) else kinds
