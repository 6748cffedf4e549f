"""A small client for Streamable HTTP without a library: one request, the messages of its answer, whatever they are.

For tests that count answers: nothing here retries, and nothing is swallowed.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass

from tests.integration.caller import SECONDS

LEGACY = "2025-11-25"
MODERN = "2026-07-28"
INFO = {"name": "raw", "version": "1"}
META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientInfo": INFO,
    "io.modelcontextprotocol/clientCapabilities": {},
}
Message = dict[str, object]


@dataclass(frozen=True)
class Answer:
    """What came back for one request."""

    status: int
    headers: Mapping[str, str]
    messages: tuple[Message, ...]

    def response(self, identity: int) -> Message:
        """The answer to the request with that id; AssertionError if there is none."""
        for message in self.messages:
            if message.get("id") == identity and "method" not in message:
                return message
        raise AssertionError(f"HTTP {self.status} without an answer to {identity}: {self.messages}")


def post(port: int, path: str, body: object, headers: Mapping[str, str], seconds: float = SECONDS) -> Answer:
    """One POST on a connection of its own; what is no JSON in the answer is a failure of the test."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    accepted = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    try:
        connection.request("POST", path, json.dumps(body), accepted | dict(headers))
        response = connection.getresponse()
        found = {key.lower(): value for key, value in response.getheaders()}
        data = response.read()
    finally:
        connection.close()
    return Answer(response.status, found, tuple(parsed(data, found.get("content-type", ""))))


def parsed(data: bytes, kind: str) -> list[Message]:
    """The messages of a body: one, or one for each event with data."""
    if kind.startswith("text/event-stream"):
        lines = data.decode().splitlines()
        events = [line.removeprefix("data:").strip() for line in lines if line.startswith("data:")]
        return [json.loads(event) for event in events if event]
    return [json.loads(data)] if data.strip() else []


class Session:
    """One session of the old era."""

    def __init__(self, port: int, path: str) -> None:
        self.port = port
        self.path = path
        self.number = 0
        self.headers: dict[str, str] = {}
        opening = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": INFO}
        answer = self._post("initialize", opening)
        assert "result" in answer.response(self.number), answer
        self.headers = {"Mcp-Session-Id": answer.headers["mcp-session-id"], "MCP-Protocol-Version": LEGACY}
        told = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        assert post(self.port, self.path, told, self.headers).status == 202

    def _post(self, method: str, params: object) -> Answer:
        self.number += 1
        body = {"jsonrpc": "2.0", "id": self.number, "method": method, "params": params}
        return post(self.port, self.path, body, self.headers)

    def call(self, tool: str, **arguments: object) -> Message:
        """The answer to one call: a result, or an error."""
        answer = self._post("tools/call", {"name": tool, "arguments": arguments})
        return answer.response(self.number)

    def close(self) -> int:
        """The end of the session; the status of the answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        try:
            connection.request("DELETE", self.path, headers=self.headers)
            return connection.getresponse().status
        finally:
            connection.close()


def modern_call(port: int, path: str, identity: int, tool: str, arguments: object) -> Message:
    """The answer to one call of the new era."""
    params = {"name": tool, "arguments": arguments, "_meta": META}
    body = {"jsonrpc": "2.0", "id": identity, "method": "tools/call", "params": params}
    headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/call", "Mcp-Name": tool}
    return post(port, path, body, headers).response(identity)
