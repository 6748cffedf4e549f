"""Starting the process that reads secrets, and taking variables that are secrets out of our own environment.

Runs as whoever typed it. A value in an environment stays readable in /proc for as long as the process lives, so
it is put into a sealed memory file, and this process executes itself again without it, before it starts anything.
"""

from __future__ import annotations

import fcntl
import os
import sys
from typing import TYPE_CHECKING

import supervisor
from supervisor import given
from supervisor.errors import SupervisorError

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable

# the number of the descriptor with what was taken out; it is in no environment that we hand on
_PASSED_ON = "SUPERVISOR_VARIABLES"
_CODE = """import sys; sys.path.insert(0, sys.argv[1])
from supervisor.secrets.reader import main; main(3, 4)"""
# what commands and keyrings need to find their way; the rest a command can be given by env(1)
_ENVIRONMENT = (
    "CREDENTIALS_DIRECTORY", "DBUS_SESSION_BUS_ADDRESS", "GNUPGHOME", "HOME", "LANG", "LC_ALL", "LOGNAME", "PATH",
    "PYTHON_KEYRING_BACKEND", "SSH_AUTH_SOCK", "TZ", "USER", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR",
)  # fmt: skip


class Reader:
    """The started process and our end of its connection; without one, an end that nobody answers at."""

    def __init__(self, sock: socket.socket, pid: int) -> None:
        self.socket, self.pid = sock, pid

    def close(self) -> None:
        """Hang up, and wait for its end."""
        self.socket.close()
        if self.pid:
            os.waitpid(self.pid, 0)


def hide(names: Iterable[str]) -> None:
    """Go on without these variables of ours: may execute this process again, so call it before anything else."""
    if _PASSED_ON in os.environ:
        _taken()
        return
    found = {name: os.environ[name] for name in names if name in os.environ}
    if not found:
        return
    from supervisor.secrets.reader import sealed

    fd = sealed(found)
    os.set_inheritable(fd, True)
    left = {name: value for name, value in os.environ.items() if name not in found}
    sys.stdout.flush()
    try:
        os.execve(sys.executable, sys.orig_argv, left | {_PASSED_ON: str(fd)})  # noqa: S606
    except OSError as error:
        raise SupervisorError(f"{sys.executable}: {error.strerror}; it is executed again without secrets") from None


def start(*, needed: bool = True) -> Reader:
    """The reader, with the variables that were hidden; `needed` says whether there may be a secret at all."""
    from supervisor import wire

    ours, theirs = wire.pair()
    known = _taken() if _PASSED_ON in os.environ else os.memfd_create("secrets", os.MFD_CLOEXEC)
    os.environ.pop(_PASSED_ON, None)
    try:
        return Reader(ours, _spawn(theirs, known) if needed else 0)
    finally:
        theirs.close()
        os.close(known)


def _taken() -> int:
    """The descriptor of what was taken out, from now on for us alone."""
    number = os.environ[_PASSED_ON]
    try:
        if not os.readlink(f"/proc/self/fd/{int(number)}").startswith("/memfd:secrets"):
            raise ValueError
    except (OSError, ValueError):
        raise SupervisorError(f"{_PASSED_ON} is ours to set: unset it") from None
    os.set_inheritable(int(number), False)
    return int(number)


def _spawn(sock: socket.socket, known: int) -> int:
    root = os.path.dirname(os.path.dirname(os.path.realpath(supervisor.__file__)))
    # copies, so that neither has a number that the other is about to get
    copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 5) for fd in (sock.fileno(), known)]
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        *((os.POSIX_SPAWN_DUP2, fd, number) for fd, number in zip(copies, (3, 4), strict=True)),
    ]
    env = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    argv = [sys.executable, "-I", "-S", "-c", _CODE, root]
    try:
        return os.posix_spawn(sys.executable, argv, env, file_actions=actions, setsid=True)
    finally:
        for fd in copies:
            os.close(fd)


def variables(path: str) -> set[str]:
    """The variables that a registry names as secrets; what is wrong with it is for the planner to say."""
    folder = os.path.join(os.path.dirname(path), "servers.d")
    found: set[str] = set()
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    for each in (path, *(os.path.join(folder, name) for name in names if name.endswith(".toml"))):
        try:
            data = given.read(each, 1 << 20)
        except SupervisorError:
            continue
        if b"secrets" in data:
            found |= _named(each, data)
    return found


def _named(path: str, data: bytes) -> set[str]:
    import tomllib

    from supervisor.profile import shape

    try:
        servers = tomllib.loads(shape.text(path, data)).get("server", {})
        tables = [table.get("secrets", {}) for table in servers.values()]
        return {str(each["env"]) for table in tables for each in table.values() if "env" in each}
    except (SupervisorError, ValueError, AttributeError, TypeError, RecursionError):
        return set()
