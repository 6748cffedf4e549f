"""Plays the same sessions over Streamable HTTP: each line is a POST, what comes back are its events or its JSON.

Runs as whoever runs the tests. Lines on several connections have no order that anybody promises, so tapes are
sorted before they are compared.
"""

from __future__ import annotations

import base64
import http.client
import json
import threading
from collections.abc import Iterable
from queue import Queue

from tests.awkward import raw
from tests.integration.caller import SECONDS
from tests.integration.fidelity import Player, Step, Tape, masked
from tests.integration.raw_http import LEGACY, MODERN

NAMED = ("name", "uri", "taskId")


class Visitor(Player):
    """A client of one endpoint; `kinds` counts how answers came, by content type."""

    def __init__(self, port: int, path: str, replies: dict[str, str], *, modern: bool) -> None:
        self.tape = Tape()
        self.kinds: dict[str, int] = {}
        self._port, self._path, self._modern = port, path, modern
        self._replies = replies
        self._arrived: Queue[str | None] = Queue()
        self._session = ""
        self._readers: list[threading.Thread] = []

    def _headers(self, line: str) -> dict[str, str]:
        found = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        if self._session:
            found |= {"Mcp-Session-Id": self._session, "MCP-Protocol-Version": LEGACY}
        if self._modern:
            found |= {"MCP-Protocol-Version": MODERN, "Mcp-Method": json.loads(raw.value(line, "method") or '""')}
            for member in NAMED:
                if written := raw.value(line, "params", member):
                    name = base64.b64encode(json.loads(written).encode()).decode()
                    found["Mcp-Name"] = f"=?base64?{name}?="
        return found

    def _say(self, line: str) -> None:
        self.tape.sent.append(line)
        self._ask("POST", line)
        if '"notifications/initialized"' in line:
            self._ask("GET", "")

    def _ask(self, method: str, line: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=SECONDS)
        body = line.encode("utf-8", "surrogateescape") or None
        connection.request(method, self._path, body, self._headers(line))
        reader = threading.Thread(target=self._hear, args=[connection])
        reader.start()
        self._readers.append(reader)
        if raw.find(line or "{}", "id") is None and method == "POST":
            reader.join(SECONDS)

    def _hear(self, connection: http.client.HTTPConnection) -> None:
        response = connection.getresponse()
        self._session = self._session or response.getheader("mcp-session-id", "")
        kind = response.getheader("content-type", "")
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        for line in response if kind == "text/event-stream" else [b"data: " + response.read()]:
            data = line.removeprefix(b"data: ").rstrip(b"\n") if line.startswith(b"data: ") else b""
            if data:
                self._arrived.put(data.decode("utf-8", "surrogateescape"))
        connection.close()

    def close(self) -> Tape:
        """The end of the session, if it is one; what was said meanwhile belongs to the tape."""
        if self._session:
            self._ask("DELETE", "")
        for reader in self._readers:
            reader.join(SECONDS)
        while not self._arrived.empty():
            self.tape.got.append(self._arrived.get() or "")
        return self.tape


def visit(visitor: Visitor, script: Iterable[Step]) -> Tape:
    """Play a script; the server's side is added by `recorded`, when that has ended."""
    try:
        for step in script:
            visitor.play(step)
    finally:
        tape = visitor.close()
    return tape


def in_order(tape: Tape) -> Tape:
    """The same lines in an order that does not depend on which connection was faster."""

    def ordered(lines: list[str]) -> list[str]:
        return sorted(lines, key=lambda line: (repr(sorted(masked(line).items())), line))

    return Tape(*(ordered(each) for each in (tape.sent, tape.got, tape.heard, tape.said)))
