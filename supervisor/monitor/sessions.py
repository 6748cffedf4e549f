"""The running sessions: who opened each, how it may end, and how its end is told.

Runs as root. A session belongs to exactly one connection and is killed with it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable
from functools import partial

from msgspec import Struct, field

from supervisor import wire
from supervisor.errors import LaunchFailed
from supervisor.model import SandboxSpec
from supervisor.monitor import posture
from supervisor.monitor.children import Spawner
from supervisor.monitor.contained import READERS
from supervisor.monitor.egress import Egress
from supervisor.monitor.loop import Loop, Timer
from supervisor.monitor.posture import Document
from supervisor.monitor.record import Record
from supervisor.monitor.secrets import Secrets
from supervisor.monitor.watchers import Watchers
from supervisor.sandbox import cgroup


class Peer:
    """A connection on proxy.sock or admin.sock, with the identity that the kernel vouches for."""

    def __init__(self, sock: socket.socket, *, admin: bool) -> None:
        self.socket, self.admin = sock, admin
        self.pid, self.uid, self.gid = wire.peer(sock)
        self.greeted = self.closed = False
        self.sessions: set[int] = set()

    def send(self, message: wire.Message, fds: list[int] | None = None) -> None:
        """Send without waiting, to nobody who has hung up; who does not read, or is gone, is marked for closing."""
        try:
            if not self.closed:
                wire.send(self.socket, message, fds)
        except (BlockingIOError, ConnectionError):
            self.closed = True


class Session(Struct):
    """One server process tree. `timers` are cancelled with it; `marks` of its secrets are for its gateway."""

    number: int
    server: str
    spec: SandboxSpec
    peer: Peer
    spawner: Spawner
    timers: list[Timer] = []
    reason: str = ""
    pid: int = 0
    # of its init, from when its payload runs
    init: int = -1
    marks: object = None
    since: float = field(default_factory=time.time)

    @property
    def about(self) -> tuple[int, str, int, str]:
        """Whose, of what, which, and within what: for the record."""
        return self.peer.uid, self.server, self.number, self.spec.digest

    def signal(self, number: signal.Signals) -> None:
        """Past its spawner, which may be busy; SIGKILL ends everything in its pid namespace."""
        if self.init >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.init, number)


Opened = Callable[[Session, LaunchFailed | None, list[int]], None]


class Sessions:
    """All of them, by number."""

    def __init__(self, loop: Loop, secrets: Secrets, record: Record) -> None:
        self.loop, self.record, self.secrets = loop, record, secrets
        # the loop ends with the last of them
        self.draining = False
        self.by_number: dict[int, Session] = {}
        self.egress = Egress(loop, self._tell, self.kill)
        self.watchers = Watchers(loop, self.kill)
        self._next = 1
        self._hierarchy = cgroup.probe()

    def open(
        self, server: str, spec: SandboxSpec, document: Document, peer: Peer, opened: Opened, *, spawner: Spawner
    ) -> None:
        """Start one; `opened` hears of it. The descriptors are closed here once it has returned."""
        session = Session(self._next, server, spec, peer, spawner)
        self._next += 1
        self.by_number[session.number] = session
        peer.sessions.add(session.number)

        def done(failure: LaunchFailed | None, fds: list[int]) -> None:
            fds += self.watchers.told.pop(session.number, [])
            if failure:
                self.record.tell("session.failed", *session.about, reason=str(failure))
                self._last(session, partial(self._forget, session))
            else:
                session.init = fds[3]
                how = spec.model_dump(include={"profile", "runtime", "image"})
                self.record.tell("session.opened", *session.about, **how, gaps=list(spec.accepted), posture="ok")
                life, number = spec.session.life, session.number
                ceiling = f"its life of {life:g} s is over (session.life)"
                session.timers.append(self.loop.later(life, lambda: self.kill(number, ceiling)))
            if peer.closed or session.reason:
                # ended before it ran: there was nothing to be killed then
                self.kill(session.number, "its connection was closed")
            if not peer.closed:
                opened(session, failure, fds)
            wire.close(fd for fd in fds if fd != session.init)

        def start(fds: list[int]) -> None:
            if session.reason:
                done(LaunchFailed("start it", session.reason), [])
            else:
                self.egress.add(session.number, spec.network, fds[1:])
                spawner.spawn(session.number, spec.digest, partial(self._verify, session, document), done, fds[:1])
            wire.close(fds)

        def given(message: wire.Message, fds: list[int]) -> None:
            session.marks = message.get("marks")
            if "error" in message:
                done(LaunchFailed("open its secrets", str(message["error"])), [])
            else:
                spawner.in_turn(peer.uid, lambda: start(fds))

        self.secrets.read(session.number, spec.secrets, given)

    def _verify(self, session: Session, document: Document, pid: int, group: str) -> list[str]:
        if not group.startswith(f"{session.spawner.name}-"):
            return [f"its cgroup is named {group}"]
        session.pid, uid = pid, session.peer.uid
        reader = READERS[session.spec.runtime](pid, session.spec, document)
        wrong = posture.differences(reader, self._hierarchy, group)
        crowd = sum(each.peer.uid == uid and each.pid > 0 for each in self.by_number.values())
        return wrong or self.watchers.add(session.number, reader, crowd)

    def close(self, number: int, reason: str = "closed") -> None:
        """End one, if it is still there: SIGTERM, and after its grace SIGKILL."""
        session = self.by_number.get(number)
        if session and not session.reason:
            session.reason = reason
            session.signal(signal.SIGTERM)
            session.timers.append(self.loop.later(session.spec.session.grace, lambda: self.kill(number, reason)))

    def kill(self, number: int, reason: str) -> None:
        """End one at once."""
        if session := self.by_number.get(number):
            session.reason = session.reason or reason
            session.signal(signal.SIGKILL)

    def exited(self, number: int, code: int | None, limits: list[str]) -> None:
        """The spawner has reaped one and removed what belonged to it. What it reached is told before its end."""
        # of one that failed, its failure was told
        if (session := self.by_number.get(number)) and session.init >= 0:
            self._last(session, partial(self._ended, session, code, limits, session.reason))

    def _last(self, session: Session, then: Callable[[], None]) -> None:
        """Have the rest told of what it touched; `then` follows what is told of hosts."""
        about = session.about
        self.watchers.remove(session.number, lambda event: self.record.tell("session.files", *about, opened=event))
        self.egress.remove(session.number, then)

    def _ended(self, session: Session, code: int | None, limits: list[str], reason: str) -> None:
        hit = {name: getattr(session.spec.limits, name) for name in limits}
        event: wire.Message = {"event": "exited", "session": session.number, "code": code}
        self.record.tell("session.ended", *session.about, code=code, limits=hit, reason=reason)
        session.peer.send(event | {"limits": hit, "reason": reason})
        self._forget(session)

    def _tell(self, number: int, event: wire.Message) -> None:
        session = self.by_number[number]
        self.record.tell(f"egress.{event['event']}", *session.about, told=event)
        session.peer.send(event)

    def _forget(self, session: Session) -> None:
        for timer in session.timers:
            self.loop.cancel(timer)
        session.peer.sessions.discard(session.number)
        if session.init >= 0:
            os.close(session.init)
        del self.by_number[session.number]
        if self.draining and not self.by_number:
            self.loop.stop()
