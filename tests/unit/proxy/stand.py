"""A monitor's stand-in for tests of the gateway: it opens servers as plain child processes, without a sandbox.

What the gateway sees of it is what it sees of the real one: descriptors, answers, and the news of an end.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from supervisor import wire
from supervisor.errors import ConfigError
from supervisor.proxy import manifests
from supervisor.proxy.channel import Answer
from supervisor.proxy.gateway import Gateway
from supervisor.proxy.journal import Journal
from supervisor.proxy.link import Exited, Opened
from supervisor.proxy.manifests import Manifest
from supervisor.proxy.pinning import Pinning
from supervisor.proxy.principal import Principal

SERVER = Path(__file__).parent / "small_server.py"


@dataclass
class Entry:
    """A server: its command, its gateway settings, its pinned manifest."""

    argv: list[str]
    settings: dict[str, object] = field(default_factory=dict)
    manifest: bytes = b""


class Stand:
    """See the module; has what the gateway uses of a Channel."""

    def __init__(self, servers: dict[str, Entry]) -> None:
        self.servers = servers
        self.ended: Callable[[Exited], None] = lambda _: None
        self.refused: Callable[[int, str], None] = lambda *_: None
        self.reloaded: Callable[[], None] = lambda: None
        self.gone: Callable[[], None] = lambda: None
        self.closed = False
        self.opened: list[str] = []
        self.processes: dict[int, asyncio.subprocess.Process] = {}
        self.fail = ""
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, req: str, **fields: str | int) -> Answer:
        if req == "list":
            listed: list[object] = [{"name": name, "profile": "none"} for name in self.servers]
            return {"servers": listed}, []
        entry = self.servers[str(fields["server"])]
        answer: wire.Message = {"gateway": json.dumps(entry.settings), "manifest": "", "spec": "0"}
        if not entry.manifest:
            return answer, []
        fd = os.memfd_create("manifest")
        os.write(fd, entry.manifest)
        os.lseek(fd, 0, os.SEEK_SET)
        return answer | {"manifest": hashlib.sha256(entry.manifest).hexdigest()}, [fd]

    async def open(self, server: str) -> Opened:
        if self.fail:
            raise ConfigError(self.fail)
        (stdin, theirs_in), (theirs_out, stdout), (theirs_err, stderr) = os.pipe(), os.pipe(), os.pipe()
        argv = self.servers[server].argv
        process = await asyncio.create_subprocess_exec(*argv, stdin=stdin, stdout=stdout, stderr=stderr)
        for fd in (stdin, stdout, stderr):
            os.close(fd)
        number = len(self.opened) + 1
        self.opened.append(server)
        self.processes[number] = process
        task = asyncio.create_task(self._wait(number, process))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return Opened(
            number,
            process.pid,
            theirs_in,
            theirs_out,
            theirs_err,
            -1,
            "0",
            "none",
            (),
            "",
            10.0,
            0.2,
            1 << 24,
            1 << 20,
            1 << 40,
            1 << 30,
        )

    async def _wait(self, number: int, process: asyncio.subprocess.Process) -> None:
        code = await process.wait()
        del self.processes[number]
        self.ended(Exited(number, code, f"exited with status {code}" if code >= 0 else f"killed by signal {-code}"))

    async def close_session(self, session: int) -> None:
        if process := self.processes.get(session):
            process.kill()

    def close(self) -> None:
        self.closed = True
        for process in self.processes.values():
            process.kill()

    async def end(self) -> None:
        """Wait for every process."""
        self.close()
        if self._tasks:
            await asyncio.wait(self._tasks)


class Meter:
    """What was counted."""

    def __init__(self) -> None:
        self.counted: list[tuple[object, ...]] = []

    def called(self, server: str, tool: str, seconds: float, *, outcome: str) -> None:
        self.counted.append(("called", server, tool, outcome))

    def refused(self, rule: str) -> None:
        self.counted.append(("refused", rule))

    def started(self, server: str, seconds: float) -> None:
        self.counted.append(("started", server))


class Client:
    """An outlet and its conversation; `received` holds every line, by whether it was an answer."""

    def __init__(self, gateway: Gateway, only: str | None = None, name: str = "uid:1") -> None:
        self.on_writable: Callable[[], None] = lambda: None
        self.room = True
        self.lines: list[bytes] = []
        self._queue: asyncio.Queue[tuple[dict[str, object] | None, bytes | None, bool]] = asyncio.Queue()
        self.talk = gateway.conversation(self, Principal(name), only)
        self._next = 0

    def deliver(self, line: bytes, about: bytes | None, *, last: bool) -> None:
        self.lines.append(line)
        self._queue.put_nowait((json.loads(line) if line else None, about, last))

    def writable(self) -> bool:
        return self.room

    def send(self, value: object) -> None:
        """Any message."""
        self.talk.receive(value if isinstance(value, bytes) else json.dumps(value).encode() + b"\n")

    async def next(self) -> dict[str, object]:
        """The next message, of whatever kind."""
        found, _, _ = await asyncio.wait_for(self._queue.get(), 10)
        return found or {}

    async def request(self, method: str, params: dict[str, object] | None = None) -> dict[str, object]:
        """A request and its answer; what comes before that is dropped."""
        self._next += 1
        self.send({"jsonrpc": "2.0", "id": self._next, "method": method, "params": params or {}})
        while True:
            found = await self.next()
            if found.get("id") == self._next and "method" not in found:
                return found

    async def initialize(self, **capabilities: object) -> dict[str, object]:
        """The legacy handshake."""
        answer = await self.request(
            "initialize",
            {
                "protocolVersion": "2025-11-25",
                "capabilities": capabilities,
                "clientInfo": {"name": "t", "version": "1"},
            },
        )
        self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return answer


MODERN = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"},
}


def modern(params: dict[str, object] | None = None, **capabilities: object) -> dict[str, object]:
    """The params of a modern request."""
    meta = MODERN | {"io.modelcontextprotocol/clientCapabilities": capabilities}
    return (params or {}) | {"_meta": meta}


def small(*words: str) -> Entry:
    """The small server."""
    return Entry([sys.executable, "-S", str(SERVER), *words])


async def pinned(servers: dict[str, Entry]) -> dict[str, Entry]:
    """The same, pinned."""
    for name, entry in servers.items():
        stand = Stand(servers)
        made: Manifest = await Pinning(stand, name, Journal(quiet=True)).run()  # type: ignore[arg-type]
        entry.manifest = manifests.encode(made)
        await stand.end()
    return servers
