"""A server whose every byte a test writes itself, over real pipes; and its pinned manifest."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Callable
from typing import Any

import msgspec

from supervisor.proxy import manifests
from supervisor.proxy.link import Exited
from supervisor.proxy.manifests import Lists, Manifest

Json = dict[str, Any]
TOOLS = [{"name": name, "description": name, "inputSchema": {"type": "object"}} for name in ("one", "two")]
LISTED: dict[str, Json] = {
    "tools/list": {"tools": TOOLS},
    "prompts/list": {"prompts": [{"name": "hello"}]},
    "resources/list": {"resources": [{"uri": "mem://a", "name": "a"}]},
    "resources/templates/list": {"resourceTemplates": [{"uriTemplate": "mem://t/{x}", "name": "t"}]},
}
CAPABILITIES = {"tools": {}, "prompts": {}, "resources": {"subscribe": True}, "logging": {}}
INFO = {"name": "puppet", "version": "1"}
LEGACY: Json = {"protocolVersion": "2025-11-25", "capabilities": CAPABILITIES, "serverInfo": INFO}
MODERN: Json = {
    "supportedVersions": ["2026-07-28"],
    "capabilities": CAPABILITIES,
    "resultType": "complete",
    "ttlMs": 0,
    "cacheScope": "private",
    "_meta": {"io.modelcontextprotocol/serverInfo": INFO},
}


def manifest(*eras: str, lists: dict[str, Json] | None = None, **handshake: Json) -> bytes:
    """The manifest of a puppet that speaks these eras (legacy, if none is named)."""
    listed = LISTED if lists is None else lists
    pages = {kind: [msgspec.Raw(json.dumps(listed[how[0]]).encode())] for kind, how in manifests.KINDS.items()}
    made = {}
    for era in eras or ("legacy",):
        said = (MODERN if era == "modern" else LEGACY) | handshake
        version = "2026-07-28" if era == "modern" else "2025-11-25"
        made[era] = Lists(version, msgspec.Raw(json.dumps(said).encode()), pages)
    first = next(iter(made.values()))
    return manifests.encode(Manifest(1, "p", "2026-01-01T00:00:00+00:00", "0", made, manifests.digests(first)))


class Puppet:
    """One process of it. `killed`: it was ended from outside."""

    def __init__(self, session: int, stdin: int, stdout: int, stderr: int, told: Callable[[Exited], None]) -> None:
        self.session = session
        self.killed = False
        self.stdout, self.stderr = stdout, stderr
        self._stdin = stdin
        self._told = told
        self._reader = asyncio.StreamReader(limit=1 << 26)
        self._transport: asyncio.ReadTransport | None = None
        self._over = False

    async def start(self) -> None:
        """Read what the gateway writes."""
        loop = asyncio.get_running_loop()
        protocol = asyncio.StreamReaderProtocol(self._reader)
        self._transport, _ = await loop.connect_read_pipe(lambda: protocol, os.fdopen(self._stdin, "rb", 0))

    def pause(self, *, paused: bool) -> None:
        """Do not read, or do again."""
        assert self._transport
        (self._transport.pause_reading if paused else self._transport.resume_reading)()

    async def line(self) -> bytes:
        """The next line of the gateway's."""
        return await asyncio.wait_for(self._reader.readline(), 10)

    async def next(self) -> Json:
        """The next message of the gateway's."""
        found: Json = json.loads(await self.line())
        return found

    async def until(self, method: str) -> Json:
        """The next message with that method; what comes before it is dropped."""
        while (found := await self.next()).get("method") != method:
            pass
        return found

    async def until_answer(self, name: object) -> Json:
        """The gateway's answer to what was asked under that id; what comes before it is dropped."""
        while "method" in (found := await self.next()) or found.get("id") != name:
            pass
        return found

    def send(self, value: object) -> None:
        """One message, or any bytes; no more than a pipe takes."""
        os.write(self.stdout, value if isinstance(value, bytes) else json.dumps(value).encode() + b"\n")

    async def pour(self, data: bytes) -> None:
        """Any number of bytes, as fast as they are taken."""

        def write() -> None:
            view = memoryview(data)
            with contextlib.suppress(OSError):
                while view:
                    view = view[os.write(fd, view) :]

        fd = os.dup(self.stdout)
        try:
            await asyncio.to_thread(write)
        finally:
            os.close(fd)

    def answer(self, request: Json, result: object) -> None:
        """The answer to a request."""
        self.send({"jsonrpc": "2.0", "id": request["id"], "result": result})

    async def greet(self, lists: dict[str, Json] | None = None) -> None:
        """The handshake of its era and all lists, so that it is ready."""
        hello = await self.next()
        self.answer(hello, LEGACY if hello["method"] == "initialize" else MODERN)
        if hello["method"] == "initialize":
            assert (await self.next())["method"] == "notifications/initialized"
        for _ in LISTED:
            request = await self.next()
            self.answer(request, (LISTED if lists is None else lists)[request["method"]])

    def exit(self, code: int = 0) -> None:
        """It ends, and everybody is told."""
        if self._over:
            return
        self._over = True
        if self._transport:
            self._transport.close()
        os.close(self.stdout)
        os.close(self.stderr)
        loop = asyncio.get_running_loop()
        loop.call_soon(self._told, Exited(self.session, code, f"exited with status {code}"))
