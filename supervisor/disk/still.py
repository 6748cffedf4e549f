"""A session stands still while its folders are counted: what moved meanwhile from where nobody has looked yet to
where somebody has would be counted nowhere.

Runs in the watcher, as the session's own user, which may signal that user's processes. Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Iterator

# whoever still runs may wake others that were stopped, hence more than one look at all of them
_QUIET, _SECONDS, _PAUSE = 3, 10, 0.001
# ended; and stopped; running or able to
OVER = {b"Z", b"X"}
_STOPPED, _MOVING = {b"T", *OVER}, {b"R", b"S"}


def members() -> Iterator[int]:
    """Processes of our user namespace but ourselves."""
    own = os.readlink("/proc/self/ns/user")
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        # not ours to see, or it has just ended
        with contextlib.suppress(PermissionError, FileNotFoundError, ProcessLookupError):
            if os.readlink(f"/proc/{pid}/ns/user") == own and pid != os.getpid():
                yield pid


@contextlib.contextmanager
def still() -> Iterator[None]:
    """Nothing of the session runs inside. OSError when it cannot be stopped: some fork away, or wake each other."""
    held: set[int] = set()
    try:
        _stop(held)
        yield
    finally:
        for pid in held.intersection(members()):
            _signal(pid, signal.SIGCONT)


def _stop(held: set[int]) -> None:
    """Add to `held` whoever was stopped; who has stopped itself is left so afterwards."""
    quiet, deadline = 0, time.monotonic() + _SECONDS
    while quiet < _QUIET:
        if time.monotonic() > deadline:
            raise OSError(errno.EBUSY, "its processes cannot be stopped meanwhile")
        states = {pid: _states(pid) for pid in members()}
        for pid in [pid for pid, found in states.items() if found - _STOPPED]:
            _signal(pid, signal.SIGSTOP)
            held.add(pid)
        # what waits in the kernel stops before it leaves it
        moving = any(found & _MOVING for found in states.values())
        quiet = 0 if moving else quiet + 1
        time.sleep(_PAUSE * moving)


def _states(pid: int) -> set[bytes]:
    """Those of its threads."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return {state(f"/proc/{pid}/task/{thread}") for thread in os.listdir(f"/proc/{pid}/task")}
    return set()


def state(task: str) -> bytes:
    """Of a thread, as a letter."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(f"{task}/stat", "rb") as file:
        return file.read().rpartition(b") ")[2][:1]
    return b"X"


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
