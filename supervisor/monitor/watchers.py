"""The monitor's end of the watchers: processes of ours beside a session, which look at what it does to files.

Runs as root; the watchers do not. One counts what is added to the folders that the session may write
(supervisor.disk.watch); one reads from a queue of the kernel's, which root alone can make, which files it opens
(supervisor.touch.watch). What is looked at are the session's own mounts. A session that nobody can watch is not
started, and one whose watcher is gone is ended.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable

from supervisor import wire
from supervisor.errors import WireError
from supervisor.model import COUNTING
from supervisor.monitor import children
from supervisor.monitor.loop import Loop
from supervisor.monitor.posture import Reader
from supervisor.sandbox import syscalls as sc

UNBOUNDED = 1 << 62
# sessions of one user whose files are watched: of the kernel's queues root has 128 for everybody
EACH = 32
_FLAGS = os.O_RDONLY | os.O_CLOEXEC
_OPENED = sc.FAN_OPEN | sc.FAN_OPEN_EXEC | sc.FAN_ONDIR
_WRITTEN = sc.FAN_MODIFY | sc.FAN_CLOSE_WRITE | sc.FAN_CLOSE_NOWRITE

Told = Callable[[wire.Message], None]


class Watchers:
    """Those of all sessions. `over` is told why a session has to end; `told` has, for whoever opened a session,
    the socket on which is told which files it opens.
    """

    def __init__(self, loop: Loop, over: Callable[[int, str], None]) -> None:
        self._loop, self._over = loop, over
        self._watchers: dict[int, list[children.Started]] = {}
        self._ending: dict[children.Started, Told] = {}
        self.told: dict[int, list[int]] = {}

    def add(self, number: int, reader: Reader, crowd: int = 0) -> list[str]:
        """Watch a session from before its payload is started on; what cannot be watched, in words.

        `crowd`: how many sessions its user has.
        """
        try:
            wrong = self._disk(number, reader)
        except OSError as error:
            return [f"limits.disk: {error}"]
        try:
            if crowd > EACH:
                raise OSError(f"the files of {EACH} sessions of a user are watched, not of more")
            self._files(number, reader)
        except (OSError, WireError) as error:
            wrong += [f"file-audit: {error}"] if reader.spec.audit.files == "required" else []
        return wrong

    def _disk(self, number: int, reader: Reader) -> list[str]:
        spec = reader.spec
        asked = {"limits.disk": spec.limits.disk, "limits.disk_files": spec.limits.disk_files}
        bounds = [UNBOUNDED if name in spec.accepted else bound for name, bound in asked.items()]
        granted = [each.target for each in spec.mounts if each.mode == "rw" and min(bounds) < UNBOUNDED]
        places = {point: kind for point, flags, kind, _ in reader.mounted(granted) if "rw" in flags}
        wrong = [f"limits.disk: {place} is on {kind}" for place, kind in places.items() if kind not in COUNTING]
        if wrong or not places:
            return wrong
        question = {"since": time.time_ns(), "uid": spec.uid, "size": spec.limits.file_size, "bounds": bounds}
        with contextlib.ExitStack() as stack:
            user, root = (_held(os.open(f"{reader.base}/{name}", _FLAGS), stack) for name in ("ns/user", "root"))
            fds = [_held(sc.openat2(place.lstrip("/"), os.O_PATH, root), stack) for place in places]
            self._start(number, "disk", question, [user, *fds])
        return []

    def _files(self, number: int, reader: Reader) -> None:
        audit = reader.spec.audit
        if audit.files == "off":
            return
        ours = [each.pid for each in self._watchers.get(number, [])]
        with contextlib.ExitStack() as stack:
            fds = [_held(sc.file_events(), stack)]
            root = _held(os.open(f"{reader.base}/root", _FLAGS), stack)
            points = {point: flags for point, flags, *_ in reader.mounted(list(audit.places))}
            for point, flags in points.items():
                fds.append(_held(sc.openat2(point.lstrip("/") or ".", os.O_PATH, root), stack))
                mask, place = _OPENED | (_WRITTEN if "rw" in flags else 0), f"/proc/self/fd/{fds[-1]}".encode()
                sc.fanotify_mark(fds[0], sc.FAN_MARK_ADD_MOUNT, mask, sc.AT_FDCWD, place)
            told, asked = map(stack.enter_context, wire.pair())
            question: wire.Message = {"filter": audit.filter, "ours": ours, "points": list(points)}
            self._start(number, "touch", question, [asked.fileno(), *fds])
            self.told[number] = [told.detach()]

    def _start(self, number: int, kind: str, question: wire.Message, fds: list[int]) -> None:
        watcher = children.start(children.CODE.format(f"{kind}.watch"))
        self._watchers.setdefault(number, []).append(watcher)
        watcher.watch(self._loop, lambda event: self._heard(number, watcher, event))
        wire.send(watcher.socket, question, fds)

    def remove(self, number: int, told: Told) -> None:
        """A session has ended. Its watchers hear that, say their last, which `told` gets, and end."""
        for watcher in self._watchers.pop(number, []):
            watcher.socket.shutdown(socket.SHUT_WR)
            self._ending[watcher] = told

    def close(self) -> None:
        """Every session has ended."""
        for watcher in (*self._ending, *(each for several in self._watchers.values() for each in several)):
            watcher.end(self._loop)

    def _heard(self, number: int, watcher: children.Started, event: wire.Message | None) -> None:
        if event and watcher in self._ending:
            self._ending[watcher](event)
        elif watcher in self._ending:
            del self._ending[watcher]
            watcher.end(self._loop)
        else:
            self.remove(number, lambda _: None)
            said = event.get("over") if event else "nobody watches its files any more (limits.disk, file-audit)"
            self._over(number, f"killed: {said}")


def _held(fd: int, stack: contextlib.ExitStack) -> int:
    stack.callback(os.close, fd)
    return fd
