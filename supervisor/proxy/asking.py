"""What a legacy server asks its client, and whose question that is: it names no call.

Runs unprivileged. A process that is one client's alone asks that client. One that calls of several clients share
asks only while a single call can be meant: not while others are under way, and not after one was given up, because
its questions may still be in the pipe.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from supervisor.proxy import eras, message
from supervisor.proxy.message import Fields

if TYPE_CHECKING:
    from supervisor.proxy.instance import Instance, Waiter, Waiting

# seconds that a question waits for the end of the calls that are not its own, and how many may
_PATIENCE, _MOST = 5.0, 16
# answers that may wait for a server that asks and does not read
_UNREAD = 1024


class Asking:
    """The questions of one process. `held` are those of which nobody can tell yet whose they are."""

    def __init__(self, instance: Instance) -> None:
        self.held: list[tuple[Fields, str]] = []
        self._instance = instance
        self._unread = 0
        self._timer: asyncio.TimerHandle | None = None

    def ask(self, fields: Fields, method: str) -> None:
        """A request of the server's: passed on, held, or answered here."""
        it = self._instance
        if method == "ping":
            self._reply(message.result(bytes(fields["id"]), b"{}"))
        elif not self._may(method):
            self._refuse(fields, f"no client that is connected supports {method[:200]}")
        elif it.owner is None:
            it.common.asks = it.common.asks or it.ready
            self._share(fields, method)
        else:
            # whoever asked last is the likeliest to be meant
            likely: list[Waiting | Waiter] = [*reversed(it.pending.values()), *it.waiting]
            passed_on = any(each.asked(it, fields, method) for each in likely)
            if not passed_on and not it.owner.questions.ask(it, fields, method, None):
                self._refuse(fields, f"no client that is connected supports {method[:200]}")

    def _may(self, method: str) -> bool:
        """A modern server asks in its answers only; others what they were told that their one client can do."""
        it = self._instance
        capability = eras.ASKED.get(method)
        if it.modern or len(it.principals) > 1:
            return False
        if capability is None:
            return it.owner is not None
        return capability in (message.fields(it.hello.capabilities) or {})

    def _share(self, fields: Fields, method: str) -> None:
        it = self._instance
        # what it asks while it starts is about no call
        able: list[Waiting | Waiter] = [*it.calls] if it.ready else [*it.waiting]
        if it.abandoned:
            self._refuse(fields, "a call was given up here, and this may be its question")
        elif it.ready and len(able) > 1 and len(self.held) < _MOST:
            self.held.append((fields, method))
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(_PATIENCE, self._expire)
        elif (it.ready and len(able) > 1) or not any(each.asked(it, fields, method) for each in able):
            self._refuse(fields, "there is no call, or more than one, that this can belong to")

    def settle(self) -> None:
        """A call is over, or was given up: it may be clear now whose the questions are."""
        it = self._instance
        if it.abandoned or len(it.calls) < 2:
            held, self.held = self.held, []
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            for each in held:
                self._share(*each)
        if it.abandoned and it.exclusive and not it.calls:
            it.end("a call was given up that it may still ask about")

    def _expire(self) -> None:
        self._timer = None
        held, self.held = self.held, []
        for fields, _ in held:
            self._refuse(fields, "several calls are under way, and nobody can tell whose question this is")

    def _refuse(self, fields: Fields, said: str) -> None:
        self._reply(message.error(bytes(fields["id"]), message.METHOD_NOT_FOUND, said))

    def _reply(self, line: bytes) -> None:
        """Answer what the server asked; it may not ask without reading, because answers that wait are memory."""
        it = self._instance
        self._unread = self._unread + 1 if it.full else 0
        if self._unread <= _UNREAD:
            it.write(line)
        else:
            it.unwell("it sends requests and does not read the answers")
