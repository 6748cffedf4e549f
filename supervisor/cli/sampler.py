"""How much a session of `profile learn` uses: memory by its cgroup, else by its processes; processors by threads.

Runs in a thread of the learning process, with the rights of whoever typed it. What ends between two looks is missed
in part: these are estimates, and the profile says so.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time

from supervisor.profile.learned import Peaks
from supervisor.sandbox import cgroup

_PERIOD = 0.05
_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Sampler:
    """`live` are the threads of the session; whoever takes the trace keeps them."""

    def __init__(self) -> None:
        self.live: set[int] = set()
        self._memory = 0
        self._millicpus = 0
        self._hierarchy = cgroup.probe()
        self._children: list[int] = []
        self._group = ""
        self._ticks: dict[int, int] = {}
        self._then = 0.0
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def begin(self, child: int) -> None:
        """One more child of the spawner's: the first that joins a group of ours is the session's init."""
        self._children.append(child)
        if not self._thread.is_alive():
            self._thread.start()

    def look(self) -> None:
        """Once."""
        with self._lock:
            self._memory = max(self._memory, self._used())
            self._busy()

    def end(self) -> Peaks:
        """The most there was."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        return Peaks(self._memory, self._millicpus)

    def _run(self) -> None:
        while not self._ended.wait(_PERIOD):
            self.look()

    def _used(self) -> int:
        base = self._hierarchy.bases.get("memory")
        if not base:
            return sum(_resident(pid) for pid in tuple(self.live))
        with contextlib.suppress(OSError, ValueError):
            self._group = self._group or self._find()
            name = "memory.max_usage_in_bytes" if self._hierarchy.version == "v1" else "memory.peak"
            return int(_text(f"{base}/{self._group}/{name}")) if self._group else 0
        return 0

    def _find(self) -> str:
        for pid in self._children:
            with contextlib.suppress(OSError):
                joined = cgroup.joined(_text(f"/proc/{pid}/cgroup"))
                group = os.path.basename(joined.get("memory" if self._hierarchy.version == "v1" else "", ""))
                if group.startswith(cgroup.PREFIX):
                    return group
        return ""

    def _busy(self) -> None:
        now = time.monotonic()
        if now - self._then < _PERIOD:
            return
        ticks = {pid: _ticks(pid) for pid in tuple(self.live)}
        # a thread that is new has used what it has used since the last look
        spent = sum(max(0, used - self._ticks.get(pid, 0)) for pid, used in ticks.items())
        if self._then:
            self._millicpus = max(self._millicpus, round(1000 * spent / _TICK / (now - self._then)))
        self._then, self._ticks = now, ticks


def _text(path: str) -> str:
    with open(path, encoding="ascii", errors="replace") as file:
        return file.read()


def _ticks(thread: int) -> int:
    try:
        fields = _text(f"/proc/{thread}/task/{thread}/stat").rsplit(") ", 1)[1].split()
        return int(fields[11]) + int(fields[12])
    except (OSError, IndexError, ValueError):
        return 0


def _resident(thread: int) -> int:
    """Of a process; nothing for its other threads, which share it."""
    try:
        group = next(line for line in _text(f"/proc/{thread}/status").splitlines() if line.startswith("Tgid:"))
        return int(_text(f"/proc/{thread}/statm").split()[1]) * _PAGE if int(group.split()[1]) == thread else 0
    except (OSError, IndexError, ValueError, StopIteration):
        return 0
