"""One session's side of the broker: its sockets inside the sandbox's namespace, its rules, its limits, its record.

Runs in the broker. DNS questions are answered here from the rules alone; TCP connections become a Connection each.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from supervisor.egress import dns
from supervisor.egress.dial import Resolver
from supervisor.egress.header import Added, Trust
from supervisor.egress.match import DNS_PORT, Rules, canonical
from supervisor.egress.told import Bucket, Report, Told

_QUESTIONS_A_SECOND = 1000
_SWEEP_SECONDS = 5.0
# for connections that have been told to end
_LAST_SECONDS = 1.0
_RECORDED = 1024


@dataclass(frozen=True)
class Limits:
    """Connections at a time and new ones a second, bytes both ways in all, seconds without a byte."""

    connections: int
    rate: int
    bytes: int
    idle: float


class Work(Protocol):
    """A connection as the session sees it."""

    touched: float

    async def run(self) -> None: ...


Connect = Callable[["Session", socket.socket, str, int], Work]


class Session:
    """Everything of one session; `close` ends all of it at once."""

    def __init__(
        self, number: int, rules: Rules, limits: Limits, *, ech: bool, resolver: Resolver, trust: Trust,
        added: dict[str, list[Added]], report: Report, connect: Connect,
    ) -> None:  # fmt: skip
        self.number, self.rules, self.limits, self.ech, self.resolver = number, rules, limits, ech, resolver
        self.trust, self.added = trust, added
        self._report, self._connect = report, connect
        self._loop = asyncio.get_running_loop()
        layout = rules.layout()
        self._address_of = dict(layout.names)
        self._name_at = {address: name for name, address in layout.names.items()}
        self._name_at |= {each.host: each.host for each in rules.entries if each.address}
        # addresses of the pool by the last question for them, the oldest first
        self._pool = OrderedDict((address, "") for address in layout.pool)
        self._sockets: list[socket.socket] = []
        self._work: dict[asyncio.Task[None], Work] = {}
        self._moved = 0
        self._new = Bucket(limits.rate, 2 * limits.rate)
        self._questions = Bucket(_QUESTIONS_A_SECOND, _QUESTIONS_A_SECOND)
        self._records, self._told = Bucket(1, 64), Told(number, report)
        self._recorded: set[tuple[str, int, str]] = set()
        self._sweeper = self._loop.call_later(_SWEEP_SECONDS, self._sweep)

    def adopt(self, fds: list[int]) -> None:
        """Serve these sockets, which were made inside the sandbox's network namespace."""
        for fd in fds:
            sock = socket.socket(fileno=fd)
            sock.setblocking(False)
            self._sockets.append(sock)
            address, port = sock.getsockname()[:2]
            if sock.type == socket.SOCK_DGRAM:
                self._loop.add_reader(fd, self._ask, sock)
            else:
                self._loop.add_reader(fd, self._accept, sock, str(address), int(port))

    async def close(self) -> None:
        """End every connection, tell of it, and give every socket back: they keep the namespace alive."""
        self._sweeper.cancel()
        for sock in self._sockets:
            self._loop.remove_reader(sock.fileno())
            sock.close()
        self._sockets.clear()
        for task in self._work:
            task.cancel()
        if self._work:
            await asyncio.wait([*self._work], timeout=_LAST_SECONDS)
        self._told.close()

    def name_at(self, address: str) -> str:
        """The name, or written address, that an address inside stands for; "" for none."""
        return self._name_at.get(address, "")

    def refused(self, name: str, port: int, reason: str, rule: str = "") -> None:
        """Put a refusal on record: each kind once, and not more than one a second in the long run."""
        key = (name, port, reason)
        if key in self._recorded or not self._records.take():
            return
        if len(self._recorded) >= _RECORDED:
            self._recorded.clear()
        self._recorded.add(key)
        said = {"name": name[:255], "port": port, "reason": reason[:500], "rule": rule[:300]}
        self._report({"event": "refused", "session": self.number} | said)

    def reached(self, name: str, port: int) -> None:
        """Tell of a connection that has been made: its end, which tells more, may be a long time off."""
        self._told.tell(name, port, 0, 0)

    def connected(self, name: str, port: int, sent: int, received: int) -> None:
        """Put a connection that has ended on record."""
        self._told.tell(name, port, sent, received)

    def moved(self, count: int) -> None:
        """So many bytes more; the last ones that may, end everything."""
        self._moved += count
        if self._moved > self.limits.bytes:
            self.refused("", 0, f"it moved more than its {self.limits.bytes} bytes (network.bytes)")
            for task in self._work:
                task.cancel()

    def _accept(self, listener: socket.socket, address: str, port: int) -> None:
        for _ in range(16):
            try:
                client, _ = listener.accept()
            except BlockingIOError:
                return
            except OSError:
                # out of descriptors: look again when some may have been closed
                self._loop.remove_reader(listener.fileno())
                self._loop.call_later(0.5, self._resume, listener, address, port)
                return
            client.setblocking(False)
            # without it the end of each answer waits 40 ms for an acknowledgement
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            reason = self._excess()
            if reason:
                self.refused(self.name_at(address), port, reason)
                client.close()
            elif port == DNS_PORT and not self.name_at(address):
                self._start(_Questions(self, client))
            else:
                self._start(self._connect(self, client, address, port))

    def _resume(self, listener: socket.socket, address: str, port: int) -> None:
        if listener.fileno() >= 0:
            self._loop.add_reader(listener.fileno(), self._accept, listener, address, port)

    def _excess(self) -> str:
        if self._moved > self.limits.bytes:
            return f"it moved more than its {self.limits.bytes} bytes (network.bytes)"
        if len(self._work) >= self.limits.connections:
            return f"it has its {self.limits.connections} connections open (network.connections)"
        if not self._new.take():
            return f"it makes more than {self.limits.rate} connections a second (network.rate)"
        return ""

    def _start(self, work: Work) -> None:
        task = self._loop.create_task(work.run())
        self._work[task] = work
        task.add_done_callback(lambda done: self._work.pop(done, None))

    def _sweep(self) -> None:
        """End what has been idle for too long."""
        self._sweeper = self._loop.call_later(_SWEEP_SECONDS, self._sweep)
        oldest = self._loop.time() - self.limits.idle
        for task, work in self._work.items():
            if work.touched < oldest:
                task.cancel()

    def _ask(self, sock: socket.socket) -> None:
        for _ in range(64):
            try:
                data, peer = sock.recvfrom(4096)
            except OSError:
                return
            said = self.answer(data)
            if said:
                with contextlib.suppress(OSError):
                    sock.sendto(said, peer)

    def answer(self, data: bytes) -> bytes:
        """The answer to a DNS question; nothing is ever asked elsewhere, and b"" is no answer."""
        if not self._questions.take():
            return b""
        try:
            asked = dns.question(data)
        except dns.Malformed as error:
            return dns.malformed(error.number) if error.number is not None else b""
        if asked.flags & 0x7800:
            return dns.answer(asked, dns.NOTIMP)
        try:
            name = canonical(asked.name)
        except ValueError:
            name = ""
        if not name or not asked.internet or not self.rules.knows(name):
            self.refused(asked.name, 0, "this name may not be reached", name and f"--allow {name}:PORT")
            return dns.answer(asked, dns.NXDOMAIN)
        return dns.answer(asked, dns.NOERROR, self._address(name) if asked.kind == dns.A else "")

    def _address(self, name: str) -> str:
        """The address that stands for an allowed name; of the pool the one not asked for for longest."""
        address = self._address_of.get(name)
        if address is None:
            address, before = self._pool.popitem(last=False)
            self._address_of.pop(before, None)
            self._address_of[name] = address
            self._name_at[address] = name
            self._pool[address] = name
        elif address in self._pool:
            self._pool.move_to_end(address)
        return address


class _Questions:
    """DNS over TCP: questions with their length in front, until the client has no more."""

    def __init__(self, session: Session, client: socket.socket) -> None:
        self._session, self._client = session, client
        self._loop = asyncio.get_running_loop()
        self.touched = self._loop.time()

    async def run(self) -> None:
        """Answer, and close."""
        buffer = b""
        with self._client, contextlib.suppress(OSError, TimeoutError):
            while True:
                async with asyncio.timeout(10):
                    more = await self._loop.sock_recv(self._client, 65536)
                if not more:
                    return
                buffer += more
                while len(buffer) >= 2 and len(buffer) >= 2 + int.from_bytes(buffer[:2]):
                    size = 2 + int.from_bytes(buffer[:2])
                    said, buffer = self._session.answer(buffer[2:size]), buffer[size:]
                    if said:
                        await self._loop.sock_sendall(self._client, len(said).to_bytes(2) + said)
