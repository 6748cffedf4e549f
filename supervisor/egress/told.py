"""What a session reached, on its way to the monitor: every name, and no more of the same than somebody can hear.

Runs in the broker. A name is told when it is reached first: how often that can be, the session's rate of new
connections bounds. The same again is metered; what is over is added up for each name, and told later.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

Report = Callable[[dict[str, object]], None]
_AGAIN_SECONDS = 0.5
_NAMES = 4096


class Bucket:
    """At most `rate` a second in the long run, and `burst` at once."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._left, self._when = burst, time.monotonic()

    def take(self) -> bool:
        """Whether there is one left."""
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._when) * self._rate)
        self._when = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Told:
    """Of session `number`, to `report`."""

    def __init__(self, number: int, report: Report) -> None:
        self._number, self._report = number, report
        self._meter = Bucket(20, 256)
        self._named: set[tuple[str, int]] = set()
        self._later: dict[tuple[str, int], tuple[int, int]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def tell(self, name: str, port: int, sent: int, received: int) -> None:
        """Tell of a connection, or of the bytes of one that has ended."""
        key = (name, port)
        metered = self._meter.take()
        if key in self._named and (not metered or key in self._later):
            before = self._later.get(key, (0, 0))
            self._later[key] = (before[0] + sent, before[1] + received)
            self._timer = self._timer or asyncio.get_running_loop().call_later(_AGAIN_SECONDS, self._again)
            return
        if len(self._named) >= _NAMES and key not in self._named:
            # those that wait have been named: they are told all the same
            self._named = set(self._later)
        self._named.add(key)
        self._say(key, sent, received)

    def close(self) -> None:
        """Its session has ended: what waits is told now."""
        if self._timer:
            self._timer.cancel()
        while self._later:
            self._first()

    def _again(self) -> None:
        self._timer = None
        while self._later and self._meter.take():
            self._first()
        if self._later:
            self._timer = asyncio.get_running_loop().call_later(_AGAIN_SECONDS, self._again)

    def _first(self) -> None:
        key = next(iter(self._later))
        self._say(key, *self._later.pop(key))

    def _say(self, key: tuple[str, int], sent: int, received: int) -> None:
        said = {"name": key[0], "port": key[1], "sent": sent, "received": received}
        self._report({"event": "reached", "session": self._number} | said)
