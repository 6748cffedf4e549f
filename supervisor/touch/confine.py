"""What the watcher gives up before it reads the first event: everything but the queue and two sockets.

Runs in the watcher, as the first thing. It becomes a uid of its own without a capability; what the kernel opens for
it are files of the session's mounts, and it can look at none of them.
"""

from __future__ import annotations

import base64
import os
import resource
import signal
import stat

from supervisor.sandbox import rights
from supervisor.sandbox import syscalls as sc

_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_MEMORY = 256 << 20


def drop(places: list[int], program: str) -> None:
    """Identity, capabilities, files but those at and below `places`, system calls. OSError when a step fails."""
    # a descriptor for each place, and for each event of a batch
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    for number, bound in ((resource.RLIMIT_NOFILE, hard), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_AS, _MEMORY)):
        resource.setrlimit(number, (bound, bound))
    identity = sc.FIRST_UID + os.getpid()
    rights.drop_bounding(sc.last_capability())
    os.setgroups([])
    os.setresgid(identity, identity, identity)
    os.setresuid(identity, identity, identity)
    sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    sc.prctl(rights.PR_SET_DUMPABLE, 0, 0, 0, 0)
    sc.prctl(sc.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # the kernel opens in our name the file that an event is about, and asks Landlock
    folders = {place: stat.S_ISDIR(os.fstat(place).st_mode) for place in places}
    rules = [(f"/proc/self/fd/{place}", _READ_FILE | _READ_DIR * folder) for place, folder in folders.items()]
    rights.landlock_only(sc.landlock_abi(), rules)
    rights.load_seccomp(base64.b64decode(program))
