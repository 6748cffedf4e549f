"""The monitor's event loop: descriptors, timers and signals, one thread, nothing else.

Runs as root. Callbacks must not block; an exception in one ends the process, and with it every session.
"""

from __future__ import annotations

import contextlib
import os
import sched
import selectors
import signal
import time
from collections.abc import Callable

Callback = Callable[[], None]
Timer = sched.Event


class Loop:
    """select, timers, signals."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers = sched.scheduler(time.monotonic)
        self._wait: float | None = None
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
        self._wait = 0
        return self._timers.enter(seconds, 0, callback)

    def cancel(self, timer: Timer) -> None:
        """Never call it, if it has not been called."""
        with contextlib.suppress(ValueError):
            self._timers.cancel(timer)

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
        for key, _ in self._selector.select(self._wait):
            # an earlier callback of this round may have closed it
            if key.fd in self._selector.get_map():
                key.data()
        due = self._timers.run(blocking=False)
        # epoll takes no more than 24 days
        self._wait = None if due is None else min(due, 3600)

    def _woken(self) -> None:
        for number in set(os.read(self._wake, 512)) & self._signals.keys():
            self._signals[number]()
