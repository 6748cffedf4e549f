"""The keeper: starts the ledger, starts it anew when it was ended, and gives a proxy a connection to it.

Runs as whoever typed the command (root or the user), because a ledger is started with that power; standard library
only. Its input is its starter's: which log, then requests for connections; what proxies write passes it by. Beside
a host's daemon it accepts on audit.sock, hands each connection on, and writes down what the monitor tells; for a
proxy of such a host it only connects there. It ends with its starter, and waits for the ledger's end.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable

from supervisor import wire
from supervisor.audit import confine, ledger, telling
from supervisor.errors import WireError
from supervisor.sandbox import syscalls as sc

_PR_SET_CHILD_SUBREAPER = 36
# seconds: a ledger that cannot start is tried again after the first, at most after the second; it gets ready within
_FIRST, _LONGEST, _READY = 0.05, 2.0, 20.0
_AT_ONCE = 64


class Failed(Exception):
    """There is no ledger now; the text says why."""


class Connecting:
    """The ledger of a host, which is somebody else's: a socket to connect to."""

    def __init__(self, path: str) -> None:
        self._path = path

    def peer(self) -> socket.socket:
        """A connection to it. Failed: nobody answers."""
        return connect(self._path)

    def watched(self) -> dict[int, Callable[[], None]]:
        """Nothing is heard of it."""
        return {}

    def close(self) -> None:
        """It lives on."""


class Keeping:
    """A ledger of our own; `first` is its first message, without what `start` adds."""

    def __init__(self, first: wire.Message, listener: socket.socket | None) -> None:
        self._first, self._listener = first, listener
        self._control: socket.socket | None = None
        self._gap: wire.Message | None = None
        self._pause, self._again = _FIRST, 0.0
        self._reason = ""
        self._own: socket.socket | None = None
        self._number = 0

    def peer(self) -> socket.socket:
        """One end of a pair, the other end of which the ledger has; it is started if there is none."""
        ours, theirs = wire.pair()
        # on one end from the beginning, so that the kernel names the sender also of what comes first
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        with theirs:
            self.hand_over(theirs)
        return ours

    def hand_over(self, theirs: socket.socket) -> None:
        """Give it a peer. Failed: there is no ledger, and it was tried again not long ago."""
        for _ in range(2):
            if self._control is None:
                self.start()
            try:
                if self._control:
                    wire.send(self._control, {"req": "peer"}, [theirs.fileno()])
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
        self._gap = self._gap or {"since": time.time_ns() // 1000, "reason": self._reason}

    def _accept(self) -> None:
        if self._listener is None:
            return
        for _ in range(_AT_ONCE):
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            # who is not handed over finds that out by the end of the connection
            with connection, contextlib.suppress(Failed):
                self.hand_over(connection)

    def close(self) -> None:
        """Let it finish what it has."""
        self._unheard()
        if self._control:
            self._control.close()


def _become_ledger(theirs: socket.socket) -> None:
    os.dup2(theirs.fileno(), 3)
    sc.close_range(4, 0x7FFFFFFF, 0)
    try:
        ledger.main(3)
    finally:
        os._exit(0)


def connect(path: str) -> socket.socket:
    """A connection to a host's ledger. Failed: nobody answers there."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        sock.connect(path)
    except OSError as error:
        sock.close()
        raise Failed(f"{path}: {error.strerror or error}") from None
    return sock


def _answer(whose: Keeping | Connecting, control: socket.socket) -> bool:
    """One request of the starter's; False at its end."""
    received = wire.hear(control, max_fds=1)
    if received is None:
        return False
    message, fds = received
    try:
        if fds and isinstance(whose, Keeping):
            with socket.socket(fileno=fds.pop()) as theirs:
                whose.hand_over(theirs)
        elif message.get("req") == "tell" and isinstance(whose, Keeping):
            whose.tell(message)
        elif message == {"req": "peer"}:
            with whose.peer() as peer:
                wire.send(control, {"event": "peer"}, [peer.fileno()])
    except Failed as failed:
        with contextlib.suppress(OSError):
            wire.send(control, {"event": "failed", "reason": str(failed)})
    except OSError:
        return False
    finally:
        for fd in fds:
            os.close(fd)
    return True


def _first(control: socket.socket) -> Keeping | Connecting | None:
    received = wire.hear(control, max_fds=1)
    if received is None:
        return None
    message, fds = received
    if "connect" in message:
        return Connecting(str(message["connect"]))
    listener = socket.socket(fileno=fds[0]) if fds else None
    if listener:
        listener.setblocking(False)
        # inherited by what is accepted: no message comes without its sender
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    return Keeping(message, listener)


def serve(control: socket.socket) -> None:
    """Until the starter hangs up."""
    whose = _first(control)
    if whose is None:
        return
    if isinstance(whose, Keeping):
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
