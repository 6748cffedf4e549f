"""The watcher of one session: kept informed by file systems, it counts when the session could have passed a bound.

Runs as the session's own user in its user namespace, with two capabilities in there: to look into folders whatever
their mode, and to see what the session's processes hold open. It changes nothing. What a file system has in use
cannot be hidden from it, but counts for everybody; so when that has grown by what the session may add, it counts
what is new in the session's folders (supervisor.disk.count), while the session stands still
(supervisor.disk.still). Standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import select
import signal
import socket
import sys

from supervisor import wire
from supervisor.disk.count import Count
from supervisor.disk.still import still
from supervisor.sandbox import rights
from supervisor.sandbox import syscalls as sc

MAX_PLACES = 200
MILLISECONDS = 100
_OVER = (
    "what was added to the folders that it may write takes more than {:,} bytes (limits.disk)",
    "more than {:,} files were added to the folders that it may write (limits.disk_files)",
)
_CAP_DAC_READ_SEARCH, _CAP_SYS_PTRACE = 2, 19
_setns = sc.Call("setns", ctypes.c_int, ctypes.c_int)


class Watch:
    """Places by O_PATH descriptor; `bounds` and everything of that shape is (bytes, files)."""

    def __init__(self, places: list[int], *, since: int, file_size: int, bounds: list[int]) -> None:
        self.places, self.since, self.file_size, self.bounds = places, since, file_size, bounds
        self.before = [[sys.maxsize, sys.maxsize] for _ in places]

    def look(self) -> str:
        """What the session has passed, or nothing."""
        now = [self._used(place) for place in self.places]
        # what others free meanwhile makes no room for the session
        self.before = [list(map(min, *pair)) for pair in zip(now, self.before, strict=True)]
        if not any(
            used > before + bound
            for place in zip(now, self.before, strict=True)
            for used, before, bound in zip(*place, self.bounds, strict=True)
        ):
            return ""
        count = Count(self.since, self.file_size, self.bounds)
        with still():
            found, now = count.all(self.places), [self._used(place) for place in self.places]
        for text, number, bound in zip(_OVER, found, self.bounds, strict=True):
            if number > bound:
                return text.format(bound)
        # the next count comes when it may have added what is left to it, but not for every crumb
        own = [min(number, bound // 8 * 7) for number, bound in zip(found, self.bounds, strict=True)]
        self.before = [[used - each for used, each in zip(place, own, strict=True)] for place in now]
        return ""

    @staticmethod
    def _used(place: int) -> list[int]:
        found = os.fstatvfs(place)
        if not found.f_files:
            raise OSError(errno.EOPNOTSUPP, "its file system has no number of files")
        return [(found.f_blocks - found.f_bfree) * found.f_frsize, found.f_files - found.f_ffree]


def _become(userns: int, uid: int) -> None:
    """The session's user, in its user namespace. Whatever is to be imported has been imported before."""
    last = sc.last_capability()
    if os.geteuid() == 0:
        os.setgroups([])
    _setns(userns, sc.CLONE_NEWUSER)
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    rights.drop_bounding(last)
    rights.keep_capabilities(1 << _CAP_DAC_READ_SEARCH | 1 << _CAP_SYS_PTRACE)
    sc.prctl(sc.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # a change of user clears it, so not earlier
    sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # a descriptor for each level of folders
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main(fd: int) -> None:
    """Serve the monitor on descriptor `fd`: one message with user namespace and places, one answer at most."""
    # whoever started the monitor may have left it descriptors to inherit
    sc.close_range(fd + 1, 0x7FFFFFFF, 0)
    monitor = socket.socket(fileno=fd)
    received = wire.receive(monitor, max_fds=MAX_PLACES + 1)
    if received is None:
        return
    asked, (userns, *places) = received
    since, size, uid = (int(str(asked[key])) for key in ("since", "size", "uid"))
    bounds = asked["bounds"]
    _become(userns, uid)
    # time stamps of files are those of the last tick of the clock, ten milliseconds ago at most
    watch = Watch(
        places, since=since - 20_000_000, file_size=size, bounds=bounds if isinstance(bounds, list) else []
    )
    over = ""
    # readable: the monitor has hung up
    while not over and not select.select([monitor], [], [], MILLISECONDS / 1000)[0]:
        try:
            over = watch.look()
        except OSError as error:
            over = f"what was added to its folders cannot be counted: {error.strerror} (limits.disk)"
    if over:
        wire.send(monitor, {"over": over})
