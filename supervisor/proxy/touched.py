"""What a session has opened since it was last asked: the proxy's end of its watcher of files.

Runs unprivileged. One question is one message each way; of calls at the same time each waits for the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable

from supervisor import wire
from supervisor.audit.record import Opened
from supervisor.proxy import link

# more parts than what a watcher can hold, and as many files as it holds
_PARTS, _MOST = 512, 20_000
# a watcher that says nothing for so long is as good as gone
_SECONDS = 10.0
# seconds: what a session reached is told by the broker, over the monitor, after the server has answered
PATIENCE = 0.1
# seconds: a question costs more than a small call; so soon after one, calls that end together share the next
_RECENT, _TOGETHER = 0.005, 0.002
# what was opened, and whether that is all
Seen = Callable[[list[Opened], bool], None]


class Window:
    """What was opened while something ran. Others that ran at the same time have the same files in theirs."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._files: dict[Opened, None] = {}
        self._complete = True

    def add(self, files: list[Opened], complete: bool) -> None:
        """What was told since the last time."""
        if files:
            self._files |= dict.fromkeys(files[: max(0, _MOST - len(self._files))])
        self._complete &= complete and len(self._files) < _MOST

    def end(self, seen: Seen, *, hurry: bool = False) -> None:
        """Tell everything since it was opened, when the answer to a call has been read. `hurry`: somebody waits."""

        def asked() -> None:
            self._watch.windows.discard(self)
            seen(list(self._files), self._complete)

        self._watch.ask(asked, hurry=hurry)

    async def close(self) -> tuple[list[Opened], bool]:
        """The same, to be waited for."""
        found: asyncio.Future[tuple[list[Opened], bool]] = asyncio.get_running_loop().create_future()
        self.end(lambda files, complete: None if found.done() else found.set_result((files, complete)))
        return await found


class Watch:
    """Over the socket `files` of an opened session, which it owns; -1: nobody knows. Needs a running loop."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd) if fd >= 0 else None
        self._loop = asyncio.get_running_loop()
        self.windows: set[Window] = set()
        # who waits for the next question, and for the answer of the one under way (None: there is none)
        self._next: list[Callable[[], None]] = []
        self._under_way: list[Callable[[], None]] | None = None
        self._hurry = False
        self._asked = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._silent: asyncio.TimerHandle | None = None
        # the parts of its answer
        self._files: list[Opened] = []
        self._parts = 0
        # what a watcher says that ends with its session, of its own accord; then everything is known
        self._last: wire.Message | None = None
        self._over = False
        if self._socket:
            self._socket.setblocking(False)
            self._loop.add_reader(self._socket.fileno(), self._readable)

    @property
    def on(self) -> bool:
        """Whether anybody knows."""
        return self._socket is not None

    def window(self) -> Window:
        """Begin to collect, before a call is sent. What was opened since the last question is in it as well."""
        window = Window(self)
        self.windows.add(window)
        return window

    async def since(self) -> tuple[list[Opened], bool]:
        """What was opened since the last question, and whether that is all of it."""
        return await self.window().close()

    def ask(self, then: Callable[[], None], *, hurry: bool = False) -> None:
        """Ask what was opened, for every window, by a question that is not under way yet."""
        self._next.append(then)
        self._hurry = self._hurry or hurry
        if self._under_way is None:
            self._soon()

    def _soon(self) -> None:
        if self._hurry or time.monotonic() - self._asked > _RECENT:
            self._begin()
        elif self._timer is None:
            self._timer = self._loop.call_later(_TOGETHER, self._begin)

    def _begin(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        self._asked = time.monotonic()
        self._under_way, self._next, self._hurry = self._next, [], False
        self._files, self._parts = [], 0
        if self._over:
            # of a session that has ended everything is known when its watcher has said its last
            self._end(complete=True)
        else:
            self._exchange("since")

    def _exchange(self, request: str) -> None:
        self._parts += 1
        if self._socket is None or self._last:
            self._end_with_last()
            return
        self._silent = self._loop.call_later(_SECONDS, self.close)
        # its last may still be there to be read when it does not listen any more
        with contextlib.suppress(OSError):
            wire.send(self._socket, {"req": request})

    def _was_asked(self) -> bool:
        """Whether an answer was waited for; it is no more."""
        if self._silent is None:
            return False
        self._silent.cancel()
        self._silent = None
        return True

    def _end_with_last(self) -> None:
        last, self._last = self._last, None
        self._over = self._over or last is not None
        if last is None:
            self._end(complete=False)
        else:
            self._files += _opened(last)
            self._end(complete=last.get("complete") is True)

    def _heard(self, answer: wire.Message) -> None:
        self._files += _opened(answer)
        if answer.get("more") and self._parts < _PARTS:
            self._exchange("more")
        else:
            self._end(complete=not answer.get("more") and answer.get("complete") is True)

    def _end(self, *, complete: bool) -> None:
        for window in self.windows:
            window.add(self._files, complete)
        told, self._under_way = iter(self._under_way or ()), None
        try:
            for each in told:
                each()
        finally:
            # one that raises takes nothing from the others
            for each in told:
                self._loop.call_soon(each)
            if self._next and self._under_way is None:
                self._soon()

    def _readable(self) -> None:
        for received in link.arrived(self._socket) if self._socket else ():
            if received is None:
                self.close()
                return
            if received[0].get("last"):
                self._last = received[0]
            if self._was_asked():
                if self._last:
                    self._end_with_last()
                else:
                    self._heard(received[0])
            if not self._socket:
                return

    def close(self) -> None:
        """Whoever waits gets what is known so far."""
        if self._socket:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None
        if self._was_asked():
            self._end_with_last()


def _opened(answer: wire.Message) -> list[Opened]:
    files = answer.get("files")
    pairs = [each for each in files if isinstance(each, list) and len(each) == 2] if isinstance(files, list) else []
    return [Opened(str(path), str(mode)) for path, mode in pairs]
