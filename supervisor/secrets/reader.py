"""The process that reads secrets: at each start of a session, so that a new value counts from the next one on.

Started by root it runs as nobody with one capability, to read what its owner alone may read (CAP_DAC_READ_SEARCH),
and so do the commands that it starts; started by a user it is that user. It holds no value itself: each question is
answered by a fork of it, which writes the values into sealed memory files, hands over their descriptors and ends.
It must never say a value.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Mapping

from supervisor import wire
from supervisor.errors import ConfigError, WireError
from supervisor.sandbox import rights
from supervisor.sandbox import syscalls as sc
from supervisor.secrets import marks
from supervisor.secrets.source import Source

NOBODY = 65534
_DAC_READ_SEARCH = 2
_CAP_AMBIENT_RAISE = 2
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def _drop() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sc.prctl(sc.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if os.geteuid() == 0:
        sc.prctl(rights.PR_SET_KEEPCAPS, 1, 0, 0, 0)
        # what is in no bounding set cannot be made inheritable
        for each in set(range(sc.last_capability() + 1)) - {_DAC_READ_SEARCH}:
            sc.prctl(rights.PR_CAPBSET_DROP, each, 0, 0, 0)
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        rights.keep_capabilities(1 << _DAC_READ_SEARCH, 1 << _DAC_READ_SEARCH)
        sc.prctl(rights.PR_CAP_AMBIENT, _CAP_AMBIENT_RAISE, _DAC_READ_SEARCH, 0, 0)
    sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    sc.prctl(rights.PR_SET_DUMPABLE, 0, 0, 0, 0)


def sealed(document: object) -> int:
    """A memory file with `document` as JSON, at its beginning, which nobody can change any more."""
    fd = os.memfd_create("secrets", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    data = json.dumps(document).encode()
    while data:
        data = data[os.write(fd, data) :]
    os.lseek(fd, 0, os.SEEK_SET)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    return fd


def variables(fd: int) -> dict[str, str]:
    """What whoever started us took out of its environment; nothing when `fd` is no such file."""
    data = os.pread(fd, os.fstat(fd).st_size, 0)
    return {str(name): str(value) for name, value in json.loads(data or b"{}").items()}


def bundles(
    wanted: object, known: Mapping[str, str], owners: tuple[int, ...]
) -> tuple[list[object], dict[str, str]]:
    """What the sandbox gets, what the broker gets, and every value by name; ConfigError for a problem."""
    inside: dict[str, dict[str, str]] = {"file": {}, "env": {}}
    added: list[dict[str, str]] = []
    values = {}
    for each in wanted if isinstance(wanted, list) else []:
        source = Source(each, known, owners)
        value = source.value()
        # a file may end in a line end that is no part of what is said
        values[source.name] = value.rstrip("\r\n")
        if source.to == "header":
            said = {key: str(each[key]) for key in ("host", "header")}
            added.append(said | {"value": f"{each['prefix']}{value}", "secret": value})
        else:
            inside[source.to][source.name] = value
    return [inside, added], values


def _answer(monitor: socket.socket, message: wire.Message, known: int, owners: tuple[int, ...]) -> None:
    """In a fork: read, hand over, end."""
    sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # Popen waits for what it starts
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    number = message["id"]
    try:
        made, values = bundles(json.loads(str(message["wanted"])), variables(known), owners)
        said = {"id": number, "marks": marks.make(values, os.urandom(16)) if values else None}
        fds = [sealed(each) for each in made]
        wire.send(monitor, said, fds)
    except ConfigError as error:
        wire.send(monitor, {"id": number, "error": str(error)})
    except (OSError, WireError, ValueError) as error:
        # never with its text: nobody knows what a library puts there
        wire.send(monitor, {"id": number, "error": f"they could not be read ({type(error).__name__})"})


def main(fd: int, known: int) -> None:
    """Serve the monitor on descriptor `fd` until it hangs up; `known` holds variables."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_IGN)
    sc.close_range(known + 1, 0x7FFFFFFF, 0)
    monitor = socket.socket(fileno=fd)
    monitor.set_inheritable(False)
    os.set_inheritable(known, False)
    owners = (0, os.geteuid())
    _drop()
    with contextlib.suppress(ConnectionError):
        while received := wire.receive(monitor):
            if os.fork() == 0:
                try:
                    _answer(monitor, received[0], known, owners)
                finally:
                    os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
