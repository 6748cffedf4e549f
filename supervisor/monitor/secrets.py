"""The monitor's end of the process that reads secrets: says which are wanted, passes on what comes, unread.

Runs as root. Values never come here: what comes are descriptors, one for the sandbox and one for the egress broker,
and marks by which the gateway can find a value that it does not know (see supervisor.secrets.marks).
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable

from supervisor import wire
from supervisor.monitor.loop import Loop

Given = Callable[[wire.Message, list[int]], None]
_GONE = "the process that reads secrets is not there: start the supervisor again"


class Secrets:
    """`reader` is our end of the connection to it; whoever started the monitor started it as well."""

    def __init__(self, loop: Loop, reader: int) -> None:
        self._loop, self._socket = loop, socket.socket(fileno=reader)
        self._waiting: dict[int, Given] = {}
        self._gone = False
        loop.watch(reader, self._readable)

    def read(self, number: int, wanted: str, given: Given) -> None:
        """Have a session's secrets read; `given` gets "marks" or "error", and descriptors, which are its own."""
        if not wanted or self._gone:
            given({"error": _GONE} if wanted else {}, [])
            return
        self._waiting[number] = given
        # of one that is just ending the loop will tell
        with contextlib.suppress(OSError):
            wire.send(self._socket, {"id": number, "wanted": wanted})

    def _readable(self) -> None:
        message, fds = wire.hear(self._socket, max_fds=2) or ({}, [])
        if not message:
            self._gone = True
            self._loop.forget(self._socket.fileno())
        for number in [int(str(message["id"]))] if message else list(self._waiting):
            self._waiting.pop(number)(message or {"error": _GONE}, fds)
