"""A gateway's end of proxy.sock, for an event loop: many requests at a time, and news of what ended.

Runs unprivileged. What the monitor answers is checked by `link`; here is only who waits for which answer.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable

from supervisor import wire
from supervisor.errors import SupervisorError, WireError
from supervisor.proxy import link
from supervisor.proxy.link import Exited, Opened

Answer = tuple[wire.Message, list[int]]


class Channel:
    """One connection to a monitor, greeted already.

    `ended` hears of each session's end, `refused` of what a session was not let reach, `reloaded` of a new
    configuration, `gone` of the monitor's own end.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._next = 1 << 20  # a blocking link on the same socket counts from 1
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self.ended: Callable[[Exited], None] = lambda _: None
        self.refused: Callable[[int, str], None] = lambda *_: None
        self.reloaded: Callable[[], None] = lambda: None
        self.gone: Callable[[], None] = lambda: None
        self.closed = self.lost = False

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
            wire.send(self._socket, {"id": number, "req": req, **fields})
            answer, fds = await future
        except (BlockingIOError, ConnectionError):
            raise SupervisorError("the monitor does not read its connection") from None
        finally:
            self._waiting.pop(number, None)
        error = answer.get("error")
        if isinstance(error, dict):
            raise link.denied(str(error["message"]), int(str(error["status"])))
        found = answer.get("ok")
        if not isinstance(found, dict):
            raise WireError(f"{req}: an answer without a result")
        return found, fds

    async def open(self, server: str) -> Opened:
        """Start a session."""
        return link.opened(*await self.ask("open", server=server))

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
        self._socket.close()

    def _readable(self) -> None:
        try:
            received = wire.receive(self._socket, max_fds=4)
        except BlockingIOError:
            return
        except (ConnectionError, WireError):
            received = None
        if received is None:
            self._lost()
            return
        said, fds = received
        event = said.get("event")
        if event is None:
            self._answered(said, fds)
        elif event == "exited":
            self.ended(link.exited(said))
        elif event == "refused":
            self.refused(int(str(said["session"])), link.refusal(said))
        elif event == "reloaded":
            self.reloaded()

    def _answered(self, said: wire.Message, fds: list[int]) -> None:
        number = said.get("id")
        future = self._waiting.get(number) if isinstance(number, int) else None
        if future and not future.done():
            future.set_result((said, fds))
            return
        # whoever asked has given up: a session that nobody knows of must not run on
        for fd in fds:
            os.close(fd)
        answer = said.get("ok")
        if isinstance(answer, dict) and "session" in answer and not self.closed:
            self._next += 1
            wire.send(self._socket, {"id": self._next, "req": "close", "session": int(str(answer["session"]))})

    def _lost(self) -> None:
        self.lost = True
        self.release()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(SupervisorError("the monitor ended; its sessions were killed with it"))
        self.gone()
