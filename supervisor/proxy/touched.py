"""What a session has opened since it was last asked: the proxy's end of its watcher of files.

Runs unprivileged. One question is one message each way; of calls at the same time each waits for the others.
"""

from __future__ import annotations

import asyncio
import socket

from supervisor import wire
from supervisor.audit.record import Opened
from supervisor.errors import WireError

# more parts than what a watcher can hold
_PARTS = 512


class Watch:
    """Over the socket `files` of an opened session, which it owns; -1: nobody knows. Needs a running loop."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=fd) if fd >= 0 else None
        self._turn = asyncio.Lock()
        self._heard: asyncio.Future[wire.Message | None] | None = None
        # told, and not passed on yet
        self._files: list[Opened] = []
        self._complete = True
        if self._socket:
            self._socket.setblocking(False)
            asyncio.get_running_loop().add_reader(self._socket.fileno(), self._readable)

    @property
    def on(self) -> bool:
        """Whether anybody knows."""
        return self._socket is not None

    async def since(self) -> tuple[list[Opened], bool]:
        """What was opened since the last question, and whether that is all of it.

        Ask when the answer to a call has been read: whatever was opened for it is in this or an earlier answer.
        Whoever is cancelled meanwhile leaves it to the next.
        """
        await asyncio.shield(asyncio.ensure_future(self._ask()))
        files, complete, self._files, self._complete = self._files, self._complete, [], True
        return files, complete

    async def _ask(self) -> None:
        async with self._turn:
            request = "since"
            for _ in range(_PARTS):
                answer = await self._exchange(request)
                if answer is None:
                    break
                self._files += _opened(answer)
                request = "more"
                if not answer.get("more"):
                    self._complete &= answer.get("complete") is True
                    return
            self._complete = False

    async def _exchange(self, request: str) -> wire.Message | None:
        if self._socket is None:
            return None
        self._heard = asyncio.get_running_loop().create_future()
        try:
            wire.send(self._socket, {"req": request})
        except OSError:
            self.close()
            return None
        return await self._heard

    def _readable(self) -> None:
        try:
            received = wire.receive(self._socket) if self._socket else None
        except BlockingIOError:
            return
        except (OSError, WireError):
            received = None
        if received is None:
            self.close()
        elif self._heard and not self._heard.done():
            self._heard.set_result(received[0])

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
