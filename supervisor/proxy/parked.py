"""What waits between two requests of one client: calls that its user is asked about, tasks that a server has made.

Runs unprivileged. Bounded in number and time; what one client has here is nothing to another.
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING

import msgspec

from supervisor.proxy import message
from supervisor.proxy.calls import Call

if TYPE_CHECKING:
    from supervisor.proxy.conversation import Conversation
    from supervisor.proxy.servers import Server

MAX_CALLS, MAX_TASKS = 1024, 4096
SECONDS = 600.0


class Parked:
    """Calls by the state that their client was given, servers by the task that they made."""

    def __init__(self) -> None:
        self._calls: dict[str, tuple[Call, float]] = {}
        self._issuers: dict[tuple[str, str], Server] = {}

    def park(self, call: Call) -> str:
        """Keep a call until its client comes back with the state that is returned."""
        if len(self._calls) >= MAX_CALLS:
            self._drop(next(iter(self._calls)))
        state = secrets.token_urlsafe(18)
        self._calls[state] = (call, time.monotonic())
        return state

    def resume(self, call: Call) -> bool:
        """Go on with the parked call that this one's state names; whether it was ours to answer."""
        state = message.text(call.params["requestState"]) or ""
        parked, _ = self._calls.get(state, (None, 0.0))
        if parked is None:
            if call.server is not None and call.server.speaks(modern=True):
                return False  # the server's own state
            call.conversation.refuse(call, message.INVALID_PARAMS, "this requestState is unknown, used or expired")
            return True
        same = parked.method == call.method and parked.name == call.name
        if not same or parked.conversation.principal != call.conversation.principal:
            call.conversation.refuse(call, message.INVALID_PARAMS, "this requestState belongs to another request")
            return True
        del self._calls[state]
        parked.resume(call)
        return True

    def expire(self, now: float) -> None:
        """Nobody waits for ever."""
        for state, (_, since) in list(self._calls.items()):
            if now - since > SECONDS:
                self._drop(state)

    def _drop(self, state: str) -> None:
        call, _ = self._calls.pop(state)
        if call.instance and call.instance.pending.pop(call.number, None):
            body = {"requestId": msgspec.Raw(call.number)}
            call.instance.write(message.notification("notifications/cancelled", body))

    def issue(self, call: Call, task: str) -> None:
        """A server has made a task for this client."""
        if len(self._issuers) >= MAX_TASKS:
            del self._issuers[next(iter(self._issuers))]
        if call.server is not None:
            self._issuers[call.conversation.principal.name, task] = call.server

    def issuer(self, conversation: Conversation, task: str | None) -> Server | None:
        """The server that made a task for this client."""
        return self._issuers.get((conversation.principal.name, task or ""))
