"""What a session has opened since it was last asked: the proxy's end of its watcher of files.

Runs unprivileged. One question is one message each way; of calls at the same time each waits for the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time

from supervisor import wire
from supervisor.audit.record import Opened
from supervisor.errors import WireError

# more parts than what a watcher can hold, and as many files as it holds
_PARTS, _MOST = 512, 20_000
# a watcher that says nothing for so long is as good as gone
_SECONDS = 10.0
# seconds: what a session reached is told by the broker, over the monitor, after the server has answered
PATIENCE = 0.1
# seconds: a question costs more than a small call; so soon after one, calls that end together share the next
_RECENT, _TOGETHER = 0.005, 0.001


class Window:
    """What was opened while something ran. Others that ran at the same time have the same files in theirs."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._files: dict[Opened, None] = {}
        self._complete = True

    def add(self, files: list[Opened], complete: bool) -> None:
        """What was told since the last time."""
        self._files |= dict.fromkeys(files[: max(0, _MOST - len(self._files))])
        self._complete &= complete and len(self._files) < _MOST

    async def close(self, *, hurry: bool = False) -> tuple[list[Opened], bool]:
        """Everything since it was opened, and whether that is all; when the answer to a call has been read.

        `hurry`: somebody waits for it.
        """
        try:
            await self._watch.ask(hurry=hurry)
        finally:
            self._watch.windows.discard(self)
        return list(self._files), self._complete


class Watch:
    """Over the socket `files` of an opened session, which it owns; -1: nobody knows. Needs a running loop."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd) if fd >= 0 else None
        self._turn = asyncio.Lock()
        self._coming: asyncio.Future[None] | None = None
        self._asked = 0.0
        self._heard: asyncio.Future[wire.Message | None] | None = None
        # what a watcher says that ends with its session, of its own accord
        self._last: wire.Message | None = None
        self._over = False
        self.windows: set[Window] = set()
        if self._socket:
            self._socket.setblocking(False)
            asyncio.get_running_loop().add_reader(self._socket.fileno(), self._readable)

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

    async def ask(self, *, hurry: bool = False) -> None:
        """Ask what was opened, for every window. It is asked to the end, whoever is cancelled meanwhile."""
        if hurry or (self._coming is None and time.monotonic() - self._asked > _RECENT):
            await asyncio.shield(asyncio.ensure_future(self._ask()))
            return
        if self._coming is None:
            self._coming = asyncio.ensure_future(self._together())
        await asyncio.shield(self._coming)

    async def _together(self) -> None:
        await asyncio.sleep(_TOGETHER)
        # what comes from now on is another question
        self._coming = None
        await self._ask()

    async def _ask(self) -> None:
        self._asked = time.monotonic()
        async with self._turn:
            # of a session that has ended everything is known when its watcher has said its last
            request, files, complete = "since", list[Opened](), self._over
            for _ in range(0 if self._over else _PARTS):
                answer = await self._exchange(request)
                if answer is None:
                    break
                files += _opened(answer)
                request = "more"
                if not answer.get("more"):
                    complete = answer.get("complete") is True
                    break
            for window in self.windows:
                window.add(files, complete)

    async def _exchange(self, request: str) -> wire.Message | None:
        if self._socket and not self._last:
            self._heard = asyncio.get_running_loop().create_future()
            # its last may still be there to be read when it does not listen any more
            with contextlib.suppress(OSError):
                wire.send(self._socket, {"req": request})
            try:
                if answer := await asyncio.wait_for(self._heard, _SECONDS):
                    return answer
            except TimeoutError:
                self.close()
        answer, self._last = self._last, None
        self._over = self._over or answer is not None
        return answer

    def _readable(self) -> None:
        # to the end of what is there: libuv looks at a socket with an error once, and then no more
        while self._socket:
            try:
                received = wire.receive(self._socket)
            except BlockingIOError:
                return
            except ConnectionResetError:
                # it ended without reading our question; what it said before that comes after this error
                continue
            except (OSError, WireError):
                received = None
            if received is None:
                self.close()
                return
            if received[0].get("last"):
                self._last = received[0]
            if self._heard and not self._heard.done():
                self._heard.set_result(None if self._last else received[0])

    def close(self) -> None:
        """Whoever waits gets what is known so far."""
        if self._socket:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None
        if self._heard and not self._heard.done():
            self._heard.set_result(None)


def _opened(answer: wire.Message) -> list[Opened]:
    files = answer.get("files")
    return [Opened(str(path), str(mode)) for path, mode in files] if isinstance(files, list) else []
