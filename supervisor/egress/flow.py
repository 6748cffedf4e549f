"""Copying between two sockets by splice(2): the bytes stay in the kernel.

Runs in the broker. One Flow is one direction with a pipe of its own; a Pair is both, until both have ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable

_CHUNK = 64 * 1024
_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
Moved = Callable[[int], None]


class Flow:
    """One direction. `moved` hears of each step's bytes, `ended` once: with True after an orderly end."""

    def __init__(
        self, source: socket.socket, sink: socket.socket, moved: Moved, ended: Callable[[bool], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._source, self._sink = source, sink
        self._from, self._to = source.fileno(), sink.fileno()
        self._moved, self._ended = moved, ended
        self._held = 0
        self._blocked = False
        self._running = True
        self._out, self._in = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._loop.add_reader(self._from, self._readable)

    def stop(self) -> None:
        """Copy no more; the sockets stay open."""
        if self._running:
            self._running = False
            self._loop.remove_writer(self._to) if self._blocked else self._loop.remove_reader(self._from)
            os.close(self._in)
            os.close(self._out)

    def _readable(self) -> None:
        try:
            count = os.splice(self._from, self._in, _CHUNK, flags=_FLAGS)
            if count:
                self._held += count
                self._moved(count)
                if self._running:
                    self._flush()
                return
            self._sink.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            return
        except OSError:
            self._end(orderly=False)
        else:
            self._end(orderly=True)

    def _writable(self) -> None:
        try:
            self._flush()
        except OSError:
            self._end(orderly=False)

    def _flush(self) -> None:
        while self._held:
            try:
                self._held -= os.splice(self._out, self._to, self._held, flags=_FLAGS)
            except BlockingIOError:
                if not self._blocked:
                    self._blocked = True
                    self._loop.remove_reader(self._from)
                    self._loop.add_writer(self._to, self._writable)
                return
        if self._blocked:
            self._blocked = False
            self._loop.remove_writer(self._to)
            self._loop.add_reader(self._from, self._readable)

    def _end(self, *, orderly: bool) -> None:
        self.stop()
        self._ended(orderly)


async def pair(client: socket.socket, server: socket.socket, sent: Moved, received: Moved) -> None:
    """Copy both ways until both have ended, or one has failed. Cancelled, it stops at once."""
    done = asyncio.get_running_loop().create_future()
    left = 2

    def ended(orderly: bool) -> None:
        nonlocal left
        left -= 1
        if (not left or not orderly) and not done.done():
            done.set_result(None)

    flows = []
    try:
        flows.append(Flow(client, server, sent, ended))
        flows.append(Flow(server, client, received, ended))
        await done
    finally:
        for each in flows:
            each.stop()


async def one_way(source: socket.socket, sink: socket.socket, moved: Moved) -> None:
    """Copy until the source ends or either fails."""
    done = asyncio.get_running_loop().create_future()

    def ended(_: bool) -> None:
        if not done.done():
            done.set_result(None)

    flow = Flow(source, sink, moved, ended)
    try:
        await done
    finally:
        flow.stop()


def linger(sock: socket.socket) -> None:
    """Say that nothing more comes; errors mean that nobody listens."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
