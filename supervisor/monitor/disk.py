"""The monitor's end of the watchers of folders that sessions may write: one for each such session.

Runs as root; the watcher (supervisor.disk.watch) does not, and what it finds is what the session could find itself.
A session that nobody can watch is not started, and one whose watcher is gone is ended.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from supervisor import wire
from supervisor.model import COUNTING
from supervisor.monitor import children
from supervisor.monitor.loop import Loop
from supervisor.monitor.posture import Reader
from supervisor.sandbox import syscalls as sc

_CODE = "import sys; sys.path.insert(0, sys.argv[1]); from supervisor.disk.watch import main; main(3)"
UNBOUNDED = 1 << 62


class Disk:
    """The watchers by session; `over` is told why a session has to end."""

    def __init__(self, loop: Loop, over: Callable[[int, str], None]) -> None:
        self._loop, self._over = loop, over
        self._watchers: dict[int, children.Started] = {}

    def add(self, number: int, reader: Reader) -> list[str]:
        """Watch a session from before its payload is started on; what cannot be watched, in words."""
        spec = reader.spec
        asked = {"limits.disk": spec.limits.disk, "limits.disk_files": spec.limits.disk_files}
        bounds = [UNBOUNDED if name in spec.accepted else bound for name, bound in asked.items()]
        places = reader.writable() if min(bounds) < UNBOUNDED else {}
        wrong = [f"limits.disk: {place} is on {kind}" for place, kind in places.items() if kind not in COUNTING]
        if wrong or not places:
            return wrong
        question = {"since": time.time_ns(), "uid": spec.uid, "size": spec.limits.file_size, "bounds": bounds}
        fds = [os.open(f"{reader.base}/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in ("root", "ns/user")]
        try:
            fds += [sc.openat2(place.lstrip("/"), os.O_PATH, fds[0]) for place in places]
            self._watchers[number] = watcher = children.start(_CODE)
            watcher.watch(self._loop, lambda event: self._heard(number, event))
            wire.send(watcher.socket, question, fds[1:])
        finally:
            for fd in fds:
                os.close(fd)
        return []

    def remove(self, number: int) -> None:
        """A session has ended."""
        if watcher := self._watchers.pop(number, None):
            watcher.end(self._loop)

    def close(self) -> None:
        """Every session has ended."""
        for number in list(self._watchers):
            self.remove(number)

    def _heard(self, number: int, event: wire.Message | None) -> None:
        self.remove(number)
        said = event.get("over") if event else "its folders cannot be watched any more (limits.disk)"
        self._over(number, f"killed: {said}")
