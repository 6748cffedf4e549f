"""How much a server may write to its standard output: in all, and in a second. Pure but for the clock.

Runs unprivileged. Whoever reads asks before it passes anything on and reads on when it is told to: a server that is
too fast then waits at its full pipe, and nothing is dropped.
"""

from __future__ import annotations

import time


class Meter:
    """`total` is in bytes, `rate` in bytes a second; a second's worth may come at once.

    Whoever is in a hurry passes up to `free` bytes on without asking, takes them off it and adds them to `passed`.
    """

    def __init__(self, total: int, rate: int) -> None:
        self.total = total
        self.rate = rate
        self._left = total
        self._credit = float(rate)
        self._asked = time.monotonic()
        self.free = self.passed = 0

    @property
    def over(self) -> bool:
        """It has written more than it may: its session has to be ended."""
        return self._left < 0

    def take(self, data: bytes) -> bytes:
        """As much of what was read as may be passed on: all of it until the total is passed."""
        now, unasked, self.passed = time.monotonic(), self.passed, 0
        allowed = max(0, self._left - unasked)
        self._left -= unasked + len(data)
        self._credit = min(self.rate, self._credit - unasked + (now - self._asked) * self.rate) - len(data)
        self._asked = now
        self.free = max(0, min(self._left, int(self._credit)))
        return data if allowed >= len(data) else data[:allowed]

    def wait(self) -> float:
        """Seconds until more may be read."""
        return max(0.0, -self._credit / self.rate)

    def reason(self) -> str:
        """Why its session has to be ended."""
        return f"it wrote more than {self.total} bytes to its standard output (limits.output)"
