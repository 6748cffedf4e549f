"""A tool's arguments as a policy may look at them: the declared scalars, and nothing else.

Runs in the gateway, unprivileged, on strangers' bytes. Only text, whole numbers of 64 bits and true or false ever
reach the policy engine, whose own JSON would take {"__entity": ...} for somebody. What cannot be shown to it as it
was declared is refused, if a policy looks at it: else whoever calls could choose what is looked at.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import NamedTuple

# JSON Schema's type: the record in which a policy finds it
_KINDS = {"string": "text", "integer": "numbers", "number": "numbers", "boolean": "flags"}
_HINTS = {"readOnly": False, "destructive": True, "idempotent": False, "openWorld": True}
_ITSELF = {"readOnly": True, "destructive": False, "idempotent": True, "openWorld": False}
Scalar = str | int | bool
Used = Iterable[tuple[str, str]]


class Unfit(Exception):
    """Arguments that no policy can judge; why."""


class Item(NamedTuple):
    """A tool, prompt or resource; `declared` is the record of each argument, and whether it may be null."""

    kind: str
    name: str
    declared: dict[str, tuple[str, bool]]
    hints: dict[str, bool]


def item(kind: str, name: str, written: object) -> Item:
    """From its entry in a list, parsed. The hints are the specification's defaults where there are none."""
    table = written if isinstance(written, dict) else {}
    if kind == "prompts":
        listed = table.get("arguments")
        names = [each.get("name") for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
        return Item(kind, name, {each: ("text", False) for each in names if isinstance(each, str)}, _ITSELF)
    if kind != "tools":
        return Item(kind, name, {}, _ITSELF)
    said = table.get("annotations")
    said = said if isinstance(said, dict) else {}
    # what is no truth value is the worse of the two
    hints = {hint: said.get(f"{hint}Hint", default) is not False for hint, default in _HINTS.items() if default}
    hints |= {hint: said.get(f"{hint}Hint") is True for hint, default in _HINTS.items() if not default}
    schema = table.get("inputSchema")
    properties = schema.get("properties") if isinstance(schema, dict) else None
    return Item(kind, name, _declared(properties if isinstance(properties, dict) else {}), hints)


def _declared(properties: dict[str, object]) -> dict[str, tuple[str, bool]]:
    """What is no scalar is declared as record ""."""
    return {name: _kind(each) for name, each in properties.items()}


def _kind(schema: object) -> tuple[str, bool]:
    if not isinstance(schema, dict):
        return "", False
    written = schema.get("type")
    types = list(written) if isinstance(written, list) else [written]
    for each in schema.get("anyOf") or schema.get("oneOf") or () if written is None else ():
        types.append(each.get("type") if isinstance(each, dict) else "")
    types = [each for each in types if each is not None]
    null = "null" in types
    records = {_KINDS.get(each, "") if isinstance(each, str) else "" for each in types if each != "null"}
    return (records.pop() if len(records) == 1 else ""), null


def project(raw: bytes, known: Item, used: Used) -> dict[str, dict[str, Scalar]]:
    """The arguments that policies look at, by record; Unfit for what cannot be shown to them."""
    found: dict[str, dict[str, Scalar]] = {"text": {}, "numbers": {}, "flags": {}}
    names = {name for _, name in used}
    if not names:
        return found
    given = _object(raw)
    folded = {name.casefold() for name in names}
    for key in given:
        if key not in names and key not in known.declared and key.casefold() in folded:
            raise Unfit(f'argument "{key[:80]}" differs in case only from one that a policy looks at')
    for name in sorted(names & given.keys()):
        _put(found, name, given[name], known)
    return found


def _put(found: dict[str, dict[str, Scalar]], name: str, value: object, known: Item) -> None:
    record, null = known.declared.get(name, ("", False))
    if not record:
        raise Unfit(
            f'a policy looks at argument "{name[:80]}", which is not declared as text, number or true/false'
        )
    if value is None and null:
        return
    right = {
        "text": isinstance(value, str),
        "numbers": isinstance(value, int) and not isinstance(value, bool) and -(1 << 63) <= value < 1 << 63,
        "flags": isinstance(value, bool),
    }
    if not right[record] or not isinstance(value, str | int):
        raise Unfit(f'argument "{name[:80]}" is not {_WORDS[record]}, as which it is declared')
    if isinstance(value, str) and not _is_text(value):
        raise Unfit(f'argument "{name[:80]}" holds half a character')
    found[record][name] = value


_WORDS = {"text": "text", "numbers": "a whole number of 64 bits", "flags": "true or false"}


def _is_text(value: str) -> bool:
    return not any("\ud800" <= each <= "\udfff" for each in value)


def _object(raw: bytes) -> dict[str, object]:
    """Every member of every object once: some readers take the first of two."""
    try:
        value = json.loads(raw, object_pairs_hook=_once)
    except (ValueError, RecursionError):
        raise Unfit("the arguments cannot be read") from None
    if not isinstance(value, dict):
        raise Unfit("the arguments are no object")
    return value


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise Unfit("an argument is there twice")
    return table
