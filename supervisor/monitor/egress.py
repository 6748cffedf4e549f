"""The monitor's end of the egress broker: starts it for the first session that may reach out, hears its record.

Runs as root. The sockets that a sandbox donates pass through here and are closed at once: one that stayed would
keep the sandbox's network namespace. When the broker is gone its sessions are ended: they could reach nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from supervisor import wire
from supervisor.errors import WireError
from supervisor.model import Network
from supervisor.monitor import children
from supervisor.monitor.loop import Loop

_SECONDS, _LAST_SECONDS = 2.0, 10.0
_TOLD = ("name", "port", "reason", "rule", "sent", "received")

Tell = Callable[[int, wire.Message], None]
Lost = Callable[[int, str], None]


class Egress:
    """At most one broker: `tell` gets each refusal, `lost` each session that has no broker any more."""

    def __init__(self, loop: Loop, tell: Tell, lost: Lost) -> None:
        self._loop, self._tell, self._lost = loop, tell, lost
        # and what is done when nothing more is told of it
        self._users: dict[int, Callable[[], None]] = {}
        self._broker: children.Started | None = None

    def add(self, number: int, network: Network, secrets: list[int]) -> None:
        """Announce a session before its sandbox is made; `secrets`: of those that the broker adds."""
        if network.mode == "none":
            return
        if self._broker is None:
            self._broker = children.start(children.CODE.format("egress.broker"))
            # a broker that does not read for so long is as good as gone
            self._broker.socket.settimeout(_SECONDS)
            self._broker.watch(self._loop, self._heard)
            self._send({"filter": network.filter})
        self._users[number] = partial(self._lost, number, "the egress broker ended unexpectedly")
        limits = network.model_dump(include={"connections", "rate", "bytes", "idle"})
        rules = {"allow": list(network.allow), "ech": network.ech, "limits": limits}
        self._send({"req": "add", "session": number} | rules, secrets)

    def sockets(self, number: int, fds: list[int]) -> None:
        """Pass on what a sandbox donated."""
        self._send({"req": "sockets", "session": number}, fds)
        wire.close(fds)

    def remove(self, number: int, ended: Callable[[], None]) -> None:
        """A session has ended; `ended` is called when the broker has told its last of it. It ends with the last."""
        if number not in self._users:
            ended()
            return
        self._users[number] = ended
        self._loop.later(_LAST_SECONDS, lambda: self._gone() if number in self._users else None)
        self._send({"req": "remove", "session": number})

    def close(self) -> None:
        """End the broker, and everything that still passes through it."""
        broker, self._broker = self._broker, None
        if broker:
            broker.end(self._loop)

    def _send(self, message: wire.Message, fds: list[int] | None = None) -> None:
        if self._broker:
            try:
                wire.send(self._broker.socket, message, fds)
            except (OSError, WireError):
                self._gone()

    def _gone(self) -> None:
        self.close()
        users, self._users = self._users, {}
        for ended in users.values():
            ended()

    def _heard(self, event: wire.Message | None) -> None:
        number = event and event.get("session")
        if type(number) is not int:
            self._gone()
        elif event and event.get("event") == "removed" and number in self._users:
            ended = self._users.pop(number)
            if not self._users:
                self.close()
            ended()
        elif event and number in self._users:
            kind = "refused" if event.get("event") == "refused" else "reached"
            told = {key: str(event[key])[:500] for key in _TOLD if key in event}
            self._tell(number, {"event": kind, "session": number} | told)
