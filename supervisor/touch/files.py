"""What was opened, in bounded memory: a set of names with what happened to each, and whether that is all.

Runs in the watcher. Pure: it knows the kernel's words for what happens to a file, and nothing else of the kernel.
"""

from __future__ import annotations

import json

from supervisor.sandbox.syscalls import FAN_CLOSE_NOWRITE, FAN_CLOSE_WRITE, FAN_MODIFY, FAN_OPEN, FAN_OPEN_EXEC

# how many names, how many characters of them, and how many bytes of them one message takes, and one record
MOST, ROOM, MESSAGE, RECORD = 20_000, 4 << 20, 60_000, 12_000
# not the kernel's: a file that is open where it may be written, so that only its end will tell
EITHER = 1 << 62
_OPENED = FAN_OPEN | FAN_OPEN_EXEC
_WRITTEN = FAN_CLOSE_WRITE | FAN_MODIFY
_READ = FAN_CLOSE_NOWRITE | FAN_OPEN_EXEC


def mode(bits: int) -> str:
    """How a file was opened: "r", "w" (perhaps read as well), "rw" (both, or its end will tell), x: executed."""
    both = bits & _READ if bits & _WRITTEN else bits & EITHER and not bits & FAN_CLOSE_NOWRITE
    opened = "rw" if both else "w" if bits & _WRITTEN else "r"
    return opened + "x" * bool(bits & FAN_OPEN_EXEC)


class Files:
    """Since the last `take`. `complete` is False when something was opened that is not in it."""

    def __init__(self) -> None:
        self._bits: dict[str, int] = {}
        self._size = 0
        self.complete = True

    def __contains__(self, path: str) -> bool:
        return path in self._bits

    def add(self, path: str, bits: int) -> None:
        """So much happened to a file; of one that was opened before, only that it was written counts."""
        before = self._bits.get(path)
        if before is not None:
            self._bits[path] = before | bits
        elif bits & (_OPENED | _WRITTEN):
            if len(self._bits) == MOST or self._size + len(path) > ROOM:
                self.complete = False
                return
            self._size += len(path)
            self._bits[path] = bits

    def take(self, total: Files | None = None) -> tuple[list[tuple[str, str]], bool]:
        """(path, mode) of each, the last one first, and whether that is all; it begins anew, `total` goes on."""
        found, complete = [(path, mode(bits)) for path, bits in reversed(self._bits.items())], self.complete
        if total:
            total.complete &= complete
            for path, bits in self._bits.items():
                total.add(path, bits)
        self._bits, self._size, self.complete = {}, 0, True
        return found, complete


def part(found: list[tuple[str, str]], room: int = MESSAGE) -> list[tuple[str, str]]:
    """As many as fit in so many bytes of a message, taken away from the end of `found`."""
    taken = []
    while found and (room := room - len(json.dumps(found[-1]))) > 0:
        taken.append(found.pop())
    return taken
