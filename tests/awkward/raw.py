"""JSON as the bytes that it is: the members of an object as they were written, and where in a text a value stands.

The standard library's decoder reads; nothing here ever encodes what was read. Used by the awkward server and by
those who compare what it said and got.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

DECODER = json.JSONDecoder()
BLANK = " \t\r\n"


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in BLANK:
        position += 1
    return position


def spans(text: str, start: int = 0) -> Iterator[tuple[str, int, int]]:
    """Key, begin and end of the value of each member of the object at `start`; ValueError if there is none."""
    position = _skip(text, start)
    if text[position : position + 1] != "{":
        raise ValueError(f"no object: {text[:80]!r}")
    position = _skip(text, position + 1)
    while text[position] != "}":
        key, position = DECODER.raw_decode(text, position)
        position = _skip(text, _skip(text, position) + 1)
        _, end = DECODER.raw_decode(text, position)
        yield key, position, end
        position = _skip(text, end)
        if text[position] == ",":
            position = _skip(text, position + 1)


def members(text: str) -> dict[str, str]:
    """The members of an object, each value as it was written."""
    return {key: text[begin:end] for key, begin, end in spans(text)}


def elements(text: str) -> list[str]:
    """The elements of an array, each as it was written."""
    position, found = _skip(text, 1), []
    while text[position] != "]":
        _, end = DECODER.raw_decode(text, position)
        found.append(text[position:end])
        position = _skip(text, end)
        if text[position] == ",":
            position = _skip(text, position + 1)
    return found


def find(text: str, *path: str) -> tuple[int, int] | None:
    """Where the value at a path of keys stands in the text, or None."""
    position, end = 0, len(text)
    for key in path:
        if text[_skip(text, position)] != "{":
            return None
        found = [(begin, until) for name, begin, until in spans(text, position) if name == key]
        if not found:
            return None
        position, end = found[-1]
    return position, end


def value(text: str, *path: str) -> str:
    """The value at a path as it was written, or nothing."""
    found = find(text, *path)
    return text[found[0] : found[1]] if found else ""
