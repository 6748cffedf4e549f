"""The keeper: starts the ledger, starts it anew when it was ended, and gives a proxy a connection to it.

Runs as whoever typed the command (root or the user), because a ledger is started with that power; standard library
only. Its input is its starter's: which log, then requests for connections; what proxies write passes it by. Beside
a host's daemon it accepts on audit.sock, where everybody may make one request, which has no argument, and writes
down what the monitor tells. It ends with its starter, and waits for the ledger's end.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable

from supervisor import wire
from supervisor.audit import claims, confine, ledger, telling
from supervisor.errors import WireError
from supervisor.sandbox import syscalls as sc

_PR_SET_CHILD_SUBREAPER = 36
# seconds: a ledger that cannot start is tried again after the first, at most after the second; it gets ready within
_FIRST, _LONGEST, _READY = 0.05, 2.0, 20.0


class Failed(Exception):
    """There is no ledger now; the text says why."""


class Keeping:
    """A ledger of our own; `first` is its first message, without what `start` adds."""

    def __init__(self, first: wire.Message, listener: socket.socket | None) -> None:
        self._first, self._listener = first, listener
        self._control: socket.socket | None = None
        self._gap: wire.Message | None = None
        self._pause, self._again = _FIRST, 0.0
        self._reason = ""
        self._own: socket.socket | None = None
        self._visitors: dict[int, tuple[socket.socket, int]] = {}
        # who has a connection to the ledger that runs now
        self._given: set[int] = set()
        self._number = 0
        self._delegated = claims.Delegated()

    def peer(self, uid: int = 0) -> socket.socket:
        """One end of a pair, the other end of which the ledger has; it is started if there is none."""
        ours, theirs = wire.pair()
        # on one end from the beginning, so that the kernel names the sender also of what comes first
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        with theirs:
            self.hand_over(theirs, uid)
        return ours

    def hand_over(self, theirs: socket.socket, uid: int = 0) -> None:
        """Give it a peer of this user's. Failed: there is no ledger, and it was tried again not long ago."""
        for _ in range(2):
            if self._control is None:
                self.start()
            try:
                if self._control:
                    wire.send(self._control, {"req": "peer", "uid": uid}, [theirs.fileno()])
                    return
            except OSError:
                self._lost()
        raise Failed(self._reason)

    def start(self) -> None:
        """A process of its own; it inherits our memory and no descriptor. Failed: it says why it cannot write."""
        if time.monotonic() < self._again:
            raise Failed(self._reason)
        ours, theirs = wire.pair()
        if os.fork() == 0:
            _become_ledger(theirs)
        theirs.close()
        try:
            self._greet(ours)
        except (OSError, WireError) as error:
            self._fail(f"the ledger did not get ready: {error}", ours)
        self._control, self._gap, self._pause = ours, None, _FIRST

    def _greet(self, ours: socket.socket) -> None:
        ours.settimeout(_READY)
        wire.send(ours, self._first | ({"gap": self._gap} if self._gap else {}))
        received = wire.receive(ours)
        said = received[0] if received else {"reason": "the ledger ended before it was ready"}
        if said.get("event") != "ready":
            self._fail(str(said.get("reason")), ours)

    def _fail(self, reason: str, ours: socket.socket) -> None:
        ours.close()
        self._reason, self._again = reason, time.monotonic() + self._pause
        self._pause = min(self._pause * 2, _LONGEST)
        raise Failed(reason)

    def watched(self) -> dict[int, Callable[[], None]]:
        """What is to be heard: the ledger, and who connects."""
        found: dict[int, Callable[[], None]] = {}
        if self._control:
            found[self._control.fileno()] = self._hear
        if self._listener:
            found[self._listener.fileno()] = self._accept
        if self._own:
            found[self._own.fileno()] = self._acknowledged
        for number in self._visitors:
            found[number] = functools.partial(self._visited, number)
        return found

    def tell(self, told: wire.Message) -> None:
        """Write down what the monitor tells, again if the ledger was just ended. What cannot be is said aloud."""
        self._number += 1
        for _ in range(2):
            with contextlib.suppress(OSError, Failed):
                self._own = self._own or self.peer()
                self._own.settimeout(_READY)
                self._own.send(telling.message(self._number, told))
                return
            self._unheard()
        sys.stderr.write(f"supervisor: not written to the audit log: {str(told)[:500]}\n")

    def _acknowledged(self) -> None:
        """Nobody waits for it."""
        with contextlib.suppress(OSError):
            if self._own and self._own.recv(1 << 16):
                return
        self._unheard()

    def _unheard(self) -> None:
        if self._own:
            self._own.close()
        self._own = None

    def _hear(self) -> None:
        """What the ledger tells is in its log too; only its end is news."""
        if self._control and wire.hear(self._control) is None:
            self._lost()

    def _lost(self) -> None:
        if self._control:
            self._control.close()
        self._control, self._reason = None, "the ledger was ended from outside"
        self._given.clear()
        self._gap = self._gap or {"since": time.time_ns() // 1000, "reason": self._reason}

    def _accept(self) -> None:
        """A proxy of a host; nobody may take all that there is room for."""
        if self._listener is None:
            return
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        uid, there = wire.peer(connection)[1] & 0xFFFFFFFF, [each for _, each in self._visitors.values()]
        uid = self._delegated.one(uid)
        ordinary = len(there) - there.count(0)
        if len(there) >= claims.MOST_PEERS or (uid and not claims.share(there.count(uid), ordinary)):
            connection.close()
            return
        connection.setblocking(False)
        self._visitors[connection.fileno()] = connection, uid

    def _visited(self, number: int) -> None:
        """A proxy asks for a connection: one is enough for as long as a ledger lives."""
        connection, uid = self._visitors[number]
        received = wire.hear(connection)
        try:
            if received is None or received[0] != {"req": "peer"} or number in self._given:
                raise OSError
            self.give(connection, uid)
            self._given.add(number)
        except Failed as failed:
            with contextlib.suppress(OSError):
                wire.send(connection, {"event": "failed", "reason": str(failed)})
        except OSError:
            self._visitors.pop(number)
            self._given.discard(number)
            connection.close()

    def give(self, to: socket.socket, uid: int = 0) -> None:
        """Send it a connection to the ledger. Failed, or OSError when it does not read."""
        with self.peer(uid) as peer:
            wire.send(to, {"event": "peer"}, [peer.fileno()])

    def close(self) -> None:
        """Let it finish what it has."""
        self._unheard()
        for connection, _ in self._visitors.values():
            connection.close()
        if self._control:
            self._control.close()


def _become_ledger(theirs: socket.socket) -> None:
    os.dup2(theirs.fileno(), 3)
    sc.close_range(4, 0x7FFFFFFF, 0)
    try:
        ledger.main(3)
    finally:
        os._exit(0)


def _answer(whose: Keeping, control: socket.socket) -> bool:
    """One request of the starter's; False at its end."""
    received = wire.hear(control, max_fds=1)
    if received is None:
        return False
    message, fds = received
    try:
        if fds:
            with socket.socket(fileno=fds.pop()) as theirs:
                whose.hand_over(theirs)
        elif message.get("req") == "tell":
            whose.tell(message)
        elif message == {"req": "peer"}:
            whose.give(control)
    except Failed as failed:
        with contextlib.suppress(OSError):
            wire.send(control, {"event": "failed", "reason": str(failed)})
    except OSError:
        return False
    return True


def _first(control: socket.socket) -> Keeping | None:
    received = wire.hear(control, max_fds=1)
    if received is None:
        return None
    message, fds = received
    listener = socket.socket(fileno=fds[0]) if fds else None
    if listener:
        listener.setblocking(False)
    return Keeping(message, listener)


def serve(control: socket.socket) -> None:
    """Until the starter hangs up."""
    whose = _first(control)
    if whose is None:
        return
    with contextlib.suppress(Failed):
        whose.start()
    going = True
    while going:
        table = whose.watched()
        # one at a time: it may exchange the ledger, and a new socket has the number of the old one
        ready = select.select([*table, control.fileno()], [], [])[0][0]
        if ready in table:
            table[ready]()
        else:
            going = _answer(whose, control)
    whose.close()


def main(fd: int) -> None:
    """Serve the starter on descriptor `fd`, then wait for everything that was started."""
    confine.alone()
    # the signer of a ledger that was killed becomes ours, and can be waited for
    sc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    control = socket.socket(fileno=fd)
    control.set_inheritable(False)
    serve(control)
    control.close()
    # ended children are reaped by the kernel (SIGCHLD is ignored); the call returns when there is none left
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(-1, 0)
