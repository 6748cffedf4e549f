"""What waits between two requests of one client: calls that its user is asked about, tasks that a server has made.

Runs unprivileged. Bounded in number and time; what one client has here is nothing to another.
"""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING

from supervisor.proxy import message
from supervisor.proxy.calls import Call

if TYPE_CHECKING:
    from supervisor.proxy.conversation import Conversation
    from supervisor.proxy.servers import Server

# of one client at a time, and of all together
MAX_OWN, MAX_CALLS = 64, 1024
MAX_TASKS = 1024
SECONDS = 600.0
_FORSAKEN = "its client did not come back"


class Parked:
    """Calls by the state that their client was given, servers by the task that they made."""

    def __init__(self) -> None:
        self._calls: dict[str, tuple[Call, float]] = {}
        self._issuers: dict[str, dict[str, Server]] = {}

    def park(self, call: Call) -> str:
        """Keep a call until its client comes back with the state that is returned."""
        name = call.conversation.principal.name
        own = [state for state, (each, _) in self._calls.items() if each.conversation.principal.name == name]
        if len(own) >= MAX_OWN:
            self._drop(own[0])
        elif len(self._calls) >= MAX_CALLS:
            self._drop(next(iter(self._calls)))
        state = secrets.token_urlsafe(18)
        self._calls[state] = (call, time.monotonic())
        return state

    def resume(self, call: Call) -> bool:
        """Go on with the parked call that this one's state names; whether it was ours to answer."""
        state = message.text(call.params["requestState"]) or ""
        parked, _ = self._calls.get(state, (None, 0.0))
        if parked is None:
            if call.server is not None and call.server.modern[True]:
                return False  # the server's own state
            call.conversation.refuse(call, message.INVALID_PARAMS, "this requestState is unknown, used or expired")
            return True
        same = (parked.method, parked.name, parked.server) == (call.method, call.name, call.server)
        if not same or parked.conversation.principal.name != call.conversation.principal.name:
            call.conversation.refuse(call, message.INVALID_PARAMS, "this requestState belongs to another request")
            return True
        del self._calls[state]
        parked.resume(call)
        return True

    def expire(self, now: float) -> None:
        """Nobody waits for ever; at an infinite time, for nobody."""
        for state, (_, since) in list(self._calls.items()):
            if now - since > SECONDS:
                self._drop(state)

    def _drop(self, state: str) -> None:
        call, _ = self._calls.pop(state)
        instance = call.instance
        if instance:
            instance.abandon(call, call.number)
            for request_id, _, _ in call.questions.values():
                instance.write(message.error(bytes(request_id), message.INVALID_PARAMS, _FORSAKEN))
        if instance and call.server and call.server.settings.session.share == "call":
            instance.end(_FORSAKEN)

    def issue(self, call: Call, task: str) -> None:
        """A server has made a task for this client."""
        own = self._issuers.setdefault(call.conversation.principal.name, {})
        if len(own) >= MAX_TASKS:
            del own[next(iter(own))]
        if call.server is not None:
            own[task] = call.server

    def issuer(self, conversation: Conversation, task: str | None) -> Server | None:
        """The server that made a task for this client."""
        return self._issuers.get(conversation.principal.name, {}).get(task or "")
