"""The HTTP server: uvicorn's, on sockets that were bound before privileges were dropped.

Runs unprivileged. Bounded where uvicorn is not: the size of a request's head, and the time that a request may take
to arrive. Over a Unix socket the client is whom the kernel says it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import struct
from collections.abc import Iterator

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from supervisor.errors import ConfigError, SupervisorError
from supervisor.proxy.http import Front, Receive, Scope, Send

MAX_HEAD, MAX_CONNECTIONS = 64 << 10, 1000
SECONDS = 20.0


class Connection(HttpToolsProtocol):
    """One client's connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """asyncio's."""
        super().connection_made(transport)
        self._head = 0
        self._late: asyncio.TimerHandle | None = self.loop.call_later(SECONDS, transport.abort)
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family == socket.AF_UNIX:
            uid = struct.unpack("iii", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
            self.client = (f"uid:{uid}", 0)
        elif sock is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        """asyncio's."""
        if self._late is None and (self.cycle is None or self.cycle.response_complete):
            self._late = self.loop.call_later(SECONDS, self.transport.abort)
        self._head += len(data)
        super().data_received(data)
        if self._head > MAX_HEAD and not self.transport.is_closing():
            # no head was complete in all of this
            self.transport.abort()

    def on_headers_complete(self) -> None:
        """The parser's."""
        self._head = -(1 << 62)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The parser's."""
        self._head = 0
        if self._late is not None:
            self._late.cancel()
            self._late = None
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio's."""
        if self._late is not None:
            self._late.cancel()
        super().connection_lost(exc)


class Server(uvicorn.Server):
    """Signals are ours."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them alone."""
        yield


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
        raise SupervisorError(f"--http {address}: {error.strerror or error}") from None


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


class Prepared:
    """A server that has imported all it needs; its application comes when privileges are gone."""

    def __init__(self, sockets: list[socket.socket]) -> None:
        self._sockets = sockets
        self._front: Front | None = None
        config = uvicorn.Config(
            self._call,
            http=Connection,
            ws="none",
            interface="asgi3",
            # who a client is, is the kernel's word, not a header's
            proxy_headers=False,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=75,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=2,
        )
        config.load()
        self._server = Server(config)

    async def _call(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._front is not None:
            await self._front(scope, receive, send)

    async def serve(self, front: Front) -> None:
        """Until `stop`; SupervisorError when the server ends by itself."""
        self._front = front
        await self._server.serve(sockets=self._sockets)
        if not self._server.should_exit:
            raise SupervisorError("the HTTP server ended unexpectedly")

    def stop(self) -> None:
        """Close the connections and return from `serve`."""
        self._server.should_exit = True
