"""The monitor's end of the spawner: starts it, asks it, hears from it.

Runs as root. The spawner is executed afresh, never forked from here, so the monitor's size costs it nothing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import supervisor
from supervisor import wire
from supervisor.errors import ConfigError, LaunchFailed, SupervisorError, Unenforceable, WireError
from supervisor.monitor.loop import Loop
from supervisor.sandbox import cgroup

# where what a fresh interpreter imports lies
ROOT = os.path.dirname(os.path.dirname(os.path.realpath(supervisor.__file__)))
CODE = """import os, sys; sys.path.insert(0, sys.argv[1])
from supervisor.{} import main; main(3); os._exit(0)"""
# An empty environment would make Python add LC_CTYPE to it; BIND_NOW saves symbol look-ups after each fork.
_ENV = {"LC_ALL": "C.UTF-8", "LD_BIND_NOW": "1"}

# sessions that a spawner is asked for at once: one that it makes, and one that is looked at
FEW = 2

Verify = Callable[[int, str], list[str]]
Spawned = Callable[[LaunchFailed | None, list[int]], None]
Exited = Callable[[int, int | None, list[str]], None]
Donated = Callable[[int, list[int]], None]


class Started(NamedTuple):
    """A process of ours, and our end of the wire socket that is its descriptor 3."""

    pid: int
    socket: socket.socket

    def watch(self, loop: Loop, heard: Callable[[wire.Message | None], None]) -> None:
        """Call back with each message, or None when nothing more can come."""
        loop.watch(self.socket.fileno(), lambda: heard((wire.hear(self.socket) or (None,))[0]))

    def end(self, loop: Loop) -> None:
        """Kill it, if it has not ended, and leave nothing of it."""
        loop.forget(self.socket.fileno())
        self.socket.close()
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def start(code: str) -> Started:
    """Execute a fresh interpreter with nothing of ours but one wire socket."""
    ours, theirs = wire.pair()
    # -I: no variable and no folder of the caller's decides what it imports; -S: nor a site package
    argv = [sys.executable, "-I", "-S", "-c", code, ROOT]
    null = [(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in (0, 1)]
    actions = [*null, (os.POSIX_SPAWN_DUP2, theirs.fileno(), 3)]
    pid = os.posix_spawn(sys.executable, argv, _ENV, file_actions=actions, setsid=True)
    theirs.close()
    return Started(pid, ours)


class Spawner:
    """One spawner process, or an engine's keeper. `exited` gets (session, exit code or None, limits that were hit).

    `donated` gets each session's sockets for the egress broker, and closes them.
    """

    def __init__(self, code: str = CODE.format("sandbox.spawner")) -> None:
        started = start(code)
        self.pid, self._socket = started.pid, started.socket
        self.name = f"{cgroup.PREFIX}{started.pid}-{cgroup.start_time(started.pid)}"
        self._pending: dict[int, tuple[Verify, Spawned]] = {}
        # those that are not asked for yet, by whose they are
        self._turns: dict[int, deque[Callable[[], None]]] = {}
        self._exited: Exited = lambda *_: None
        self._gone: Callable[[], None] = lambda: None
        self.donated: Donated = lambda *_: None

    def greet(self) -> None:
        """Wait for it to have its namespaces; Unenforceable when it could not."""
        hello, _ = self._receive()
        if "error" in hello:
            remedy = "sysctl user.max_user_namespaces=15000, and see supervisor check"
            reason = f"{hello['error']}: this user may not make a user namespace here; {remedy}"
            raise Unenforceable({"namespaces": reason}, runtime="native", optional=set())

    def load(self, digest: str, document: dict[str, object], image: list[int] | None = None) -> None:
        """Hand over a document, with its image if that is new, and wait until its root is built.

        LaunchFailed names the step, Unenforceable what an engine cannot hold.
        """
        try:
            self._send({"req": "load", "digest": digest, "document": document}, image)
        except WireError as error:
            raise ConfigError(
                f"the command with its environment and mounts is too long ({error}): put what is long in a file"
            ) from None
        while (received := self._receive())[0].get("digest") != digest:
            self._dispatch(*received)
        event = received[0]
        if isinstance(gaps := event.get("gaps"), dict):
            found = {str(name): str(reason) for name, reason in gaps.items()}
            raise Unenforceable(found, runtime=str(event["runtime"]), optional=set())
        if event["event"] != "loaded":
            raise _failure(event)

    def keep(self, digests: list[str]) -> None:
        """Let it forget every other document."""
        self._send({"req": "keep", "digests": digests})

    def serve(self, loop: Loop, exited: Exited, gone: Callable[[], None]) -> None:
        """From now on events come through the loop; `gone` is called when the process has ended."""
        self._exited, self._gone = exited, gone
        loop.watch(self._socket.fileno(), lambda: self._readable(loop))

    def in_turn(self, uid: int, start: Callable[[], None]) -> None:
        """Call `start`, which may `spawn`, when it is this user's turn: a start may take long, and others wait."""
        self._turns.setdefault(uid, deque()).append(start)
        self._next()

    def spawn(self, session: int, digest: str, verify: Verify, done: Spawned, secrets: Sequence[int] = ()) -> None:
        """Start a session; `done` gets (None, [stdin, stdout, stderr, pidfd]) or the failure.

        `verify` gets the pid of its init and the name of its cgroup when every step has been taken, and
        returns what is not as asked for; only if that is nothing is the payload started.
        """
        self._pending[session] = (verify, done)
        self._send({"req": "spawn", "id": session, "digest": digest}, [*secrets])

    def _next(self) -> None:
        while self._turns and len(self._pending) < FEW:
            uid, waiting = next(iter(self._turns.items()))
            start = waiting.popleft()
            del self._turns[uid]
            if waiting:
                self._turns[uid] = waiting
            start()

    def close(self) -> None:
        """Hang up, so that it kills what it has, and wait for its end."""
        self._socket.close()
        os.waitpid(self.pid, 0)

    def _send(self, message: wire.Message, fds: list[int] | None = None) -> None:
        # that it has ended is heard, from the loop or by who waits for its answer, and told there
        with contextlib.suppress(ConnectionError):
            wire.send(self._socket, message, fds)

    def _receive(self) -> tuple[wire.Message, list[int]]:
        # a socket that was closed with something unread in it says ECONNRESET once, before its end
        received = wire.hear(self._socket, max_fds=wire.CHUNK)
        if received is None:
            raise SupervisorError("the spawner ended unexpectedly; nothing of any session is left running")
        return received

    def _readable(self, loop: Loop) -> None:
        received = wire.hear(self._socket, max_fds=wire.CHUNK)
        if received is None:
            loop.forget(self._socket.fileno())
            self._gone()
            return
        self._dispatch(*received)

    def _dispatch(self, event: wire.Message, fds: list[int]) -> None:
        session, what = int(str(event["id"])), event["event"]
        if what == "sockets":
            self.donated(session, fds)
            return
        if what == "exited":
            code, limits = event["code"], event["limits"]
            hit = [str(each) for each in limits] if isinstance(limits, list) else []
            if session not in self._pending:
                self._exited(session, code if isinstance(code, int) else None, hit)
                return
            said = f"the sandbox ended before its payload was started (limits hit: {', '.join(hit) or 'none'})"
            event |= {"step": "enter", "reason": said}
        verify, done = self._pending[session]
        if what == "ready":
            wrong = verify(int(str(event["pid"])), str(event["group"]))
            if not wrong:
                self._send({"req": "go", "id": session})
                return
            self._send({"req": "kill", "id": session, "signal": int(signal.SIGKILL)})
            failure: LaunchFailed | None = LaunchFailed("posture read back", "; ".join(wrong))
        else:
            failure = None if what == "spawned" else _failure(event)
        del self._pending[session]
        done(failure, fds)
        self._next()


def _failure(event: wire.Message) -> LaunchFailed:
    return LaunchFailed(str(event["step"]), str(event["reason"]))
