"""The watcher of the files that one session opens: it empties the kernel's queue and is asked what was in it.

Runs as a uid of its own, without a capability, under Landlock and a system call filter that leaves it one queue and
two sockets. The kernel puts an opening into the queue before open() returns: when somebody has read a session's
answer and asks then, whatever the session opened for it is in the queue, and is taken out before the question is
answered. Standard library only.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
import struct
import time

from supervisor import wire
from supervisor.errors import WireError
from supervisor.sandbox import syscalls as sc
from supervisor.touch import confine
from supervisor.touch.files import EITHER, Files, part

# file-audit.toml lets this one descriptor be read
QUEUE = 255
MAX_FDS = 200
# At most so many events in so many seconds: what comes faster waits in the queue, and is lost when that is full.
# Meanwhile whoever opens files has nobody to wake up, and the kernel makes one event of those of one file.
SLICE, SECONDS = 1000, 0.02
_EVENT = struct.Struct("=IBBHQii")
_GONE = " (deleted)"


class Watch:
    """`ours`: processes of our own that look into the session's folders. `most`: what the queue can hold."""

    def __init__(self, asker: socket.socket, *, ours: list[int], most: int) -> None:
        self.files = Files()
        self._asker: socket.socket | None = asker
        asker.setblocking(False)
        self._ours, self._most = frozenset(ours), most
        self._rest: list[tuple[str, str]] = []
        self._complete = True

    def serve(self, monitor: socket.socket) -> None:
        """Until the monitor hangs up."""
        rests = 0.0
        while True:
            poll = select.poll()
            socks = [monitor, *([self._asker] if self._asker else [])]
            for fd in (*map(socket.socket.fileno, socks), *(() if rests else (QUEUE,))):
                poll.register(fd, select.POLLIN)
            wait = max(0.0, rests - time.monotonic()) * 1000 if rests else None
            ready = {fd for fd, _ in poll.poll(wait)}
            if monitor.fileno() in ready:
                return
            if self._asker and self._asker.fileno() in ready:
                self._asked(self._asker)
            if rests and time.monotonic() >= rests:
                rests = 0.0
            elif QUEUE in ready:
                rests = time.monotonic() + SECONDS
                self.drain(SLICE)

    def drain(self, most: int) -> int:
        """Take at most so many events out of the queue; how many there were."""
        return next((number for number in range(most) if not self._event()), most)

    def _event(self) -> bool:
        """Take one event; whether there was one. One at a time: an error then belongs to it, and is not lost."""
        try:
            data = os.read(QUEUE, _EVENT.size)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in (errno.EBADF, errno.EINVAL):
                raise
            self.files.complete = False
            return True
        _, _, _, _, mask, fd, pid = _EVENT.unpack(data)
        if fd < 0:
            self.files.complete = False
            return True
        try:
            if pid not in self._ours:
                self._opened(fd, mask)
        except OSError:
            # a name that is longer than any path can be
            self.files.complete = False
        finally:
            os.close(fd)
        return True

    def _opened(self, fd: int, mask: int) -> None:
        path = os.readlink(f"/proc/self/fd/{fd}")
        if path.endswith(_GONE) and not os.fstat(fd).st_nlink:
            path = path.removesuffix(_GONE)
        if mask == sc.FAN_OPEN and path not in self.files and not os.fstatvfs(fd).f_flag & os.ST_RDONLY:
            mask |= 0 if stat.S_ISDIR(os.fstat(fd).st_mode) else EITHER
        self.files.add(path, mask)

    def _asked(self, asker: socket.socket) -> None:
        """One question; whoever asks otherwise, or does not read the answers, is asked no more."""
        received = wire.hear(asker)
        request = received[0].get("req") if received else None
        if request == "since":
            # no more than was there when it was asked, however fast it is filled
            self.drain(self._most)
            self._rest, self._complete = self.files.take()
        try:
            if request in ("since", "more"):
                found = part(self._rest)
                answer = {"files": found, "complete": self._complete, "more": len(self._rest)}
                asker.send(wire.encode(answer))
                return
        except (OSError, WireError):
            pass
        asker.close()
        self._asker = None


def main(fd: int) -> None:
    """Serve the monitor on descriptor `fd`: one message with the asker's socket, the queue, and the places."""
    # whoever started the monitor may have left it descriptors to inherit
    sc.close_range(fd + 1, 0x7FFFFFFF, 0)
    monitor = socket.socket(fileno=fd)
    received = wire.receive(monitor, max_fds=MAX_FDS)
    if received is None:
        return
    asked, (asker, queue, *places) = received
    # above whatever was received
    os.dup2(queue, QUEUE, inheritable=False)
    os.close(queue)
    with open("/proc/sys/fs/fanotify/max_queued_events", encoding="ascii") as file:
        most = int(file.read()) + 1
    ours = asked["ours"]
    watch = Watch(
        socket.socket(fileno=asker), ours=[int(each) for each in ours] if isinstance(ours, list) else [], most=most
    )
    confine.drop(places, str(asked["filter"]))
    watch.serve(monitor)
