"""The control socket: whoever started a gateway, and root, can see how it is and what its servers said.

Runs unprivileged. An abstract Unix socket, so that nothing is left on disk; the kernel says who connects. A
connection is one request, and nothing that it can ask for changes anything.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import socket
import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from supervisor import wire
from supervisor.errors import SupervisorError
from supervisor.proxy import status

if TYPE_CHECKING:
    from supervisor.proxy.gateway import Gateway

PREFIX = "supervisor"
MAX_REQUEST, MAX_CONNECTIONS = 4096, 16
# seconds for a request to arrive, or for what is written to be read
_SECONDS = 5.0
# lines that wait for a follower that reads slowly
_WAITING = 1000


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`status`, or `logs` of a server: the lines that are kept, and with `follow` each new one."""

    req: str
    server: str = ""
    follow: bool = False


_decoder = msgspec.json.Decoder(Request)


def bind() -> socket.socket:
    """Listen, before the gateway becomes another user: the kernel tells who asks us who has called this."""
    name = f"\0{PREFIX}-{os.getuid()}-{os.getpid()}"
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            sock.bind(name)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            # anybody on this host can take a name that can be guessed
            sock.bind(f"{name}-{secrets.token_hex(8)}")
        sock.listen(MAX_CONNECTIONS)
    except OSError as error:
        sock.close()
        raise SupervisorError(f"the control socket: {error.strerror or error}") from None
    return sock


class Control:
    """The answering end. `owner` is the uid that started us; `monitor` the pid of whom we open sessions from."""

    def __init__(self, gateway: Gateway, *, owner: int, monitor: int) -> None:
        self._gateway = gateway
        self._owner, self._monitor = owner, monitor
        self._since = int(time.time())
        self._open: set[asyncio.Task[None]] = set()

    async def serve(self, sock: socket.socket) -> None:
        """Until it is cancelled; then whoever is connected is hung up on."""
        server = await asyncio.start_unix_server(self._accepted, sock=sock, limit=MAX_REQUEST)
        try:
            await server.serve_forever()
        finally:
            server.close()
            for each in self._open:
                each.cancel()
            await asyncio.gather(*self._open, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            return
        try:
            if len(self._open) < MAX_CONNECTIONS and self._may(writer):
                self._open.add(task)
                await self._answer(reader, writer)
        except (OSError, TimeoutError, EOFError, asyncio.LimitOverrunError):
            return  # gone, slow, or not one of ours
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            self._open.discard(task)

    def _may(self, writer: asyncio.StreamWriter) -> bool:
        return wire.peer(writer.get_extra_info("socket"))[1] in (0, self._owner)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(_SECONDS):
            line = await reader.readuntil()
        try:
            request = _decoder.decode(line)
        except msgspec.DecodeError as error:
            await _say(writer, {"error": f"not a request: {error}"})
            return
        if request.req == "status":
            about = {"owner": self._owner, "monitor": self._monitor, "since": self._since}
            await _say(writer, about | status.status(self._gateway))
        elif request.req == "logs":
            await self._logs(request, reader, writer)
        else:
            await _say(writer, {"error": f'not a request: "{request.req[:100]}"'})

    async def _logs(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if request.server not in self._gateway.servers:
            await _say(writer, {"error": f'there is no server "{request.server[:100]}" here'})
            return
        journal = self._gateway.journal
        follower = Follower()
        followers = journal.followers.setdefault(request.server, [])
        if request.follow:
            followers.append(follower.add)
        try:
            for each in journal.lines(request.server):
                await _say(writer, {"line": each.decode(errors="replace")})
            if request.follow:
                await _follow(follower, reader, writer)
        finally:
            if request.follow:
                followers.remove(follower.add)


class Follower:
    """Lines on their way to whoever follows; of those who read too slowly the oldest are dropped, and counted."""

    def __init__(self) -> None:
        self.more = asyncio.Event()
        self._lines: deque[bytes] = deque()
        self._dropped = 0

    def add(self, line: bytes) -> None:
        """One more line."""
        if len(self._lines) >= _WAITING:
            self._lines.popleft()
            self._dropped += 1
        self._lines.append(line)
        self.more.set()

    def take(self) -> Iterator[dict[str, object]]:
        """What there is, as it is sent."""
        self.more.clear()
        if self._dropped:
            yield {"dropped": self._dropped}
            self._dropped = 0
        while self._lines:
            yield {"line": self._lines.popleft().decode(errors="replace")}


async def _follow(follower: Follower, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until whoever asked hangs up, or says anything more."""
    gone = asyncio.ensure_future(reader.read(1))
    try:
        while not gone.done():
            more = asyncio.ensure_future(follower.more.wait())
            await asyncio.wait({gone, more}, return_when=asyncio.FIRST_COMPLETED)
            more.cancel()
            for each in follower.take():
                await _say(writer, each)
    finally:
        gone.cancel()


async def _say(writer: asyncio.StreamWriter, body: dict[str, object]) -> None:
    writer.write(msgspec.json.encode(body) + b"\n")
    async with asyncio.timeout(_SECONDS):
        await writer.drain()
