"""The HTTP server: connections on sockets that were bound before privileges were dropped.

Runs unprivileged. Bounded in their number; once a second each is asked whether it waits in vain.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import stat
import time
from typing import cast

from supervisor.errors import ConfigError, SupervisorError
from supervisor.proxy.http_connection import Connection, Visit

MAX_CONNECTIONS = 1000
# seconds between two looks at all connections, and for the answers that are under way at the end
TICK, _LAST = 1.0, 2.0


def bind(address: str) -> socket.socket:
    """Listen on HOST:PORT or unix:PATH; ConfigError for what is neither, SupervisorError when it is taken."""
    if address.startswith("unix:"):
        return _bind_unix(address.removeprefix("unix:"))
    host, _, port = address.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    if not port.isdigit() or not 0 <= int(port) < 65536:
        raise ConfigError(f'--http "{address}": write HOST:PORT, PORT, or unix:PATH')
    try:
        return socket.create_server((host, int(port)), family=_family(host), backlog=256)
    except OSError as error:
        # what the library adds is the address once more
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise SupervisorError(f"--http {address}: {reason}") from None


def _family(host: str) -> int:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _bind_unix(path: str) -> socket.socket:
    with contextlib.suppress(OSError):
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(path)
                except ConnectionRefusedError:
                    os.unlink(path)
    sock = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        sock.bind(path)
    except OSError as error:
        sock.close()
        raise SupervisorError(f"--http unix:{path}: {error.strerror or error}") from None
    finally:
        os.umask(before)
    sock.listen(256)
    return sock


def is_local(sock: socket.socket) -> bool:
    """Whether only this machine reaches it."""
    if sock.family == socket.AF_UNIX:
        return True
    host = str(sock.getsockname()[0])
    return host == "::1" or host.startswith("127.")


class _Full(asyncio.Protocol):
    """A connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's."""
        writer = cast(asyncio.Transport, transport)
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
        writer.close()


class Prepared:
    """A server that has imported all it needs; its application comes when privileges are gone."""

    def __init__(self, sockets: list[socket.socket]) -> None:
        self._sockets = sockets
        # sessions need descriptors as well
        self._most = min(MAX_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
        self._connections: set[Connection] = set()
        self._ending = asyncio.Event()

    async def serve(self, visit: Visit) -> None:
        """Until `stop`; what is being answered then has a moment."""

        def accepted() -> asyncio.Protocol:
            if len(self._connections) >= self._most and not self._displaced():
                return _Full()
            made = Connection(visit, self._connections.discard)
            self._connections.add(made)
            return made

        loop = asyncio.get_running_loop()
        servers = [
            await (loop.create_unix_server if each.family == socket.AF_UNIX else loop.create_server)(
                accepted, sock=each
            )
            for each in self._sockets
        ]
        while not self._ending.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), TICK)
            for connection in list(self._connections):
                connection.look(time.monotonic())
        for server in servers:
            server.close()
        await self._end()

    def _displaced(self) -> bool:
        """Make room: hang up on whom nothing was heard of for longest. Who says nothing keeps nobody out."""
        waiting = [each for each in self._connections if each.waits]
        if waiting:
            longest = min(waiting, key=lambda each: each.since)
            longest.abort()
            self._connections.discard(longest)
        return bool(waiting)

    async def _end(self) -> None:
        deadline = time.monotonic() + _LAST
        for connection in list(self._connections):
            connection.finish()
        while self._connections and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        for connection in list(self._connections):
            connection.abort()

    def stop(self) -> None:
        """Close the connections and return from `serve`."""
        self._ending.set()
