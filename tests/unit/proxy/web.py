"""The HTTP front over a stand-in monitor, on a port of loopback, and a client that says exactly what it is told."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from typing import NamedTuple

from supervisor.proxy import http_server
from supervisor.proxy.gateway import Gateway
from supervisor.proxy.http import Anybody, Authority, Front
from supervisor.proxy.http_headers import Visitors
from supervisor.proxy.journal import Journal
from tests.unit.proxy.stand import MODERN, Entry, Meter, Stand, pinned, small

Json = dict[str, object]
BOTH = "application/json, text/event-stream"


class Answer(NamedTuple):
    """What came back; of a stream, its events."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def message(self) -> Json:
        found = json.loads(self.body)
        assert isinstance(found, dict)
        return found

    @property
    def events(self) -> list[tuple[str, str]]:
        """(id, data) of every event."""
        found = []
        for block in self.body.decode().split("\n\n"):
            fields = dict(line.partition(": ")[::2] for line in block.splitlines() if not line.startswith(":"))
            if fields:
                found.append((fields.get("id", ""), fields.get("data", "")))
        return found

    @property
    def messages(self) -> list[Json]:
        """The messages of a stream, or the one of a whole answer."""
        if self.headers.get("content-type") != "text/event-stream":
            return [self.message]
        return [json.loads(data) for _, data in self.events if data]


class Connection:
    """A kept-alive connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> None:
        lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        if body and "Content-Length" not in headers:
            lines.append(f"Content-Length: {len(body)}")
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await self.writer.drain()

    async def head(self) -> Answer:
        """The beginning of an answer."""
        first, *lines = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 10)).decode().splitlines()
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines) if name}
        return Answer(int(first.split()[1]), headers, b"")

    async def chunk(self) -> bytes:
        """The next piece of a stream; empty at its end."""
        size = int(await asyncio.wait_for(self.reader.readline(), 10), 16)
        data = await self.reader.readexactly(size + 2)
        return data[:-2]

    async def answer(self) -> Answer:
        """A whole answer."""
        head = await self.head()
        if "content-length" in head.headers:
            body = await self.reader.readexactly(int(head.headers["content-length"]))
        elif head.headers.get("transfer-encoding") == "chunked":
            body = b""
            while piece := await self.chunk():
                body += piece
        else:
            body = b""
        return head._replace(body=body)

    def close(self) -> None:
        self.writer.close()


class Web:
    """A front that listens."""

    def __init__(self, gateway: Gateway, stand: Stand, front: Front, port: int) -> None:
        self.gateway, self.stand, self.front, self.port = gateway, stand, front, port
        self.open: list[Connection] = []

    async def connect(self) -> Connection:
        made = Connection(*await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 26))
        self.open.append(made)
        return made

    def headers(self, **more: str) -> dict[str, str]:
        """Those of an ordinary POST; `_` in a name stands for `-`, None takes one away."""
        found = {"Host": f"127.0.0.1:{self.port}", "Content-Type": "application/json", "Accept": BOTH}
        return found | {name.replace("_", "-"): value for name, value in more.items()}

    async def post(self, body: object, path: str = "/mcp", **more: str) -> Answer:
        """One POST on a connection of its own."""
        connection = await self.connect()
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        await connection.send("POST", path, self.headers(**more), data)
        return await connection.answer()

    async def modern(self, method: str, params: Mapping[str, object] | None = None, **more: str) -> Answer:
        """A modern request to all servers, with the headers that it wants."""
        given = dict(params or {})
        name = str(given.get("name", given.get("uri", "")))
        headers = {"MCP_Protocol_Version": "2026-07-28", "Mcp_Method": method} | (
            {"Mcp_Name": name} if name else {}
        )
        return await self.post(request(method, given | {"_meta": MODERN}), **(headers | more))

    async def initialize(self, path: str = "/mcp", version: str = "2025-11-25", **more: str) -> str:
        """A legacy session; its id."""
        params = {
            "protocolVersion": version,
            "capabilities": {"roots": {}},
            "clientInfo": {"name": "t", "version": "1"},
        }
        answer = await self.post(request("initialize", params), path, **more)
        assert answer.status == 200, answer
        return answer.headers["mcp-session-id"]


def request(method: str, params: Mapping[str, object] | None = None, number: object = 1) -> Json:
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params or {}}


@contextlib.asynccontextmanager
async def serving(
    servers: dict[str, Entry] | None = None, authority: Authority | None = None, visitors: Visitors | None = None
) -> AsyncIterator[Web]:
    """A front over small servers `a` (both eras) and `b` (legacy)."""
    stand = Stand(await pinned(servers or {"a": small(), "b": small("legacy")}))
    gateway = Gateway(stand, Meter(), Journal(quiet=True))
    await gateway.load()
    sock = http_server.bind("127.0.0.1:0")
    front = Front(gateway, authority or Anybody(), visitors or Visitors(), {})
    prepared = http_server.Prepared([sock])
    task = asyncio.create_task(prepared.serve(front))
    web = Web(gateway, stand, front, sock.getsockname()[1])
    try:
        yield web
    finally:
        for each in web.open:
            each.close()
        front.close()
        prepared.stop()
        await task
        await gateway.close()
        await stand.end()
