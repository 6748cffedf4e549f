"""The monitor's end of the planner: asks it, and takes nothing from it that is not a well-formed plan.

Runs as root; the planner does not.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
import sys

import msgspec

from supervisor import wire
from supervisor.errors import SupervisorError
from supervisor.model import Planned
from supervisor.monitor import children

_CODE = "import sys; sys.path.insert(0, sys.argv[1]); from supervisor.registry.governed import main; main()"
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
Sealed = dict[str, int]


def read(sock: socket.socket) -> tuple[Planned, Sealed]:
    """The planner's answer, and images by digest; SupervisorError with its message and exit status."""
    data, fds = b"", list[int]()
    try:
        while (taken := wire.take(sock, 1 << 16, wire.MAX_FDS))[0]:
            data, fds = data + taken[0], fds + taken[1]
        planned = msgspec.json.decode(data, type=Planned)
        if any(fcntl.fcntl(fd, fcntl.F_GET_SEALS) != _SEALS for fd in fds):
            raise SupervisorError("the planner handed over an image that can be changed")
        sealed = dict(zip(planned.sealed, fds, strict=True))
    except (OSError, ValueError, RecursionError):
        raise SupervisorError("the planner ended without a plan; its own message is above") from None
    if planned.error:
        error = SupervisorError(planned.error)
        error.exit_status = planned.status
        raise error
    return planned, sealed


def ask(question: dict[str, object]) -> tuple[Planned, Sealed]:
    """Run a planner to its end. Blocks the monitor meanwhile (start and reload only; 60 s at most)."""
    ours, theirs = socket.socketpair()
    argv = [sys.executable, "-I", "-c", _CODE, children.ROOT]
    # no package that lies beside it gets to change what pydantic accepts
    env = {"LC_ALL": "C.UTF-8", "PYDANTIC_DISABLE_PLUGINS": "1"}
    env |= {name: value for name, value in os.environ.items() if name == "XDG_RUNTIME_DIR"}
    with ours, theirs, subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=theirs.fileno(), env=env) as planner:
        theirs.close()
        ours.settimeout(60)
        try:
            planner.communicate(json.dumps(question).encode())
            return read(ours)
        finally:
            planner.kill()
