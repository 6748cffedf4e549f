"""The lines that `strace -f -y -X raw` writes, as system calls with their arguments.

Pure; runs as whoever types `supervisor profile learn`. What stands in a line was partly chosen by the program
that is watched: a line that cannot be read is left out, and no line is more than text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

_LINE = re.compile(r"(\d+) +(.*)", re.DOTALL)
_RESUMED = re.compile(r"<\.\.\. (\w+) resumed>(.*)", re.DOTALL)
# behind the result < and > come in pairs, because strace escapes those of a path: "x) = 0" in a name is no result
_CALL = re.compile(r"(\w+)\((.*)\) += (-?\d+|0x[0-9a-f]+|\?)((?:[^<>]|<(?:[^>\\]|\\.)*+>)*+)", re.DOTALL)
_UNFINISHED = "<unfinished ...>"
_TOKEN = re.compile(
    r'"(?:[^"\\]|\\.)*"(?:\.\.\.)?|-?\d+<(?:[^>\\]|\\.)*>|[\[{(]|[\]})]|,|[^"\[\](){},<]+|<', re.DOTALL
)
_ESCAPE = re.compile(r"\\(x[0-9a-f]{2}|[0-7]{1,3}|.)", re.DOTALL)
_LETTERS = {"n": "\n", "t": "\t", "r": "\r", "v": "\v", "f": "\f"}
_WHERE = re.compile(r"-?\d+<((?:[^>\\]|\\.)*)>")
# what is kept of calls that have begun and not ended: a thread each
_OPEN = 1 << 16


@dataclass(frozen=True)
class Call:
    """One finished call. `error` is the errno's name, or empty; `made` the path of the descriptor it returned."""

    pid: int
    name: str
    text: str
    result: int
    error: str
    made: str

    @cached_property
    def args(self) -> list[str]:
        """The arguments as they are written."""
        found, depth = [""], 0
        for piece in _TOKEN.findall(self.text):
            if piece in ("[", "{", "("):
                depth += 1
            elif piece in ("]", "}", ")"):
                depth -= 1
            if piece == "," and depth == 0:
                found.append("")
            else:
                found[-1] += piece
        return [each.strip() for each in found]

    def number(self, index: int) -> int | None:
        """An argument as the kernel saw it, where strace prints a number."""
        word = self.args[index].partition("<")[0] if index < len(self.args) else ""
        if word == "NULL":
            return 0
        try:
            return int(word, 8) if re.fullmatch(r"0[0-7]+", word) else int(word, 0)
        except ValueError:
            return None

    def string(self, index: int) -> str | None:
        """An argument that is a text."""
        word = self.args[index] if index < len(self.args) else ""
        return unescape(word[1:-1]) if len(word) > 1 and word[0] == word[-1] == '"' else None

    def folder(self, index: int) -> str:
        """The path of an argument that is a descriptor, or empty."""
        found = _WHERE.match(self.args[index]) if index < len(self.args) else None
        return unescape(found[1]) if found else ""


@dataclass(frozen=True)
class Ended:
    """A thread has ended."""

    pid: int


@dataclass(frozen=True)
class Signalled:
    """A signal was delivered."""

    pid: int
    name: str


class Reader:
    """Puts the two halves of interrupted lines together."""

    def __init__(self) -> None:
        self._begun: dict[int, str] = {}

    def read(self, line: str) -> Call | Ended | Signalled | None:
        """What a line tells, if it is finished and can be read."""
        found = _LINE.fullmatch(line)
        if not found:
            return None
        pid, rest = int(found[1]), found[2].rstrip()
        if rest.startswith("+++"):
            self._begun.pop(pid, None)
            return Ended(pid)
        if rest.startswith("---"):
            return Signalled(pid, rest[4:].partition(" ")[0])
        if rest.endswith(_UNFINISHED):
            if len(self._begun) < _OPEN:
                self._begun[pid] = rest.removesuffix(_UNFINISHED)
            return None
        resumed = _RESUMED.fullmatch(rest)
        if resumed:
            rest = self._begun.pop(pid, f"{resumed[1]}(") + resumed[2]
        return _call(pid, rest)


def _call(pid: int, text: str) -> Call | None:
    found = _CALL.fullmatch(text)
    if not found or found[3] == "?":
        return None
    tail = found[4]
    path = re.fullmatch(r"<((?:[^>\\]|\\.)*)>.*", tail, re.DOTALL)
    error = re.match(r" ([A-Z][A-Z0-9]+)\b", tail) if found[3] == "-1" else None
    made = unescape(path[1]) if path else ""
    # umask answers in octal
    result = int(found[3], 8 if re.fullmatch(r"0[0-7]+", found[3]) else 0)
    return Call(pid, found[1], found[2], result, error[1] if error else "", made)


def unescape(text: str) -> str:
    """A text as the kernel had it: strace writes bytes beyond ASCII in octal or hexadecimal."""
    return raw(text).decode("utf-8", "surrogateescape")


def raw(text: str) -> bytes:
    """The bytes that strace has written with escapes."""

    def byte(match: re.Match[str]) -> str:
        code = match[1]
        if code[0] == "x" and len(code) == 3:
            return chr(int(code[1:], 16))
        return chr(int(code, 8) & 0xFF) if code.isdigit() else _LETTERS.get(code, code)

    return _ESCAPE.sub(byte, text).encode("latin-1", "replace")
