"""The keeper: the process that holds a container engine's socket, and keeps the sessions that run in it.

Runs as root (or as the user whose engine it is), started by the monitor as the spawner is and obeying the same
protocol; see supervisor.sandbox.spawner. Whoever speaks to an engine is as good as root: standard library only, its
input is resolved documents, and the bytes of a session pass through a pump instead. When the monitor is gone it
removes every container and ends; when it is gone itself, its guard does.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket

from supervisor import wire
from supervisor.errors import WireError
from supervisor.runtimes.document import engine as document_of
from supervisor.runtimes.engine import Engine, Gaps, Image, Kind
from supervisor.runtimes.guard import Guard
from supervisor.runtimes.kept import Kept, fresh
from supervisor.sandbox import cgroup, enter

# seconds: for what a session has said last to be read, and between looks at whether it was
_DRAIN, _LOOK = 10.0, 0.25
# seconds, until what an engine could not remove is tried again: it may have been killed, and come back
_AGAIN = 2.0


class Keeper:
    """Documents by digest, sessions by number, one engine for each socket."""

    def __init__(self, monitor: socket.socket, kind: Kind) -> None:
        self.monitor = monitor
        self.kind = kind
        self.name = f"{cgroup.PREFIX}{os.getpid()}-{cgroup.start_time(os.getpid())}"
        self.loaded: dict[str, enter.Document] = {}
        self.engines: dict[str, tuple[Engine, Guard]] = {}
        self.sessions: dict[int, Kept] = {}
        self.left: dict[str, Engine] = {}
        # cgroup v1 tells nobody that a limit has acted
        self.asked = cgroup.probe().version == "v1"

    def serve(self) -> None:
        """Until the monitor hangs up."""
        while True:
            poll = select.poll()
            poll.register(self.monitor.fileno(), select.POLLIN)
            watched = [fd for kept in self.sessions.values() for fd in kept.watched()]
            guards = {guard.pidfd: engine for engine, guard in self.engines.values()}
            for fd in (*watched, *guards):
                poll.register(fd, select.POLLIN)
            for kept in self.sessions.values():
                for fd in kept.acting():
                    poll.register(fd, select.POLLPRI)
            often = self.asked or any(kept.ended for kept in self.sessions.values())
            pause = _LOOK if often and self.sessions else _AGAIN if self.left else None
            ready = [fd for fd, _ in poll.poll(pause and pause * 1000)]
            if not ready and self.left:
                self.left = {name: engine for name, engine in self.left.items() if not engine.remove(name)}
            for engine in (guards[fd] for fd in ready if fd in guards):
                self._guard(engine)
            for kept in self.sessions.values():
                kept.look()
            for kept in [each for each in self.sessions.values() if each.over(_DRAIN)]:
                self._ended(kept)
            if self.monitor.fileno() in ready and not self._request():
                return

    def close(self) -> None:
        """Remove every container, and let the guards see that nothing is left."""
        for kept in self.sessions.values():
            kept.kill(signal.SIGKILL)
        for engine, guard in self.engines.values():
            engine.sweep(self.name)
            engine.tidy()
            guard.end()
        for kept in self.sessions.values():
            kept.close()
        self.sessions.clear()

    def _request(self) -> bool:
        received = wire.receive(self.monitor, max_fds=1)
        if received is None:
            return False
        message, fds = received
        kind = message.get("req")
        if kind == "load":
            self._load(str(message["digest"]), message["document"])
        elif kind == "spawn":
            self._spawn(int(str(message["id"])), str(message["digest"]), fds)
        elif kind == "keep":
            kept = enter.items(message, "digests")
            self.loaded = {digest: each for digest, each in self.loaded.items() if digest in kept}
        elif kind in ("go", "kill"):
            found = self.sessions.get(int(str(message["id"])))
            if found and kind == "go":
                self._go(found)
            elif found:
                found.kill(int(str(message["signal"])))
        else:
            raise WireError(f"unknown request {kind!r}")
        for fd in fds:
            os.close(fd)
        return True

    def _guard(self, engine: Engine) -> None:
        """The guard of an engine has ended: another takes its place."""
        guard = self.engines[engine.api.socket][1]
        guard.reap()
        self.engines[engine.api.socket] = engine, Guard(engine, self.name)

    def _engine(self, document: enter.Document) -> Engine:
        """The engine of a document that it can hold, swept of what keepers that are gone have left in it."""
        path = str(document_of(document)["socket"])
        engine = self.engines[path][0] if path in self.engines else self.kind(path, self.name)
        engine.check(document)
        if path not in self.engines:
            engine.sweep("")
            engine.prepare()
            self.engines[path] = engine, Guard(engine, self.name)
        return engine

    def _load(self, digest: str, document: object) -> None:
        """Look whether the engine holds what it is asked for, and bring it the image."""
        if not isinstance(document, dict):
            raise WireError("a document is an object")
        event: wire.Message = {"event": "load-failed", "digest": digest}
        try:
            document_of(document)["digest"] = digest[:16]
            engine = self._engine(document)
            engine.bring(Image(document))
        except Gaps as gaps:
            wire.send(self.monitor, event | {"runtime": self.kind.name, "gaps": gaps.found})
            return
        except OSError as error:
            self._failed(event, error, f"load it into {self.kind.name}")
            return
        self.loaded[digest] = document
        wire.send(self.monitor, {"event": "loaded", "digest": digest})

    def _failed(self, message: wire.Message, error: OSError, step: str) -> None:
        reason = error.strerror or str(error)
        wire.send(self.monitor, message | {"step": getattr(error, "step", step), "reason": reason[:4000]})

    def _spawn(self, number: int, digest: str, secrets: list[int]) -> None:
        document, name = self.loaded.get(digest), f"{self.name}-{number}"
        if document is None:  # forgotten while its secrets were read
            stale = OSError(errno.ESTALE, "its configuration has changed meanwhile; open it again")
            self._failed({"event": "failed", "id": number}, stale, "start it")
            return
        engine = self.engines[str(document_of(document)["socket"])][0]
        try:
            kept = fresh(Kept(engine, name, number, document, secrets.pop() if secrets else -1))
        except OSError as error:
            self._removed(name, engine)
            self._failed({"event": "failed", "id": number}, error, f"create a container in {self.kind.name}")
            return
        self.sessions[number] = kept
        for start in range(0, len(kept.donated), wire.CHUNK):
            wire.send(self.monitor, {"event": "sockets", "id": number}, kept.donated[start : start + wire.CHUNK])
        kept.forget_donated()
        wire.send(self.monitor, {"event": "ready", "id": number, "pid": kept.pid, "group": name})

    def _removed(self, name: str, engine: Engine) -> None:
        """Leave nothing of a session in its engine, now or as soon as that can."""
        if not engine.remove(name):
            self.left[name] = engine

    def _go(self, kept: Kept) -> None:
        """Let the payload be started: the monitor has read back what the kernel applied."""
        try:
            kept.go()
        except OSError as error:
            self._failed({"event": "failed", "id": kept.number}, error, "start the payload")
            kept.kill(signal.SIGKILL)
            return
        event: wire.Message = {"event": "spawned", "id": kept.number}
        wire.send(self.monitor, event, [*kept.pipes, kept.pidfd])
        kept.release()

    def _ended(self, kept: Kept) -> None:
        """Leave nothing of it in the engine, and then say so."""
        # hung up before it is asked: of one whose output is not read an engine says for long that it runs
        kept.close()
        code = kept.code()
        self._removed(kept.name, kept.engine)
        del self.sessions[kept.number]
        event: wire.Message = {"event": "exited", "id": kept.number, "code": code, "limits": kept.hit}
        wire.send(self.monitor, event)


def main(fd: int, kind: Kind) -> None:
    """Serve the monitor on descriptor `fd` until it hangs up."""
    os.umask(0o022)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    monitor = socket.socket(fileno=fd)
    monitor.set_inheritable(False)
    keeper = Keeper(monitor, kind)
    wire.send(monitor, {"event": "hello", "cgroup": cgroup.probe().version})
    try:
        with contextlib.suppress(ConnectionError):
            keeper.serve()
    finally:
        keeper.close()
