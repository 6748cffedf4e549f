"""The stdio front: one client on this process's standard input and output.

Runs unprivileged. The streams are given back as they came; what a client has asked for is answered, within a bound,
also after the end of its input.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

from supervisor.proxy import envelope, lines, message, pump
from supervisor.proxy.gateway import Gateway
from supervisor.proxy.principal import Principal

_CLIENT_LINE = 16 << 20
# seconds that answers may take after the end of input
_LAST = 5.0


class Stdio:
    """An outlet and its conversation; `run()` until the client has gone."""

    def __init__(self, gateway: Gateway, principal: Principal) -> None:
        self.on_writable: Callable[[], None] = lambda: None
        self._full = False
        self._end: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._conversation = gateway.conversation(self, principal, None)
        self._reader = lines.Reader(_CLIENT_LINE, self._conversation.receive, self._too_long, self._input_ended)
        self._writer = lines.Writer(self._changed, lambda: self.stop(0))
        self._conversation.blocked = lambda blocked: self._reader.pause(paused=blocked)
        self._interrupted = False

    async def run(self) -> int:
        """The exit status: 0, or 128+n for the signal that ended it."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:
                loop.add_signal_handler(number, self._interrupt, number)
        await self._writer.open(os.dup(1))
        await self._reader.open(os.dup(0))
        status = await self._end
        if not self._interrupted:
            await self._answers()
        self._conversation.close()
        await self._writer.flush_and_close(2)
        return status

    async def _answers(self) -> None:
        """Wait for what is under way, but not counting the starts of servers, which have a bound of their own."""
        clock = asyncio.get_running_loop().time
        deadline = clock() + _LAST
        streams, calls = self._conversation.listeners, self._conversation.calls
        while len(calls) > len(streams) and clock() < deadline:
            if any(each.instance is not None and not each.instance.ready for each in calls.values()):
                deadline = clock() + _LAST
            await asyncio.sleep(0.005)

    def deliver(self, line: bytes, about: bytes | None, *, last: bool) -> None:
        """One line; a request that was cancelled gets none."""
        if line:
            self._writer.write(line)

    def writable(self) -> bool:
        """Whether the client reads as fast as its servers write."""
        return not self._full

    def _changed(self, full: bool) -> None:
        self._full = full
        if not full:
            self.on_writable()

    def _too_long(self) -> None:
        text = f"a message is over the limit of {_CLIENT_LINE} bytes"
        self._writer.write(message.error(message.NULL, envelope.TOO_LONG, text))

    def _input_ended(self) -> None:
        self.stop(0)

    def stop(self, status: int) -> None:
        """End it."""
        if not self._end.done():
            self._end.set_result(status)

    def _interrupt(self, number: int) -> None:
        self._interrupted = True
        self.stop(128 + number)
        if self._end.done() and self._end.result() != 128 + number:
            pump.note("ending")
