"""A gateway's end of proxy.sock, for an event loop: many requests at a time, and news of what ended.

Runs unprivileged. What the monitor answers is checked by `link`; here is only who waits for which answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
import time
from collections.abc import Callable

from supervisor import wire
from supervisor.audit.reached import Reached
from supervisor.errors import SupervisorError, WireError
from supervisor.proxy import link
from supervisor.proxy.link import Exited, Opened

# seconds that the monitor may leave our requests unread, and between two attempts
_PATIENCE, _PAUSE = 10.0, 0.005
Answer = tuple[wire.Message, list[int]]


class Channel:
    """One connection to a monitor, greeted already.

    `ended` hears of each session's end, `refused`, in words, of what a session was not let reach, `reached` of that
    and of what it was, `reloaded` of a new
    configuration, `lost` and then `gone` of the monitor's own end: one is for the gateway, one for its front.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._next = 1 << 20  # a blocking link on the same socket counts from 1
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._sending = asyncio.Lock()
        self.ended: Callable[[Exited], None] = lambda _: None
        self.refused: Callable[[int, str], None] = lambda *_: None
        self.reached: Callable[[int, Reached], None] = lambda *_: None
        self.reloaded: Callable[[], None] = lambda: None
        self.lost: Callable[[], None] = lambda: None
        self.gone: Callable[[], None] = lambda: None
        self.closed = self.broken = False

    def start(self) -> None:
        """From now on the running loop reads."""
        self._socket.setblocking(False)
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._readable)

    async def ask(self, req: str, **fields: str | int) -> Answer:
        """One request and its answer; the monitor's refusal as the error it is."""
        if self.closed:
            raise SupervisorError("the monitor ended unexpectedly; its sessions were killed with it")
        self._next += 1
        number = self._next
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            async with self._sending:  # in their order, and one at a time where there is no room
                await self._send({"id": number, "req": req, **fields})
            answer, fds = await future
        finally:
            self._waiting.pop(number, None)
        error = answer.get("error")
        if isinstance(error, dict):
            raise link.denied(str(error["message"]), int(str(error["status"])))
        found = answer.get("ok")
        if not isinstance(found, dict):
            raise WireError(f"{req}: an answer without a result")
        return found, fds

    async def _send(self, request: wire.Message) -> None:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                wire.send(self._socket, request)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise SupervisorError("the monitor does not read its connection") from None
                await asyncio.sleep(_PAUSE)  # there is room for some hundred requests
            except OSError as error:
                raise SupervisorError(f"the monitor cannot be asked: {error.strerror or error}") from None
            else:
                return

    async def open(self, server: str) -> Opened:
        """Start a session."""
        answer, fds = await self.ask("open", server=server)
        try:
            return link.opened(answer, fds)
        except (KeyError, ValueError, WireError) as error:
            _close(fds)
            raise SupervisorError(f"open: the monitor's answer is malformed ({error})") from None

    async def close_session(self, session: int) -> None:
        """Ask for the end of a session; `ended` tells when it has come."""
        if not self.closed:
            await self.ask("close", session=session)

    def release(self) -> None:
        """Leave the connection to somebody else."""
        self.closed = True
        asyncio.get_running_loop().remove_reader(self._socket.fileno())

    def close(self) -> None:
        """Hang up; every session of this connection is killed."""
        if not self.closed:
            self.release()
            self._give_up()
        self._socket.close()

    def _readable(self) -> None:
        for received in link.arrived(self._socket, max_fds=5):
            if received is None:
                self._lost()
            else:
                self._heard(*received)
            if self.closed:
                return

    def _heard(self, said: wire.Message, fds: list[int]) -> None:
        if "event" not in said:
            self._answered(said, fds)
            return
        _close(fds)
        try:
            tell = self._news(said)
        except (KeyError, ValueError):
            self._lost()
        else:
            tell()

    def _news(self, said: wire.Message) -> Callable[[], None]:
        """Whom an event is for; KeyError or ValueError when it is malformed."""
        event = said["event"]
        if event == "exited":
            return functools.partial(self.ended, link.exited(said))
        if event == "reached":
            return functools.partial(self.reached, int(str(said["session"])), link.reached(said))
        if event == "refused":
            return functools.partial(
                self._refused, int(str(said["session"])), link.reached(said), link.refusal(said)
            )
        return self.reloaded if event == "reloaded" else lambda: None

    def _refused(self, session: int, reached: Reached, said: str) -> None:
        self.refused(session, said)
        self.reached(session, reached)

    def _answered(self, said: wire.Message, fds: list[int]) -> None:
        number = said.get("id")
        future = self._waiting.get(number) if isinstance(number, int) else None
        if future and not future.done():
            future.set_result((said, fds))
            return
        # whoever asked has given up: a session that nobody knows of must not run on
        _close(fds)
        answer = said.get("ok")
        if isinstance(answer, dict) and "session" in answer and not self.closed:
            self._next += 1
            with contextlib.suppress(OSError):
                wire.send(self._socket, {"id": self._next, "req": "close", "session": int(str(answer["session"]))})

    def _lost(self) -> None:
        self.broken = True
        self.release()
        self._give_up()
        self.lost()
        self.gone()

    def _give_up(self) -> None:
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(SupervisorError("the monitor ended; its sessions were killed with it"))


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
