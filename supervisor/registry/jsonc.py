"""JSON with the place of everything in the text, for files of other programs that are edited in place.

Pure. Comments and commas behind the last element are allowed where the program whose file it is allows them. An
edit is a list of splices: what lies between them stays byte for byte.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from supervisor.errors import ConfigError

DEPTH = 200
_SPACE = re.compile(r"[ \t\r\n]*")
# nothing is given back: what could be is remembered for each character, a hundred bytes of it
_LOOSE = re.compile(r"(?:[ \t\r\n]++|//[^\r\n]*+|/\*[^*]*+(?:\*(?!/)[^*]*+)*+\*/)*+")
_STRING = re.compile(r'"[^"\\\x00-\x1f]*+(?:\\.[^"\\\x00-\x1f]*+)*+"')
_WORD = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null")
Splice = tuple[int, int, str]
Plain = str | tuple[str] | list["Plain"] | dict[str, "Plain"]


class NotJson(ConfigError):
    """The text is no JSON; `position` is where."""

    def __init__(self, message: str, position: int) -> None:
        super().__init__(message)
        self.position = position


@dataclass(frozen=True)
class Node(ABC):
    """A value, from `start` to `end`."""

    start: int
    end: int

    @abstractmethod
    def plain(self) -> Plain:
        """The value without its place and spelling, to be compared."""


@dataclass(frozen=True)
class Word(Node):
    """A number, true, false or null, as it is written."""

    raw: str

    def plain(self) -> Plain:
        return (self.raw,)


@dataclass(frozen=True)
class Text(Node):
    value: str

    def plain(self) -> Plain:
        return self.value


@dataclass(frozen=True)
class Array(Node):
    items: tuple[Node, ...]

    def plain(self) -> Plain:
        return [each.plain() for each in self.items]


@dataclass(frozen=True)
class Member:
    """`key` starts at `start`; `comma` is where the one behind the value stands, or -1."""

    start: int
    key: str
    value: Node
    comma: int


@dataclass(frozen=True)
class Object(Node):
    members: tuple[Member, ...]

    def plain(self) -> Plain:
        return {each.key: each.value.plain() for each in self.members}

    @cached_property
    def _by_key(self) -> dict[str, list[Member]]:
        found: dict[str, list[Member]] = {}
        for each in self.members:
            found.setdefault(each.key, []).append(each)
        return found

    def member(self, key: str) -> Member | None:
        """The one with this key; NotJson when there are several, since programs disagree on which counts."""
        found = self._by_key.get(key, [])
        if len(found) > 1:
            raise NotJson(f'"{key}" is written twice', found[1].start)
        return found[0] if found else None

    def get(self, key: str) -> Node | None:
        """The value of a key."""
        found = self.member(key)
        return found.value if found else None


class _Reader:
    def __init__(self, text: str, *, loose: bool) -> None:
        self.text = text
        self.loose = loose
        self.space = _LOOSE if loose else _SPACE

    def skip(self, at: int) -> int:
        found = self.space.match(self.text, at)
        return found.end() if found else at

    def value(self, at: int, depth: int) -> Node:
        first = self.text[at : at + 1]
        if first in ("{", "["):
            if depth >= DEPTH:
                raise NotJson("nested too deeply", at)
            return self._object(at, depth + 1) if first == "{" else self._array(at, depth + 1)
        if first == '"':
            return self.string(at)
        found = _WORD.match(self.text, at)
        if not found or self.text[found.end() : found.end() + 1].isalnum():
            raise self.unexpected(at, "a value")
        return Word(at, found.end(), found.group())

    def string(self, at: int) -> Text:
        found = _STRING.match(self.text, at)
        if not found:
            raise NotJson("a text in quotes does not end on its line", at)
        try:
            spelled = found.group()
            return Text(at, found.end(), json.loads(spelled) if "\\" in spelled else spelled[1:-1])
        except ValueError:
            raise NotJson("a backslash in a text stands before something that JSON does not know", at) from None

    def _array(self, start: int, depth: int) -> Array:
        items: list[Node] = []
        at = self.skip(start + 1)
        while self.text[at : at + 1] != "]":
            items.append(self.value(at, depth))
            at, _ = self._next(items[-1].end, "]")
        return Array(start, at + 1, tuple(items))

    def _object(self, start: int, depth: int) -> Object:
        members: list[Member] = []
        at = self.skip(start + 1)
        while self.text[at : at + 1] != "}":
            if self.text[at : at + 1] != '"':
                raise self.unexpected(at, 'a key in quotes or "}"')
            key = self.string(at)
            colon = self.skip(key.end)
            if self.text[colon : colon + 1] != ":":
                raise self.unexpected(colon, '":"')
            value = self.value(self.skip(colon + 1), depth)
            begins = at
            at, comma = self._next(value.end, "}")
            members.append(Member(begins, key.value, value, comma))
        return Object(start, at + 1, tuple(members))

    def _next(self, at: int, closing: str) -> tuple[int, int]:
        """(where the next element or `closing` is, where the comma is or -1)."""
        at = self.skip(at)
        if self.text[at : at + 1] == closing:
            return at, -1
        if self.text[at : at + 1] != ",":
            raise self.unexpected(at, f'"," or "{closing}"')
        after = self.skip(at + 1)
        if self.text[after : after + 1] == closing and not self.loose:
            raise NotJson("a comma behind the last element, which the program that reads this file refuses", at)
        return after, at

    def unexpected(self, at: int, wanted: str) -> NotJson:
        if self.text[at : at + 2] in ("//", "/*"):
            reason = "a comment that does not end" if self.loose else "a comment"
            return NotJson(f"{reason}, which the program that reads this file refuses", at)
        found = f'"{self.text[at]}"' if at < len(self.text) else "the end of the file"
        return NotJson(f"{wanted} is expected here, not {found}", at)


def parse(text: str, *, loose: bool) -> Node:
    """The one value in `text`. `loose`: with comments and last commas. NotJson says what is wrong where."""
    reader = _Reader(text, loose=loose)
    value = reader.value(reader.skip(0), 0)
    end = reader.skip(value.end)
    if end != len(text):
        raise reader.unexpected(end, "the end of the file")
    return value


def place(text: str, position: int) -> str:
    """`line:column` of a position, counted from 1."""
    return f"{text.count(chr(10), 0, position) + 1}:{position - text.rfind(chr(10), 0, position)}"


def find(root: Node, path: Iterable[str]) -> Node | None:
    """The value at the end of a path of keys."""
    for key in path:
        found = root.get(key) if isinstance(root, Object) else None
        if found is None:
            return None
        root = found
    return root


def splice(text: str, splices: Iterable[Splice]) -> str:
    """`text` with each (start, end, new text) put in its place; they do not overlap."""
    parts: list[str] = []
    done = 0
    for start, end, new in sorted(splices):
        if start < done:
            raise ValueError("splices overlap")
        parts += [text[done:start], new]
        done = end
    return "".join([*parts, text[done:]])
