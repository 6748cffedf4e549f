"""Giving up power before the first byte of a stranger is read.

Started by root, the proxy becomes a uid of its own without capabilities; started by an ordinary user it stays that
user. Either way it gains nothing by execve, cannot be traced or read by others of its uid, and opens no file; and
from the monitor's greeting on it makes only system calls that carry bytes.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import os
import pwd

from supervisor.errors import SupervisorError
from supervisor.sandbox import rights, syscalls

ACCOUNT = "supervisor-proxy"


def account(pid: int) -> tuple[int, int]:
    """Whom a process that root started becomes: uid and gid."""
    try:
        user = pwd.getpwnam(ACCOUNT)
    except KeyError:
        return syscalls.FIRST_UID + pid, syscalls.FIRST_UID + pid
    return user.pw_uid, user.pw_gid


def drop() -> None:
    """Everything the proxy imports must have been imported before; SupervisorError when a step fails."""
    with contextlib.suppress(OSError):
        # glibc opens it when a thread ends early, and aborts when it cannot
        ctypes.CDLL("libgcc_s.so.1")
    try:
        _drop()
    except OSError as error:
        raise SupervisorError(
            f"this root cannot become another user ({error.strerror}): it is alone in its user namespace; "
            "map a range of users into it, or start this as an ordinary user"
        ) from None


def confine(program: str) -> None:
    """Load the filter that came with the monitor's greeting; threads that run already are not under it."""
    try:
        rights.load_seccomp(base64.b64decode(program, validate=True))
    except (OSError, ValueError) as error:
        raise SupervisorError(f"the proxy's own system call filter was not loaded: {error}") from None


def _drop() -> None:
    if os.geteuid() == 0:
        uid, gid = account(os.getpid())
        last = syscalls.last_capability()
        os.setgroups([])
        rights.drop_bounding(last)
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    syscalls.prctl(rights.PR_SET_DUMPABLE, 0, 0, 0, 0)
    # what it reads and writes is open already
    rights.landlock_only(syscalls.landlock_abi(), [])
