"""A monitor's stand-in for tests of the gateway: it opens servers as plain child processes, without a sandbox.

What the gateway sees of it is what it sees of the real one: descriptors, answers, and the news of an end. An entry
without a command is a puppet: its three streams are in the test's own hands.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from supervisor import wire
from supervisor.errors import ConfigError
from supervisor.proxy import manifests
from supervisor.proxy.channel import Answer, Channel
from supervisor.proxy.gateway import Gateway
from supervisor.proxy.journal import Journal
from supervisor.proxy.link import Exited, Opened
from supervisor.proxy.manifests import Manifest
from supervisor.proxy.pinning import Pinning
from supervisor.proxy.principal import Principal
from tests.unit.proxy.puppet import Json, Puppet, manifest

SERVER = Path(__file__).parent / "small_server.py"
LINE, STDERR = 1 << 24, 1 << 20


@dataclass
class Entry:
    """A server: its command, its gateway settings, its pinned manifest, its policies."""

    argv: list[str]
    settings: dict[str, object] = field(default_factory=dict)
    manifest: bytes = b""
    policy: str = ""


class Stand(Channel):
    """See the module. `fail` is why nothing can be opened; `held`, while it is clear, holds every open back."""

    def __init__(self, servers: dict[str, Entry]) -> None:
        ours, self._theirs = wire.pair()
        super().__init__(ours)
        self.servers = servers
        self.opened: list[str] = []
        self.processes: dict[int, asyncio.subprocess.Process] = {}
        self.puppets: asyncio.Queue[Puppet] = asyncio.Queue()
        self.living: dict[int, Puppet] = {}
        self.fail = ""
        self.held = asyncio.Event()
        self.held.set()
        self.output_line = LINE
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(self, req: str, **fields: str | int) -> Answer:
        if req == "list":
            listed: list[object] = [{"name": name, "profile": "none"} for name in self.servers]
            return {"servers": listed}, []
        entry = self.servers[str(fields["server"])]
        answer: wire.Message = {
            "gateway": json.dumps(entry.settings),
            "manifest": "",
            "spec": "0",
            "policy": entry.policy,
        }
        if not entry.manifest:
            return answer, []
        fd = os.memfd_create("manifest")
        os.write(fd, entry.manifest)
        os.lseek(fd, 0, os.SEEK_SET)
        return answer | {"manifest": hashlib.sha256(entry.manifest).hexdigest()}, [fd]

    async def open(self, server: str) -> Opened:
        await self.held.wait()
        if self.fail or server not in self.servers:
            raise ConfigError(self.fail or f'server "{server}" is not registered')
        (stdin, theirs_in), (theirs_out, stdout), (theirs_err, stderr) = os.pipe(), os.pipe(), os.pipe()
        number = len(self.opened) + 1
        self.opened.append(server)
        if argv := self.servers[server].argv:
            pid = await self._spawn(number, argv, (stdin, stdout, stderr))
        else:
            puppet = self.living[number] = Puppet(number, stdin, stdout, stderr, self._told)
            await puppet.start()
            self.puppets.put_nowait(puppet)
            pid = os.getpid()
        pidfd = os.pidfd_open(pid)
        return Opened(
            *(number, pid, theirs_in, theirs_out, theirs_err, pidfd, "0", "none", (), ""),
            *(10.0, 0.2, self.output_line, STDERR, 1 << 40, 1 << 30),
        )

    async def _spawn(self, number: int, argv: list[str], streams: tuple[int, int, int]) -> int:
        stdin, stdout, stderr = streams
        process = await asyncio.create_subprocess_exec(*argv, stdin=stdin, stdout=stdout, stderr=stderr)
        for fd in streams:
            os.close(fd)
        self.processes[number] = process
        task = asyncio.create_task(self._wait(number, process))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return process.pid

    async def _wait(self, number: int, process: asyncio.subprocess.Process) -> None:
        code = await process.wait()
        del self.processes[number]
        self.ended(Exited(number, code, f"exited with status {code}" if code >= 0 else f"killed by signal {-code}"))

    def _told(self, ended: Exited) -> None:
        self.living.pop(ended.session, None)
        self.ended(ended)

    async def close_session(self, session: int) -> None:
        if process := self.processes.get(session):
            with contextlib.suppress(ProcessLookupError):  # its end has not been heard of yet
                process.kill()
        if puppet := self.living.get(session):
            puppet.killed = True
            puppet.exit(-9)

    def close(self) -> None:
        self.closed = True
        for process in self.processes.values():
            process.kill()
        for puppet in list(self.living.values()):
            puppet.exit(-9)

    async def end(self) -> None:
        """Wait for every process."""
        self.close()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._socket.close()
        self._theirs.close()


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
    """An outlet and its conversation; `lines` holds every line, `answered` how often each id was answered."""

    def __init__(
        self, gateway: Gateway, only: str | None = None, name: str = "uid:1", groups: tuple[str, ...] = ()
    ) -> None:
        self.on_writable: Callable[[], None] = lambda: None
        self.room = True
        self.lines: list[bytes] = []
        self.answered: dict[bytes | None, int] = {}
        self._queue: asyncio.Queue[Json] = asyncio.Queue()
        self.talk = gateway.conversation(self, Principal(name, groups), only)
        self._next = 0

    def deliver(self, line: bytes, about: bytes | None, *, last: bool) -> None:
        self.lines.append(line)
        if last:
            self.answered[about] = self.answered.get(about, 0) + 1
        assert not line or (line.endswith(b"\n") and line.count(b"\n") == 1)
        self._queue.put_nowait(json.loads(line) if line else {})

    def writable(self) -> bool:
        return self.room

    def send(self, value: object) -> None:
        """Any message."""
        self.talk.receive(value if isinstance(value, bytes) else json.dumps(value).encode() + b"\n")

    async def next(self) -> Json:
        """The next message, of whatever kind; nothing for a request that was cancelled."""
        return await asyncio.wait_for(self._queue.get(), 10)

    def waiting(self) -> int:
        """How many messages nobody has looked at yet."""
        return self._queue.qsize()

    def ask(self, method: str, params: Mapping[str, object] | None = None) -> int:
        """Send a request; its id."""
        self._next += 1
        self.send({"jsonrpc": "2.0", "id": self._next, "method": method, "params": params or {}})
        return self._next

    async def answer(self, number: object) -> Json:
        """The answer to a request; what comes before that is dropped."""
        while True:
            found = await self.next()
            if found.get("id") == number and "method" not in found:
                return found

    async def request(self, method: str, params: Mapping[str, object] | None = None) -> Json:
        """A request and its answer."""
        return await self.answer(self.ask(method, params))

    async def initialize(self, **capabilities: object) -> Json:
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


def code(answer: Mapping[str, object]) -> object:
    """Of an error."""
    error = answer["error"]
    assert isinstance(error, dict)
    return error["code"]


def said(answer: Mapping[str, object]) -> str:
    """By an error."""
    error = answer["error"]
    assert isinstance(error, dict)
    return str(error["message"])


MODERN = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"},
}


def modern(params: Mapping[str, object] | None = None, **capabilities: object) -> dict[str, object]:
    """The params of a modern request."""
    meta = MODERN | {"io.modelcontextprotocol/clientCapabilities": capabilities}
    return {**(params or {}), "_meta": meta}


def small(*words: str, **settings: object) -> Entry:
    """The small server."""
    return Entry([sys.executable, "-S", str(SERVER), *words], settings)


_pins: dict[tuple[str, ...], Manifest] = {}


async def pinned(servers: dict[str, Entry]) -> dict[str, Entry]:
    """The same, pinned; each command once in a run of the tests."""
    for name, entry in servers.items():
        key = tuple(entry.argv)
        if key and key not in _pins:
            stand = Stand(servers)
            _pins[key] = await Pinning(stand, name, Journal(quiet=True)).run()
            await stand.end()
        if key:
            entry.manifest = manifests.encode(_pins[key])
    return servers


def puppet(*eras: str, lists: dict[str, Json] | None = None, **settings: object) -> Entry:
    """A server in the test's own hands."""
    return Entry([], settings, manifest(*eras, lists=lists))


@dataclass
class World:
    """A gateway, what it stands on, and what it has counted."""

    gateway: Gateway
    stand: Stand
    meter: Meter

    def client(self, only: str | None = None, name: str = "uid:1") -> Client:
        """A new client."""
        return Client(self.gateway, only, name)

    async def legacy(self, only: str | None = None, name: str = "uid:1", **capabilities: object) -> Client:
        """A client that has initialized."""
        made = self.client(only, name)
        await made.initialize(**capabilities)
        return made

    async def puppet(self) -> Puppet:
        """The next process of a puppet that has been started."""
        return await asyncio.wait_for(self.stand.puppets.get(), 10)

    async def greeted(self) -> Puppet:
        """The same, ready for calls."""
        found = await self.puppet()
        await found.greet()
        return found

    async def until(self, wanted: Callable[[], object]) -> None:
        """Wait for something that comes about in this loop."""
        async with asyncio.timeout(10):
            while not wanted():
                await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def world(servers: dict[str, Entry], only: str | None = None) -> AsyncIterator[World]:
    """A gateway over these servers, and everything ended after it."""
    stand, meter = Stand(await pinned(servers)), Meter()
    made = Gateway(stand, meter, Journal(quiet=True), only)
    problems = await made.load()
    assert problems == []
    try:
        yield World(made, stand, meter)
    finally:
        for each in list(made.conversations):
            each.close()
        await made.close()
        await stand.end()
