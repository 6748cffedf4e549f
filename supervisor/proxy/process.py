"""One running process of a server as streams of lines: how it is reached, held back, and ended.

Runs unprivileged. What the lines mean is `instance`'s business.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from supervisor.errors import SupervisorError
from supervisor.proxy import lines
from supervisor.proxy.link import Exited, Opened
from supervisor.proxy.meter import Meter
from supervisor.proxy.touched import Watch

if TYPE_CHECKING:
    from supervisor.proxy.channel import Channel

_ERROR_LINE = 1 << 16
# seconds: what it said before it ended is still in its pipes; what we said to it before we end it is still in ours
_LAST_WORDS, _FLUSH = 2.0, 0.1


class Traffic:
    """Of all processes of a server: bytes to it and from it, and whether it ever asked during a call."""

    __slots__ = ("asks", "received", "sent")

    def __init__(self) -> None:
        self.received = self.sent = 0
        self.asks = False


class User(Protocol):
    """Whoever writes to a process: `full` says that it does not take more, and later that it does again."""

    def block(self, process: Process, *, full: bool) -> None: ...


class Process:
    """A session, from its start to its end. `received` gets each line of its output.

    `ending` is why it was told to end, if it was; `stderr` gets each line of its errors, and whether that is still
    within what the profile allows it to say.
    """

    def __init__(self, name: str, channel: Channel, received: Callable[[bytes], None]) -> None:
        self.name = name
        self.opened: Opened | None = None
        self.touched: Watch | None = None
        self.ending = ""
        self.ended: asyncio.Future[Exited | None] = asyncio.get_running_loop().create_future()
        self.full = False
        self.users: set[User] = set()
        self.stderr: Callable[[bytes, bool], None] = lambda *_: None
        self.unwell: Callable[[str], None] = self.end
        self._channel = channel
        self._received = received
        self._drained = asyncio.Event()
        self._paused: set[object] = set()
        self._writer = lines.Writer(self._full, lambda: None)
        self._reader: lines.Reader | None = None
        self._errors: lines.Reader | None = None
        self._error_bytes = 0
        self._closing: asyncio.Task[None] | None = None

    async def open(self) -> Opened:
        """Start it; SupervisorError when the monitor says no."""
        opened = self.opened = await self._channel.open(self.name)
        if self.ending:
            self._close_soon()  # nobody wants it any more
        return opened

    async def connect(self, opened: Opened) -> None:
        """Take its streams; SupervisorError when that fails, and none of its descriptors is left open."""
        if opened.pidfd >= 0:
            os.close(opened.pidfd)  # the monitor tells of its end
        self.touched = Watch(opened.files)
        meter = Meter(opened.output, opened.output_rate)
        self._reader = lines.Reader(
            opened.output_line,
            self._received,
            self._too_long,
            self._output_ended,
            meter=meter,
            over=lambda: self.unwell(meter.reason()),
        )
        self._errors = lines.Reader(_ERROR_LINE, self._error, lambda: None, lambda: None)
        left = [opened.stdin, opened.stdout, opened.stderr]
        try:
            for stream in (self._writer, self._reader, self._errors):
                await stream.open(left.pop(0))
        except OSError as error:
            self._drained.set()
            self.touched.close()
            for fd in left:
                os.close(fd)
            raise SupervisorError(f"its streams cannot be used: {error.strerror or error}") from None
        self._pause()

    def _output_ended(self) -> None:
        """A process that has closed its output and does not end as well is of no use any more."""
        self._drained.set()
        grace = self.opened.grace if self.opened else 0.0
        asyncio.get_running_loop().call_later(grace, self._mute)

    def _mute(self) -> None:
        if not self.ended.done() and not self.ending:
            self.unwell("it closed its standard output")

    def write(self, line: bytes) -> None:
        """Send a line as it is."""
        self._writer.write(line)

    def _full(self, full: bool) -> None:
        self.full = full
        for user in list(self.users):
            user.block(self, full=full)

    @property
    def held(self) -> bool:
        """Whether somebody who gets what it says cannot take more."""
        return bool(self._paused)

    def pause(self, who: object, *, paused: bool) -> None:
        """Stop reading as long as anybody who gets what it says cannot take more."""
        if not self.ended.done() and paused != (who in self._paused):
            (self._paused.add if paused else self._paused.discard)(who)
            self._pause()

    def _pause(self) -> None:
        if self._reader:
            self._reader.pause(paused=bool(self._paused))

    def _error(self, line: bytes) -> None:
        self._error_bytes += len(line)
        limit = self.opened.stderr_limit if self.opened else 0
        if self._error_bytes <= limit:
            self.stderr(line, True)
            return
        if self._error_bytes - len(line) <= limit:
            said = f"(its standard error is over {limit} bytes; the rest is not passed on: limits.stderr)\n"
            self.stderr(said.encode(), True)
        self.stderr(line, False)

    def _too_long(self) -> None:
        most = self.opened.output_line if self.opened else 0
        self.unwell(f"it wrote a line of more than {most} bytes (limits.output_line)")

    def end(self, reason: str) -> None:
        """End the session: SIGTERM, its grace, SIGKILL; `ended` tells when it has ended."""
        if not self.ending:
            self.ending = reason
            if self.opened and not self.ended.done():
                self._close_soon()

    def _close_soon(self) -> None:
        self._closing = asyncio.get_running_loop().create_task(self._close())

    async def _close(self) -> None:
        await self._writer.flush_and_close(_FLUSH)
        if self.opened:
            # without a monitor there is no session
            with contextlib.suppress(SupervisorError):
                await self._channel.close_session(self.opened.session)

    async def last_words(self) -> str:
        """Wait for the end, and read what it said before; the reason of the end, in words."""
        exited = await self.ended
        # no more than the pipe holds
        self._paused.clear()
        self._pause()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._drained.wait(), _LAST_WORDS)
        return self.ending or (exited.reason if exited else "the supervisor's monitor ended")

    async def shut(self) -> None:
        """Give up its streams, whoever else has them."""
        if self.touched:
            # for those calls that ended with it
            await self.touched.since()
            self.touched.close()
        for each in (self._reader, self._errors):
            if each and each.transport:
                each.transport.close()
        await self._writer.flush_and_close(0)
