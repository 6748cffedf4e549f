"""The guard: outlives a keeper that was killed, removes what it had in the engine, and ends.

A fork of the keeper, with its identity, which waits for the keeper's end and does nothing else. A guard that was
killed itself is replaced by its keeper; of both, the next keeper sweeps what is left. Standard library only.
"""

from __future__ import annotations

import os
import select
import signal
import time

from supervisor.runtimes.engine import Engine
from supervisor.sandbox import syscalls as sc

# a request that was on its way when the keeper ended may still be obeyed
_ROUNDS, _PAUSE = 3, 0.5


class Guard:
    """A running guard of one engine."""

    def __init__(self, engine: Engine, keeper: str) -> None:
        watched = os.pidfd_open(os.getpid())
        self.pid = os.fork()
        if self.pid == 0:
            try:
                _watch(engine, keeper, watched)
            finally:
                os._exit(0)
        os.close(watched)
        self.pidfd = os.pidfd_open(self.pid)

    def end(self) -> None:
        """The keeper has cleaned up itself."""
        signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        self.reap()

    def reap(self) -> None:
        """It has ended."""
        os.waitpid(self.pid, 0)
        os.close(self.pidfd)


def _watch(engine: Engine, keeper: str, watched: int) -> None:
    sc.close_range(0, watched - 1, 0)
    sc.close_range(watched + 1, 0x7FFFFFFF, 0)
    poll = select.poll()
    poll.register(watched, select.POLLIN)
    poll.poll()
    for _ in range(_ROUNDS):
        engine.sweep(keeper)
        time.sleep(_PAUSE)
    engine.tidy()
