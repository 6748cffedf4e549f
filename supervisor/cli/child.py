"""Starting the processes that reach out for a gateway, before it gives up its privileges.

Runs as whoever typed it. Each gets one wire socket (descriptor 3), no file of the caller's, and of the environment
what it needs to find its way out.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from typing import TYPE_CHECKING

import supervisor
from supervisor import wire
from supervisor.errors import SupervisorError

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

_PASSED = ("LANG", "LC_ALL", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR", "HTTPS_PROXY", "NO_PROXY")
_SECONDS = 60.0


class Child:
    """A started process, our end of its socket, and what it said first."""

    def __init__(self, sock: socket.socket, pid: int, ready: wire.Message) -> None:
        self.socket, self.pid, self.ready = sock, pid, ready

    def close(self) -> None:
        """Hang up, and wait for its end."""
        self.socket.close()
        os.waitpid(self.pid, 0)


def start(name: str, code: str, *arguments: str, env: Mapping[str, str] | None = None) -> Child:
    """Run `code` in a fresh interpreter (argv: the folder of ours, `arguments`), and wait for its "ready".

    What it says instead is the error that it was there.
    """
    from supervisor.proxy.link import denied

    root = os.path.dirname(os.path.dirname(os.path.realpath(supervisor.__file__)))
    ours, theirs = wire.pair()
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_DUP2, theirs.fileno(), 3),
    ]
    passed = {key: os.environ[key] for key in _PASSED if key in os.environ}
    argv = [sys.executable, "-I", "-c", code, root, *arguments]
    environment = passed | {"PYDANTIC_DISABLE_PLUGINS": "1"} | dict(env or {})
    pid = os.posix_spawn(sys.executable, argv, environment, file_actions=actions, setsid=True)
    theirs.close()
    ours.settimeout(_SECONDS)
    received = wire.hear(ours)
    if received is None or received[0].get("event") != "ready":
        ours.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        if received is None:
            raise SupervisorError(f"{name} ended unexpectedly; its own standard error says why")
        raise denied(str(received[0]["message"]), int(str(received[0]["status"])))
    return Child(ours, pid, received[0])
