"""A small MCP client for `supervisor call`: one handshake, one tool call, in the handshake era of the protocol.

Runs unprivileged. The official SDK would do it too, in 0.4 s and 60 MB of imports more than this takes; every
server of today answers `initialize` at 2025-11-25.
"""

from __future__ import annotations

import json
import os
import select
import time

from supervisor.errors import ConfigError, SessionLost, SupervisorError
from supervisor.proxy import pump
from supervisor.proxy.link import Link, Opened
from supervisor.proxy.meter import Meter
from supervisor.shown import printable

PROTOCOL = "2025-11-25"
Json = dict[str, object]


class Client:
    """Requests to one session, one at a time; `seconds` bounds each answer but the first."""

    def __init__(self, link: Link, opened: Opened, seconds: float) -> None:
        self.link = link
        self.opened = opened
        self.seconds = seconds
        self._buffer = bytearray()
        self._meter = Meter(opened.output, opened.output_rate)
        self._next = 0

    def initialize(self) -> Json:
        """The handshake; the server's answer."""
        answer = self.request(
            "initialize",
            {
                "protocolVersion": PROTOCOL,
                "capabilities": {},
                "clientInfo": {"name": "supervisor", "version": "0.1.0"},
            },
            seconds=self.opened.start,
        )
        self._send({"jsonrpc": "2.0", "method": "notifications/initialized"}, time.monotonic() + self.seconds)
        return answer

    def tools(self) -> list[Json]:
        """All pages of tools/list."""
        found: list[Json] = []
        cursor: object = None
        for _ in range(100):
            page = self.request("tools/list", {} if cursor is None else {"cursor": cursor})
            tools = page.get("tools")
            found += [each for each in tools if isinstance(each, dict)] if isinstance(tools, list) else []
            cursor = page.get("nextCursor")
            if cursor is None:
                break
        return found

    def request(self, method: str, params: Json, *, seconds: float | None = None) -> Json:
        """One request and its result. SupervisorError for an error answer, SessionLost when it has ended."""
        self._next += 1
        deadline = time.monotonic() + (seconds or self.seconds)
        self._send({"jsonrpc": "2.0", "id": self._next, "method": method, "params": params}, deadline)
        while True:
            message = self._message(deadline, method)
            if "method" in message and "id" in message:
                self._refuse(message, deadline)
            elif message.get("id") == self._next:
                break
        error = message.get("error")
        if isinstance(error, dict):
            said = printable(str(error.get("message")))
            raise SupervisorError(f"{method}: the server answered with an error: {said}")
        result = message.get("result")
        return result if isinstance(result, dict) else {}

    def _refuse(self, message: Json, deadline: float) -> None:
        # a ping must be answered; everything else we said we cannot do
        answer: Json = {"jsonrpc": "2.0", "id": message["id"]}
        if message["method"] == "ping":
            self._send(answer | {"result": {}}, deadline)
        else:
            self._send(answer | {"error": {"code": -32601, "message": "not supported by this client"}}, deadline)

    def _send(self, message: Json, deadline: float) -> None:
        view = memoryview(json.dumps(message).encode() + b"\n")
        try:
            while view:
                left = max(0.0, deadline - time.monotonic())
                if not select.select([], [self.opened.stdin], [], left)[1]:
                    raise SessionLost("the server does not read its standard input")
                # a pipe that is writable takes this much without waiting
                view = view[os.write(self.opened.stdin, view[: select.PIPE_BUF]) :]
        except BrokenPipeError:
            raise self._lost() from None

    def _message(self, deadline: float, method: str) -> Json:
        while True:
            end = self._buffer.find(b"\n")
            if end >= 0:
                line = bytes(self._buffer[:end])
                del self._buffer[: end + 1]
                try:
                    message = json.loads(line)
                except (ValueError, RecursionError):
                    message = None
                if isinstance(message, dict):
                    return message
                if line.strip():
                    shown = printable(line[:80].decode(errors="replace"))
                    pump.note(f"the server wrote a line that is not JSON-RPC; dropped: {shown}")
                continue
            if len(self._buffer) > self.opened.output_line:
                limit = self.opened.output_line
                raise SessionLost(f"the server wrote a line of more than {limit} bytes (limits.output_line)")
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.opened.stdout], [], [], left)[0]:
                raise SessionLost(f"the server did not answer {method} in time")
            data = os.read(self.opened.stdout, 65536)
            if not data:
                raise self._lost()
            self._buffer += self._meter.take(data)
            if self._meter.over:
                raise SessionLost(f"the server's session was ended: {self._meter.reason()}")
            time.sleep(min(self._meter.wait(), max(0.0, left)))

    def _lost(self) -> SessionLost:
        if not self.link.has_event(self.opened.grace):
            self.link.close_session(self.opened.session)
            self.link.event()
            return SessionLost("the server's session was ended: it closed its standard input or output")
        ended = self.link.event()
        return SessionLost(f"the server's session has ended: {ended.reason if ended else 'the monitor is gone'}")


def arguments(pairs: list[str], schema: object) -> Json:
    """`key=value` pairs as arguments, typed by the tool's input schema; `key:=JSON` is taken as JSON."""
    table = schema.get("properties") if isinstance(schema, dict) else None
    properties: Json = table if isinstance(table, dict) else {}
    result: Json = {}
    for pair in pairs:
        name, sign, text = pair.partition("=")
        if not sign or not name:
            raise ConfigError(f'"{pair}" is no argument; write key=value, or key:=JSON')
        if name.endswith(":"):
            result[name[:-1]] = _json(text, name[:-1])
            continue
        kinds = _kinds(properties.get(name))
        result[name] = text if not kinds or "string" in kinds else _json(text, name)
    return result


def _kinds(schema: object) -> set[str]:
    if not isinstance(schema, dict):
        return set()
    kind, branches = schema.get("type"), schema.get("anyOf")
    found = {each for each in (kind if isinstance(kind, list) else [kind]) if isinstance(each, str)}
    for branch in branches if isinstance(branches, list) else []:
        kind = branch.get("type") if isinstance(branch, dict) else None
        found |= {kind} if isinstance(kind, str) else set()
    return found


def _json(text: str, name: str) -> object:
    try:
        value: object = json.loads(text)
    except ValueError:
        raise ConfigError(f'argument "{name}": {text!r} is not JSON') from None
    return value


def find_tool(tools: list[Json], name: str) -> Json:
    """The tool of that name, or ConfigError with those there are."""
    for tool in tools:
        if tool.get("name") == name:
            return tool
    listed = ", ".join(sorted(printable(str(tool.get("name"))) for tool in tools))
    raise ConfigError(f'the server has no tool "{name}"; it has: {listed or "none"}')
