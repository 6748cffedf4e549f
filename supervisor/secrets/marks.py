"""Marks: how a value can be found in a text by somebody who does not know it.

Pure. The reader of secrets makes them, the gateway finds with them: it parses strangers' bytes, so it gets of each
spelling of a value the first three characters, the length, and a keyed digest. Three characters say where to look;
only the digest says that it is there. Whoever may open a session gets them with it: values that could be found by
trying, of fewer than SHORTEST characters, have none.
"""

from __future__ import annotations

import base64
import hashlib
import json
import urllib.parse
from collections.abc import Callable, Mapping
from typing import NamedTuple

SHORTEST = 16
_ANCHOR = 3
# digests that one text may cost (about 1 µs each); a text that asks for more is taken out as a whole
_MOST = 20_000


class Mark(NamedTuple):
    """One spelling of one value."""

    name: str
    anchor: str
    length: int
    digest: str


def spellings(value: str) -> set[str]:
    """As it is, in JSON, in an address, in base64."""
    raw = value.encode("utf-8", "surrogateescape")
    encoded = {base64.b64encode(raw).decode(), base64.urlsafe_b64encode(raw).decode()}
    quoted = {urllib.parse.quote(raw), urllib.parse.quote_plus(raw), urllib.parse.quote(raw, safe="")}
    return {value, json.dumps(value)[1:-1]} | quoted | encoded | {each.rstrip("=") for each in encoded}


def make(values: Mapping[str, str], key: bytes) -> dict[str, object]:
    """The marks of values by name, as they travel; `key` is new for each session."""
    found = [
        Mark(name, each[:_ANCHOR], len(each), _digest(each, key))
        for name, value in values.items()
        if len(value) >= SHORTEST
        for each in sorted(spellings(value))
    ]
    return {"key": key.hex(), "marks": [list(each) for each in found]}


def _digest(text: str, key: bytes) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), key=key, digest_size=16).hexdigest()


class Marks:
    """The marks of a session, or none. ValueError for what `make` did not make."""

    def __init__(self, made: object = None) -> None:
        self._key, self._marks = b"", list[Mark]()
        if made is None:
            return
        listed = made.get("marks") if isinstance(made, dict) else None
        if not isinstance(made, dict) or not isinstance(listed, list):
            raise ValueError("marks of secrets are a key and a list")
        self._key = bytes.fromhex(str(made["key"]))
        marks = [Mark(str(name), str(anchor), int(str(size)), str(digest)) for name, anchor, size, digest in listed]
        # of two one of which contains the other, the longer is looked for first
        self._marks = sorted(marks, key=lambda each: (-each.length, each))

    def __bool__(self) -> bool:
        return bool(self._marks)

    def replace(self, text: str, said: Callable[[str], str]) -> str:
        """`text` with what `said` makes of its name in the place of each value."""
        left = _MOST
        for mark in self._marks:
            at = text.find(mark.anchor)
            while at >= 0:
                if left == 0:
                    return said("too many places to look at")
                left -= 1
                window = text[at : at + mark.length]
                if len(window) == mark.length and _digest(window, self._key) == mark.digest:
                    put = said(mark.name)
                    text = text[:at] + put + text[at + mark.length :]
                    at += len(put) - 1
                at = text.find(mark.anchor, at + 1)
        return text
