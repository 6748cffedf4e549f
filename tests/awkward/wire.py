"""The awkward server's two pipes: one line in, one line out, both as they are, and both recorded if asked for.

Without the SDK on purpose: what this writes no library would write.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from tests.awkward import raw

VERSION_KEY = "io.modelcontextprotocol/protocolVersion"
SUBSCRIPTION_KEY = "io.modelcontextprotocol/subscriptionId"


@dataclass(frozen=True)
class Message:
    """One line of the client's, as it was written."""

    line: str

    @cached_property
    def members(self) -> dict[str, str]:
        return raw.members(self.line)

    @property
    def id(self) -> str:
        """The id as it was written; nothing for a notification."""
        return self.members.get("id", "")

    @property
    def method(self) -> str:
        """The method; nothing for a response."""
        return str(json.loads(self.members.get("method", '""')))

    @property
    def params(self) -> str:
        """The params as they were written."""
        return self.members.get("params", "{}")

    def at(self, *path: str) -> str:
        """What stands at a path of the params, as it was written, or nothing."""
        return raw.value(self.params, *path)

    def text(self, *path: str, default: str = "") -> str:
        """A string of the params."""
        found = self.at(*path)
        return str(json.loads(found)) if found else default

    def number(self, *path: str, default: float = 0) -> float:
        """A number of the params."""
        found = self.at(*path)
        return float(found) if found else default

    @property
    def modern(self) -> bool:
        """Whether it says that it is of the era of 2026-07-28."""
        return bool(self.at("_meta", VERSION_KEY))


class Wire:
    """Standard input and output. Whole lines only; several threads may write."""

    def __init__(self, record: str = "") -> None:
        self._lock = threading.Lock()
        self._record = os.open(record, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644) if record else -1

    def lines(self) -> Iterator[Message]:
        """What the client says, until the end."""
        for line in sys.stdin.buffer:
            text = line.decode("utf-8", "surrogateescape").rstrip("\n")
            self._note("<", text)
            if text.strip():
                yield Message(text)

    def send(self, text: str) -> None:
        """One line."""
        with self._lock:
            self._note(">", text)
            self._write(text.encode("utf-8", "surrogateescape") + b"\n")

    def send_slowly(self, text: str, pieces: int) -> None:
        """One line, in pieces that arrive one by one."""
        data = text.encode() + b"\n"
        size = max(1, len(data) // pieces)
        with self._lock:
            self._note(">", text)
            for start in range(0, len(data), size):
                self._write(data[start : start + size])
                threading.Event().wait(0.002)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(1, view) :]

    def _note(self, direction: str, text: str) -> None:
        if self._record >= 0:
            os.write(self._record, f"{direction}{text}\n".encode("utf-8", "surrogateescape"))


def quote(text: str) -> str:
    """A JSON string, ASCII only."""
    return json.dumps(text)


def result(identity: str, body: str) -> str:
    """An answer, in an order and with a member that no library would choose."""
    return f'{{ "result" : {body}, "x-envelope":{{"deep":[1.0,null,"\\u00e9"]}},"id":{identity},"jsonrpc":"2.0"}}'


def error(identity: str, code: str, message: str, data: str) -> str:
    """An error with members that nobody knows."""
    body = f'{{"data":{data},"code":{code},"x-error":{{"n":1e3}},"message":{quote(message)}}}'
    return f'{{"jsonrpc":"2.0","x-envelope":[],"id":{identity},"error":{body}}}'


def notification(method: str, params: str) -> str:
    """A notification."""
    return f'{{"method":{quote(method)},"params":{params},"jsonrpc":"2.0","x-envelope":0}}'


def request(identity: str, method: str, params: str) -> str:
    """A request of the server's own."""
    return f'{{"params":{params},"id":{identity},"method":{quote(method)},"x-envelope":"r","jsonrpc":"2.0"}}'
