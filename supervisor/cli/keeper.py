"""Starting the keeper of the audit log, and with it the ledger, before privileges are given up.

Runs as whoever typed the command; the keeper stays that, and this process does not.
"""

from __future__ import annotations

import contextlib
import grp
import os
import socket
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import supervisor
from supervisor import wire
from supervisor.audit import confine
from supervisor.errors import ConfigError, SupervisorError

if TYPE_CHECKING:
    from supervisor.proxy.recording import Way

_CODE = "import sys; sys.path.insert(0, sys.argv[1]); from supervisor.audit.keeper import main; main(3)"


class Kept:
    """A started keeper. `way` is what a proxy needs of it."""

    def __init__(self, way: Way, pid: int = 0, theirs: socket.socket | None = None) -> None:
        self.way = way
        self._pid, self._theirs = pid, theirs
        # while it is still known who typed this
        self.groups = groups()

    def begin(self, filter_: str) -> None:
        """Have the ledger started, if it is ours: under the filter that the planner compiled for it."""
        if self._theirs is None:
            return
        wire.send(self.way.keeper, {"folder": self.way.where, "filter": filter_})
        wire.send(self.way.keeper, {"req": "peer"}, [self._theirs.fileno()])
        self._theirs.close()

    def close(self) -> None:
        """Hang up, and wait until the ledger has written everything, and has ended."""
        for sock in (self.way.sock, self.way.keeper):
            if sock:
                sock.close()
        if self._pid:
            os.waitpid(self._pid, 0)


def spawn(first: wire.Message | None = None, fds: list[int] | None = None) -> tuple[socket.socket, int]:
    """A keeper, which is told `first`; our end of its socket, and its pid."""
    ours, theirs = wire.pair()
    root = os.path.dirname(os.path.dirname(os.path.realpath(supervisor.__file__)))
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_DUP2, theirs.fileno(), 3),
    ]
    argv = [sys.executable, "-I", "-S", "-c", _CODE, root]
    pid = os.posix_spawn(sys.executable, argv, {"LC_ALL": "C.UTF-8"}, file_actions=actions, setsid=True)
    theirs.close()
    if first:
        wire.send(ours, first, fds)
    return ours, pid


def start(host: str | None) -> Kept:
    """The keeper for one proxy: of a ledger of its own, or a connection to a host's (`host`: its socket)."""
    where = folder() if host is None else host
    sock, pid = spawn() if host is None else (_connected(host), 0)
    # only now: it gets ready meanwhile
    from supervisor.proxy.recording import Way

    if host is not None:
        return Kept(Way(None, sock, where))
    ours, theirs = wire.pair()
    return Kept(Way(ours, sock, where), pid, theirs)


@contextlib.contextmanager
def host(listener: socket.socket) -> Iterator[socket.socket]:
    """The ledger of a host's daemon, for everybody who connects to that socket; our end of its keeper's."""
    sock, pid = spawn({"folder": folder(), "filter": _compiled()}, [listener.fileno()])
    sock.setblocking(False)
    try:
        yield sock
    finally:
        sock.close()
        os.waitpid(pid, 0)


def _compiled() -> str:
    """The ledger's filter, by a process that can only read: what it is compiled from needs a parser."""
    import subprocess

    code = "import sys; sys.path.insert(0, sys.argv[1]); from supervisor.registry.planner import ledger; ledger()"
    argv = [
        sys.executable,
        "-I",
        "-c",
        code,
        os.path.dirname(os.path.dirname(os.path.realpath(supervisor.__file__))),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env={"LC_ALL": "C.UTF-8"})
    if done.returncode != 0:
        raise SupervisorError(f"the filter of the audit ledger cannot be compiled: {done.stderr.strip()[-500:]}")
    return done.stdout


def _connected(path: str) -> socket.socket:
    """The host's keeper. SupervisorError: nobody answers there."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.connect(path)
    except OSError as error:
        sock.close()
        said = f"no audit, no call: {path}: {error.strerror or error}; the daemon's own standard error says why"
        raise SupervisorError(said) from None
    return sock


def folder() -> str:
    """Where this user's audit log is. ConfigError: nobody can say."""
    try:
        return str(confine.default_root())
    except RuntimeError:
        raise ConfigError("this user has no home for the audit log: set XDG_STATE_HOME") from None


def groups() -> tuple[str, ...]:
    """The groups of whoever typed this, by their names where they have some."""
    found = []
    for number in sorted({os.getgid(), *os.getgroups()}):
        try:
            found.append(grp.getgrgid(number).gr_name)
        except KeyError:
            found.append(f"gid:{number}")
    return tuple(found)
