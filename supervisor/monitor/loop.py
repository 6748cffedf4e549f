"""The monitor's event loop: descriptors, timers and signals, one thread, nothing else.

Runs as root. Callbacks must not block; an exception in one ends the process, and with it every session.
"""

from __future__ import annotations

import heapq
import itertools
import os
import selectors
import signal
import time
from collections.abc import Callable

Callback = Callable[[], None]


class Timer:
    """A callback that is due some time; `cancel()` forgets it."""

    def __init__(self, callback: Callback) -> None:
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        """Never call it."""
        self.callback = None


class Loop:
    """select, timers, signals."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._signals: dict[int, Callback] = {}
        self._running = True
        self._wake, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        self.watch(self._wake, self._woken)

    def watch(self, fd: int, callback: Callback) -> None:
        """Call back when `fd` is readable or at its end."""
        self._selector.register(fd, selectors.EVENT_READ, callback)

    def forget(self, fd: int) -> None:
        """No longer watch `fd`; before it is closed."""
        self._selector.unregister(fd)

    def later(self, seconds: float, callback: Callback) -> Timer:
        """Call back once after `seconds`."""
        timer = Timer(callback)
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._order), timer))
        return timer

    def on_signal(self, number: signal.Signals, callback: Callback) -> None:
        """Call back, from the loop, when the signal has come."""
        self._signals[number] = callback
        signal.signal(number, lambda *_: None)

    def stop(self) -> None:
        """Return from `run` after the current callback."""
        self._running = False

    def run(self) -> None:
        """Until `stop`."""
        while self._running:
            self.once()

    def once(self) -> None:
        """Wait for one round of events and timers, and call them back."""
        # epoll takes no more than 24 days
        wait = None if not self._timers else min(max(0.0, self._timers[0][0] - time.monotonic()), 3600)
        for key, _ in self._selector.select(wait):
            # an earlier callback of this round may have closed it
            if key.fd in self._selector.get_map():
                key.data()
        while self._timers and self._timers[0][0] <= time.monotonic():
            callback = heapq.heappop(self._timers)[2].callback
            if callback:
                callback()

    def _woken(self) -> None:
        for number in set(os.read(self._wake, 512)):
            if number in self._signals:
                self._signals[number]()
