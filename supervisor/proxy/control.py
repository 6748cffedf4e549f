"""What a gateway tells its owner: its state and its servers' last words, on a socket that no file stands for.

Runs unprivileged. An abstract Unix socket, bound before privileges are dropped, named after the owner and the
process; only the owner and root are answered, by the kernel's word. One JSON request a connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import struct
import time

from supervisor.proxy.calls import Call
from supervisor.proxy.gateway import Gateway
from supervisor.proxy.servers import Server

PREFIX = "supervisor-"
_MAX = 4096
_QUEUE = 1000


def bind() -> socket.socket:
    """The socket of this process."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(f"\0{PREFIX}{os.getuid()}-{os.getpid()}")
    sock.listen(16)
    return sock


class Control:
    """The answering end. `owner` is the uid that started us; `monitor` the pid of whom we open sessions from."""

    def __init__(self, gateway: Gateway, *, owner: int, monitor: int) -> None:
        self._gateway = gateway
        self._owner = owner
        self._monitor = monitor
        self._since = time.time()

    async def serve(self, sock: socket.socket) -> None:
        """Until it is cancelled."""
        server = await asyncio.start_unix_server(self._client, sock=sock, limit=_MAX)
        try:
            await server.serve_forever()
        finally:
            server.close()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            peer = writer.get_extra_info("socket")
            uid = struct.unpack("iii", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
            line = await asyncio.wait_for(reader.readline(), 5)
            request = json.loads(line)
            if uid in (0, self._owner) and isinstance(request, dict):
                await self._answer(request, reader, writer)
        except (OSError, ValueError, TimeoutError):
            pass  # whoever asked is gone, or no client of ours
        finally:
            with contextlib.suppress(OSError):
                writer.close()

    async def _answer(
        self, request: dict[str, object], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if request.get("req") == "status":
            writer.write(json.dumps(self.status()).encode() + b"\n")
            await writer.drain()
        elif request.get("req") == "logs":
            await self._logs(str(request.get("server")), bool(request.get("follow")), reader, writer)

    async def _logs(
        self, server: str, follow: bool, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        journal = self._gateway.journal
        for line in journal.lines(server):
            writer.write(line + b"\n")
        await writer.drain()
        if not follow:
            return
        queue: asyncio.Queue[bytes] = asyncio.Queue(_QUEUE)

        def more(line: bytes) -> None:
            with contextlib.suppress(asyncio.QueueFull):  # a reader that sleeps misses lines
                queue.put_nowait(line)

        followers = journal.followers.setdefault(server, [])
        followers.append(more)
        passing = asyncio.create_task(_pass_on(queue, writer))
        try:
            await reader.read()  # until whoever asked hangs up
        finally:
            passing.cancel()
            followers.remove(more)

    def status(self) -> dict[str, object]:
        """Everything, as a table."""
        gateway = self._gateway
        return {
            "pid": os.getpid(),
            "owner": self._owner,
            "monitor": self._monitor,
            "since": int(self._since),
            "clients": len(gateway.conversations),
            "servers": [_server(each) for each in gateway.servers.values()],
        }


async def _pass_on(queue: asyncio.Queue[bytes], writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(await queue.get() + b"\n")
        await writer.drain()


def _server(server: Server) -> dict[str, object]:
    now = time.monotonic()
    return {
        "name": server.name,
        "state": "STOPPED" if server.stopped else server.state,
        "calls": server.calls,
        "failures": server.failures,
        "error": server.last_error,
        "changed": [f"{each.kind[:-1]} {each.name} {each.how}" for each in server.drift],
        "pinned": server.manifest.pinned,
        "profile": server.profile,
        "sessions": [
            {
                "session": each.opened.session if each.opened else 0,
                "pid": each.opened.pid if each.opened else 0,
                "user": each.principal,
                "era": "modern" if each.modern else "legacy",
                "ready": each.ready,
                "calls": each.requests,
                "in_flight": sum(isinstance(waiter, Call) for waiter in each.pending.values()),
                "idle": round(now - each.used, 1),
            }
            for each in server.instances.values()
        ],
    }
