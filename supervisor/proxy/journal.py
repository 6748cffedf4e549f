"""What servers write on their standard error: the last of it kept in memory, all of it passed on as far as it goes.

Runs unprivileged. A server that floods, and a reader that does not read, cost lines and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections import deque
from collections.abc import Callable

from supervisor.shown import printable

KEPT = 1000
LINE = 4000  # below PIPE_BUF: a pipe that is writable takes it whole


class Journal:
    """The last lines of each server; `followers` get each new one."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.followers: dict[str, list[Callable[[bytes], None]]] = {}
        self._quiet = quiet
        self._kept: dict[str, deque[bytes]] = {}

    def add(self, server: str, line: bytes, loud: bool = True) -> None:
        """One line of a server's; kept, and passed on unless it is not `loud`."""
        line = line.rstrip(b"\r\n")[:LINE]
        self._kept.setdefault(server, deque(maxlen=KEPT)).append(line)
        for follower in list(self.followers.get(server, [])):
            follower(line)
        if loud and not self._quiet:
            shown = f"[{server}] {printable(line.decode(errors='replace'))}"
            with contextlib.suppress(OSError):
                if select.select([], [2], [], 0)[1]:
                    os.write(2, shown.encode()[: LINE - 1] + b"\n")

    def lines(self, server: str) -> list[bytes]:
        """What is kept of a server."""
        return list(self._kept.get(server, ()))
