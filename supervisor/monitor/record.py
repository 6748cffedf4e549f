"""What the monitor tells the audit log of its own doing: sessions opened, refused and ended, the operator's word.

Runs as root. The keeper of the ledger, which makes records of it, is another process; what it says is not heard.
"""

from __future__ import annotations

import socket
import sys
from collections import deque

from supervisor import wire
from supervisor.errors import WireError
from supervisor.monitor.loop import Loop

# events that wait for a slow keeper; those after them are counted. Refusals of one user that are told one by one
# within SECOND; those after them are counted too
MOST, REFUSALS = 4096, 32
SECOND, AGAIN = 1.0, 0.02


class Record:
    """The keeper's socket; without one nobody is told. It is never waited for: a peer could make us."""

    def __init__(self, loop: Loop, keeper: socket.socket | None) -> None:
        self._loop, self._keeper = loop, keeper
        self._waiting: deque[wire.Message] = deque()
        self._left_out = 0
        self._refused: dict[int, int] = {}
        if keeper:
            keeper.setblocking(False)

    def tell(self, what: str, uid: int, server: str, session: int = 0, spec: str = "", **details: object) -> None:
        """One event. What could not be told is said on standard error."""
        if self._keeper is None:
            return
        if len(self._waiting) == MOST:
            self._left_out += 1
            return
        about = {"req": "tell", "what": what, "uid": uid, "server": server, "session": session, "spec": spec}
        self._waiting.append(about | {"details": details})
        if len(self._waiting) == 1:
            self._send()

    def refused(self, uid: int, server: str, rule: str, reason: str) -> None:
        """A session that is not opened: one event each, of very many in a second one for the rest."""
        if not self._refused:
            self._loop.later(SECOND, self._rest)
        self._refused[uid] = self._refused.get(uid, 0) + 1
        if self._refused[uid] <= REFUSALS:
            self.tell("session.refused", uid, server, rule=rule, reason=reason)

    def _rest(self) -> None:
        for uid, times in self._refused.items():
            if times > REFUSALS:
                self.tell("session.refused", uid, "", times=times - REFUSALS, reason="more in the same second")
        self._refused.clear()

    def _send(self) -> None:
        """As much as the keeper takes now, and the rest soon."""
        while self._waiting and self._keeper:
            try:
                wire.send(self._keeper, self._waiting[0])
            except BlockingIOError:
                self._loop.later(AGAIN, self._send)
                return
            except WireError as error:
                print(f"supervisor: not told to the audit log: {error}", file=sys.stderr)
            except OSError as error:
                print(f"supervisor: nothing more is told to the audit log: {error.strerror}", file=sys.stderr)
                self._keeper = None
                self._waiting.clear()
                return
            self._waiting.popleft()
            if self._left_out and not self._waiting:
                left_out, self._left_out = self._left_out, 0
                self.tell("monitor.events_lost", 0, "", lost=left_out)
