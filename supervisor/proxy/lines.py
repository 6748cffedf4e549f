"""Newline-framed streams on asyncio: bounded lines in, back-pressure out.

Runs unprivileged. A pipe or socket is used as it is, and left as it was; a terminal or file, which other programs
share, is read by a thread and written blocking, because making it non-blocking would break them.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

from supervisor.proxy import pump
from supervisor.proxy.meter import Meter

# as a number: a search for it is one call of memchr
_NEWLINE = 10
Line = Callable[[bytes], None]


def _is_stream(fd: int) -> bool:
    mode = os.fstat(fd).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


@contextmanager
def as_they_were(*fds: int) -> Iterator[None]:
    """Give `fds` back as blocking, or not, as they came: O_NONBLOCK is shared with every other copy of them."""
    before = [os.get_blocking(fd) for fd in fds]
    try:
        yield
    finally:
        for fd, blocking in zip(fds, before, strict=True):
            os.set_blocking(fd, blocking)


class Reader(asyncio.Protocol):
    """Calls `line` with each line (newline included), `too_long` once when one is over `limit`, `end` last.

    With a `meter`, it reads no faster than that allows, and calls `over` when nothing more is passed on.
    """

    def __init__(
        self,
        limit: int,
        line: Line,
        too_long: Callable[[], None],
        end: Callable[[], None],
        *,
        meter: Meter | None = None,
        over: Callable[[], None] = lambda: None,
    ) -> None:
        self.limit = limit
        self._line, self._too_long, self._end = line, too_long, end
        self._meter, self._over = meter, over
        self._buffer = bytearray()
        # how much of the buffer is known to be without a newline
        self._searched = 0
        self._skipping = self._delivering = False
        self._full = self._early = self._paused = False
        self.transport: asyncio.ReadTransport | None = None

    async def open(self, fd: int) -> None:
        """Start reading."""
        if not _is_stream(fd):
            read, write = os.pipe()
            pump.start(fd, write, close=True)
            fd = read
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: self, os.fdopen(fd, "rb", buffering=0))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's. uvloop's transports do not derive from asyncio's classes."""
        self.transport = cast(asyncio.ReadTransport, transport)

    def data_received(self, data: bytes) -> None:
        """asyncio's. What lies between two newlines is one line, however it arrived."""
        meter = self._meter
        if meter:
            size = len(data)
            if size <= meter.free:
                meter.free -= size
                meter.passed += size
            else:
                data = self._metered(meter, data)
        if self._buffer or self._full or data.find(_NEWLINE) != len(data) - 1 or not data:
            self._buffer += data
            self._deliver_all()
        elif self._skipping or len(data) > self.limit or data.isspace():
            self._deliver(data)
        else:
            self._line(data)

    def _deliver_all(self) -> None:
        """Every line that is there, until somebody cannot take more."""
        if self._delivering:
            return
        self._delivering = True
        buffer, start = self._buffer, 0
        while not self._full and (end := buffer.find(b"\n", max(start, self._searched))) >= 0:
            line = bytes(memoryview(buffer)[start : end + 1])
            start = end + 1
            self._deliver(line)
        self._delivering = False
        del buffer[:start]
        self._searched = 0 if self._full else len(buffer)
        if self._searched > self.limit:
            buffer.clear()
            self._searched = 0
            if not self._skipping:
                self._skipping = True
                self._too_long()

    def _metered(self, meter: Meter, data: bytes) -> bytes:
        before = meter.over
        data = meter.take(data)
        if meter.over and not before:
            self._over()
        if seconds := meter.wait():
            self._early = True
            self._apply()
            asyncio.get_running_loop().call_later(seconds, self._due)
        return data

    def _due(self) -> None:
        self._early = False
        self._apply()

    def _deliver(self, line: bytes) -> None:
        if self._skipping:
            self._skipping = False
        elif len(line) > self.limit:
            self._too_long()
        elif not line.isspace():
            self._line(line)

    def eof_received(self) -> None:
        """asyncio's."""

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio's. A last line without a newline is a line."""
        self._full = False
        self._deliver_all()
        while b"\n" in self._buffer:  # held back once more meanwhile, and nothing will let it go on
            self._full = False
            self._deliver_all()
        if self._buffer and not (self._meter and self._meter.over):
            self._deliver(bytes(self._buffer) + b"\n")
        self._buffer.clear()
        self._end()

    def pause(self, *, paused: bool) -> None:
        """Stop and go on reading, for back-pressure; what has been read already waits as well."""
        self._full = paused
        if not paused:
            self._deliver_all()
        self._apply()

    def _apply(self) -> None:
        """Read, unless the other side is full or it is too early."""
        paused = self._full or self._early
        if paused != self._paused and self.transport and not self.transport.is_closing():
            self._paused = paused
            if paused:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()


class Writer(asyncio.Protocol):
    """Writes bytes; tells `full` when the reader at the other end is slow, `gone` when there is none."""

    def __init__(self, full: Callable[[bool], None], gone: Callable[[], None]) -> None:
        self._full, self._gone = full, gone
        self._transport: asyncio.WriteTransport | None = None
        self._fd = -1
        self._closing = False
        self.closed = asyncio.Event()

    async def open(self, fd: int) -> None:
        """Start writing."""
        if _is_stream(fd):
            loop = asyncio.get_running_loop()
            await loop.connect_write_pipe(lambda: self, os.fdopen(fd, "wb", buffering=0))
        else:
            self._fd = fd

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's."""
        self._transport = cast(asyncio.WriteTransport, transport)

    def pause_writing(self) -> None:
        """asyncio's."""
        self._full(True)

    def resume_writing(self) -> None:
        """asyncio's."""
        self._full(False)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio's."""
        self.closed.set()
        if not self._closing:
            self._gone()

    def write(self, data: bytes) -> None:
        """Queue or write `data`; nothing happens once the reader is gone."""
        if self._transport is not None:
            if not self._transport.is_closing():
                self._transport.write(data)
        elif self._fd >= 0:
            try:
                pump.write_all(self._fd, data)
            except OSError:
                self._fd = -1
                self.closed.set()
                self._gone()

    async def flush_and_close(self, seconds: float) -> None:
        """Write what is queued, within `seconds`, and close."""
        self._closing = True
        if self._transport is None or self.closed.is_set():
            return
        # not write_eof(): it would shut a socket down under everybody who shares it
        self._transport.close()
        try:
            await asyncio.wait_for(self.closed.wait(), seconds)
        except TimeoutError:
            self._transport.abort()
