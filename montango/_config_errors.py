"""Turns what pydantic says of a configuration into one sentence that a person can act on."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

Location = tuple[str | int, ...]
Schema = Mapping[str, Any]

TYPE_WORDS = {
    "number": "a number",
    "integer": "a whole number",
    "string": "a text",
    "boolean": "true or false",
    "array": "a list",
    "object": "a section of keys",
    "null": "null",
}


def explain(
    error: ValidationError,
    model: type[BaseModel],
    data: Mapping[str, Any],
    where: Callable[[Location], str],
    section: Location = (),
) -> str:
    """Return one line for the first mistake, and how many more there are.

    Unknown keys come first: a missing key is often the same typo seen from the other side. ``section`` is the
    place of ``data`` in the file.
    """
    details = sorted(error.errors(include_url=False), key=lambda item: item["type"] != "extra_forbidden")
    schema = model.model_json_schema()
    location = _without_tags(details[0]["loc"], data)
    more = len({_without_tags(item["loc"], data) for item in details}) - 1
    suffix = f" (and {more} more mistake{'s' if more > 1 else ''})" if more else ""
    return f"{where((*section, *location))}: {_sentence(details[0], location, schema, section)}{suffix}"


def _sentence(detail: ErrorDetails, location: Location, root: Schema, section: Location) -> str:
    key = ".".join(str(part) for part in (*section, *location))
    kind = detail["type"]
    if kind == "extra_forbidden":
        known = list(_properties(_descend(root, location[:-1])))
        near = _nearest(str(location[-1]), known)
        return f"{key} is not a key of Montango{near}; keys here: {', '.join(known)}"
    schema = _descend(root, location)
    if kind == "missing" and isinstance(location[-1], int):
        allowed = _allowed(_descend(root, location[:-1])[0])
        return f"{key.rpartition('.')[0]} has too few values; allowed: {allowed}"
    if kind == "missing":
        hint = schema[0].get("description") if schema else None
        return f"{key} is missing{f' ({hint})' if hint else ''}{_example(schema)}"
    value = _short(detail["input"])
    choices = [choice for branch in schema for choice in _choices(branch)]
    if choices:
        near = _nearest(str(detail["input"]), choices)
        return f"{key} = {value} is not allowed{near}; allowed: {', '.join(choices)}"
    if kind in ("value_error", "assertion_error"):
        shown = key if isinstance(detail["input"], Mapping) else f"{key} = {value}"
        message = detail["msg"].partition(", ")[2] or detail["msg"]
        return f"{shown}: {message}" if shown else message
    if kind == "string_pattern_mismatch":
        return f"{key} = {value} has the wrong form{_example(schema)}"
    allowed = " or ".join(dict.fromkeys(text for branch in schema if (text := _allowed(branch))))
    if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number"):
        return f"{key} = {value} is out of range; allowed: {allowed}"
    if allowed:
        return f"{key} = {value} is not allowed here; allowed: {allowed}{_example(schema)}"
    return f"{key} = {value}: {detail['msg']}"


def _without_tags(location: Location, data: Any) -> Location:
    """Drop the names of union members that pydantic puts between the keys of the file."""
    kept: list[str | int] = []
    for index, part in enumerate(location):
        if isinstance(data, dict):
            there = part in data
        else:
            there = isinstance(data, list) and isinstance(part, int) and part < len(data)
        absent = index == len(location) - 1 and isinstance(data, dict | list)
        if there or absent:
            kept.append(part)
        if there:
            data = data[part]
    return tuple(kept)


def _branches(root: Schema, schema: Schema) -> list[Schema]:
    """Return a schema with references followed and alternatives spread out, null last."""
    if "$ref" in schema:
        name = str(schema["$ref"]).rsplit("/", 1)[1]
        extra = {key: value for key, value in schema.items() if key != "$ref"}
        return [{**branch, **extra} for branch in _branches(root, root["$defs"][name])]
    for union in ("anyOf", "oneOf", "allOf"):
        if union in schema:
            extra = {key: value for key, value in schema.items() if key not in (union, "default")}
            spread = [{**branch, **extra} for part in schema[union] for branch in _branches(root, part)]
            return sorted(spread, key=lambda branch: branch.get("type") == "null")
    return [schema]


def _descend(root: Schema, location: Location) -> list[Schema]:
    current = _branches(root, root)
    for part in location:
        found: list[Schema] = []
        for schema in current:
            inner = None
            if isinstance(part, int):
                items = schema.get("prefixItems", [])
                inner = items[part] if part < len(items) else schema.get("items")
            else:
                inner = schema.get("properties", {}).get(part) or schema.get("additionalProperties")
            if isinstance(inner, Mapping):
                found += _branches(root, inner)
        current = found
    return current


def _properties(branches: list[Schema]) -> dict[str, Any]:
    return {name: inner for branch in branches for name, inner in branch.get("properties", {}).items()}


def _choices(schema: Schema) -> list[str]:
    return [str(schema["const"])] if "const" in schema else [str(choice) for choice in schema.get("enum", ())]


def _allowed(schema: Schema) -> str:
    kind = str(schema.get("type", ""))
    word = TYPE_WORDS.get(kind, "")
    if (
        kind == "array"
        and schema.get("minItems") is not None
        and schema.get("minItems") == schema.get("maxItems")
    ):
        word = f"a list of {schema['minItems']}"
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    lower = (
        f"at least {low:.10g}" if low is not None else f"more than {above:.10g}" if above is not None else ""
    )
    upper = (
        f"at most {high:.10g}" if high is not None else f"less than {below:.10g}" if below is not None else ""
    )
    if low is not None and high is not None:
        return f"{word} from {low:.10g} to {high:.10g}"
    return " ".join(part for part in (word, " and ".join(bound for bound in (lower, upper) if bound)) if part)


def _nearest(name: str, known: list[str]) -> str:
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; the nearest is {match[0]!r}" if match else ""


def _example(branches: list[Schema]) -> str:
    examples = [example for branch in branches for example in branch.get("examples", ())]
    return f"; for example {examples[0]}" if examples else ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
