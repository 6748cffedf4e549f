"""What a process gives up that reaches out for the gateway: the authenticator, the exporter of traces.

Started by root it becomes a uid of its own, started by a user it stays that user; either way it can read a few
places, write none, gain nothing by execve, and ends with whoever started it.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401 - of names that are looked up: there may be no importing afterwards
import os
import signal
import ssl
import sys

from supervisor.sandbox import rights, syscalls

_FILE, _FOLDER, _DEVICE = 1 << 2, 1 << 2 | 1 << 3, 1 << 1 | 1 << 2  # LANDLOCK_ACCESS_FS_*


def drop(code: str, *folders: str) -> None:
    """Keep `folders`, our own `code`, the interpreter, certificates and the resolver's files; OSError if not."""
    if os.geteuid() == 0:
        identity = syscalls.FIRST_UID + os.getpid()
        last = syscalls.last_capability()
        os.setgroups([])
        rights.drop_bounding(last)
        os.setresgid(identity, identity, identity)
        os.setresuid(identity, identity, identity)
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    syscalls.prctl(rights.PR_SET_DUMPABLE, 0, 0, 0, 0)
    trust = ssl.get_default_verify_paths()
    places = [
        *("/etc", "/usr", "/lib", "/lib64", code, sys.prefix, sys.base_prefix, *folders),
        *(os.path.dirname(os.path.realpath("/etc/resolv.conf")), trust.cafile, trust.capath),
    ]
    there = [each for each in places if each and os.path.exists(each)]
    readable = [(each, _FOLDER if os.path.isdir(each) else _FILE) for each in there]
    rights.landlock_only(syscalls.landlock_abi(), [*readable, ("/dev/null", _DEVICE)])
