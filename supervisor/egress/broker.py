"""The egress broker: the only process that reaches out for sandboxes that may reach out.

Runs as a uid (root) or in a user namespace (ordinary user) of its own, without capabilities, files or programs to
start, under a system call filter. It obeys one peer, the monitor: its filter first, then add, sockets and remove.
It must never pass on a DNS question, and never dial what was not checked. When the monitor is gone it ends.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import signal
import socket
import sys
from collections import Counter, deque

from supervisor import wire
from supervisor.egress import confine
from supervisor.egress.connection import Connection
from supervisor.egress.dial import Resolver
from supervisor.egress.header import Added, Trust
from supervisor.egress.match import Rules
from supervisor.egress.session import Limits, Session
from supervisor.errors import WireError
from supervisor.sandbox import rights
from supervisor.sandbox import syscalls as sc

MAX_FDS = 64
_MAX_WAITING = 4096


class Broker:
    """Sessions by number."""

    def __init__(self, monitor: socket.socket) -> None:
        self._monitor = monitor
        self._resolver, self._trust = Resolver(), Trust()
        self._sessions: dict[int, Session] = {}
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[wire.Message] = deque()
        # how many of each session did not fit there
        self._missing: Counter[int] = Counter()
        self._ending: set[asyncio.Task[None]] = set()
        self.ended: asyncio.Future[None] = self._loop.create_future()

    def start(self) -> None:
        """From now on requests are read."""
        self._monitor.setblocking(False)
        self._loop.add_reader(self._monitor.fileno(), self._readable)

    def _readable(self) -> None:
        try:
            received = wire.receive(self._monitor, max_fds=MAX_FDS)
        except BlockingIOError:
            return
        except (ConnectionError, WireError):
            received = None
        if received is None:
            self._loop.remove_reader(self._monitor.fileno())
            self.ended.set_result(None)
            return
        self._request(*received)

    def _request(self, message: wire.Message, fds: list[int]) -> None:
        number, kind = int(str(message["session"])), message["req"]
        if kind == "add":
            self._resolver.reload()
            self._sessions[number] = self._session(number, message, _added(fds))
        elif kind == "sockets" and number in self._sessions:
            self._sessions[number].adopt(fds)
        elif kind == "remove" and number in self._sessions:
            ending = self._loop.create_task(self._remove(number, self._sessions.pop(number)))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
        else:
            for fd in fds:  # of a session that has ended meanwhile
                os.close(fd)

    def _session(self, number: int, message: wire.Message, added: dict[str, list[Added]]) -> Session:
        allow, limits = message["allow"], message["limits"]
        if not isinstance(allow, list) or not isinstance(limits, dict):
            raise WireError("a malformed add")
        return Session(
            number,
            Rules.of(str(each) for each in allow),
            Limits(**limits),
            ech=message["ech"] == "pass",
            resolver=self._resolver,
            trust=self._trust,
            added=added,
            report=self.tell,
            connect=Connection,
        )

    def tell(self, event: wire.Message) -> None:
        """To the monitor, without waiting: what does not fit now goes later; what never fits is counted."""
        if len(self._waiting) >= _MAX_WAITING:
            self._missing[int(str(event["session"]))] += 1
            return
        self._queue(event)

    async def _remove(self, number: int, session: Session) -> None:
        """The last of a session is what was missing of it, and that it is the last."""
        await session.close()
        if number in self._missing:
            self._queue(_more(number, self._missing.pop(number)))
        self._queue({"event": "removed", "session": number})

    def _queue(self, event: wire.Message) -> None:
        self._waiting.append(event)
        if len(self._waiting) == 1:
            self._flush()

    def _flush(self) -> None:
        with contextlib.suppress(ConnectionError):
            while self._waiting:
                try:
                    wire.send(self._monitor, self._waiting[0])
                except BlockingIOError:
                    self._loop.add_writer(self._monitor.fileno(), self._flush)
                    return
                self._waiting.popleft()
                if not self._waiting and self._missing:
                    self._waiting.append(_more(*self._missing.popitem()))
        self._loop.remove_writer(self._monitor.fileno())


def _more(number: int, count: int) -> wire.Message:
    said = {"name": f"({count} more)", "port": 0, "sent": 0, "received": 0}
    return {"event": "reached", "session": number} | said


def _added(fds: list[int]) -> dict[str, list[Added]]:
    """The secrets of a session by the host that they are for; the descriptors are closed."""
    found: dict[str, list[Added]] = {}
    for fd in fds:
        with open(fd, "rb", buffering=0) as file:
            for each in json.loads(file.readall()):
                value, secret = (str(each[key]).encode("ascii") for key in ("value", "secret"))
                found.setdefault(str(each["host"]), []).append(Added(str(each["header"]), value, secret))
    return found


async def _serve(monitor: socket.socket) -> None:
    broker = Broker(monitor)
    broker.start()
    await broker.ended


def main(fd: int) -> None:
    """Give everything up, then serve the monitor on descriptor `fd` until it hangs up."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # whoever started the monitor may have left it descriptors to inherit
    sc.close_range(fd + 1, 0x7FFFFFFF, 0)
    monitor = socket.socket(fileno=fd)
    monitor.set_inheritable(False)
    # the loop's own socket pair and epoll are made while the filter is not there yet
    loop = asyncio.new_event_loop()
    confine.drop()
    received = wire.receive(monitor)
    if received is None:
        return
    rights.load_seccomp(base64.b64decode(str(received[0]["filter"]), validate=True))
    loop.run_until_complete(_serve(monitor))
    os._exit(0)  # what is left of connections ends with the process


if __name__ == "__main__":
    main(int(sys.argv[1]))
