"""The watcher of the files that one session opens: it empties the kernel's queue and is asked what was in it.

Runs as a uid of its own, without a capability, under Landlock and a system call filter that leaves it one queue and
two sockets. The kernel puts an opening into the queue before open() returns: when somebody has read a session's
answer and asks then, whatever the session opened for it is in the queue, and is taken out before the question is
answered. Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import stat
import struct
import time
from typing import NamedTuple

from supervisor import wire
from supervisor.errors import WireError
from supervisor.sandbox import syscalls as sc
from supervisor.touch import confine, names
from supervisor.touch.files import EITHER, RECORD, Files, part

# file-audit.toml lets this one descriptor be read
QUEUE = 255
MAX_FDS = 200
# At most so many events in so many seconds: what comes faster waits in the queue, and is lost when that is full.
# Meanwhile whoever opens files has nobody to wake up, and the kernel makes one event of those of one file.
SLICE, SECONDS = 1024, 0.02
# files that are open here at a time
BATCH = 64
_EVENT = struct.Struct("=IBBHQii")
_GONE = " (deleted)"


class Event(NamedTuple):
    """A file as it was opened for us (-1: lost), what happened (0: by one of ours), and its name ("": too long)."""

    fd: int
    mask: int
    path: str


class Watch:
    """`ours`: processes of our own that look into the session's folders. `most`: what the queue can hold."""

    def __init__(self, asker: socket.socket, found: names.Names, *, ours: list[int], most: int) -> None:
        self.files, self.total = Files(), Files()
        self._asker: socket.socket | None = asker
        asker.setblocking(False)
        self._names, self._ours, self._most = found, frozenset(ours), most
        self._rest: list[tuple[str, str]] = []
        self._complete = True

    def serve(self, monitor: socket.socket) -> None:
        """Until the monitor says no more: the session has ended. Then the last is told, to both."""
        rests = 0.0
        while True:
            poll = select.poll()
            socks = [monitor, *([self._asker] if self._asker else [])]
            for fd in (*map(socket.socket.fileno, socks), *(() if rests else (QUEUE,))):
                poll.register(fd, select.POLLIN)
            wait = max(0.0, rests - time.monotonic()) * 1000 if rests else None
            ready = {fd for fd, _ in poll.poll(wait)}
            if monitor.fileno() in ready:
                self._last(monitor)
                return
            if self._asker and self._asker.fileno() in ready:
                self._asked(self._asker)
            if rests and time.monotonic() >= rests:
                rests = 0.0
            elif QUEUE in ready:
                rests = time.monotonic() + SECONDS
                self.drain(SLICE)

    def drain(self, most: int) -> None:
        """Take at most so many events out of the queue."""
        for start in range(0, most, BATCH):
            batch: list[Event] = []
            room = min(BATCH, most - start)
            while len(batch) < room and (event := self._event()):
                batch.append(event)
            held = self._names.hold()
            for event in batch:
                self._opened(event, held=held)
            if len(batch) < room:
                return

    def _event(self) -> Event | None:
        """Take one event, if there is one. One at a time: an error then belongs to it, and is not lost."""
        try:
            data = os.read(QUEUE, _EVENT.size)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno in (errno.EBADF, errno.EINVAL):
                raise
            return Event(-1, sc.FAN_OPEN, "")
        _, _, _, _, mask, fd, pid = _EVENT.unpack(data)
        name = ""
        if fd >= 0 and pid not in self._ours:
            with contextlib.suppress(OSError):
                name = names.link(fd)
        return Event(fd, 0 if pid in self._ours else mask, name)

    def _opened(self, event: Event, *, held: bool) -> None:
        fd, mask, path = event
        try:
            if mask:
                self._add(fd, mask, path if held else self._names.whole(fd))
        except OSError:
            # lost, or a name that is longer than any path can be, or one that nobody knows any more
            self.files.complete = False
        finally:
            if fd >= 0:
                os.close(fd)

    def _add(self, fd: int, mask: int, path: str) -> None:
        if not path:
            raise OSError(errno.ENAMETOOLONG, "a file without a name")
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
            self._take()
        if request not in ("since", "more") or not self._tell(asker):
            asker.close()
            self._asker = None

    def _take(self) -> None:
        # no more than was there when it was asked, however fast it is filled
        self.drain(self._most)
        self._rest, self._complete = self.files.take(self.total)

    def _tell(self, asker: socket.socket, *, last: bool = False) -> bool:
        """A part of what was taken. With `last` nobody will ask for another."""
        found = part(self._rest)
        whole = self._complete and not (last and self._rest)
        answer: wire.Message = {"files": found, "complete": whole, "more": 0 if last else len(self._rest)}
        try:
            wire.send(asker, answer | {"last": last})
        except (OSError, WireError):
            return False
        return True

    def _last(self, monitor: socket.socket) -> None:
        """What nobody has asked for any more, and for the monitor as much of everything as fits in a record."""
        cut = bool(self._rest)
        self._take()
        self._complete &= not cut
        if self._asker:
            self._tell(self._asker, last=True)
        found, complete = self.total.take()
        count, told = len(found), part(found, RECORD)
        with contextlib.suppress(OSError, WireError):
            wire.send(monitor, {"files": told, "more": count - len(told), "complete": complete})


def _texts(value: object) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else []


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
    ours = [int(each) for each in _texts(asked["ours"])]
    found = names.Names(places, _texts(asked["points"]))
    watch = Watch(socket.socket(fileno=asker), found, ours=ours, most=most)
    confine.drop(places, str(asked["filter"]))
    watch.serve(monitor)
