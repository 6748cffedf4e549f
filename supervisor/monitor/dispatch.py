"""The two tables of requests. What is not in a peer's table ends the peer.

Runs as root. The table is the policy: request, shape, function, whether a hello must have come first.
Requests carry names, never policy: no request has a field for a command, a path, a mount or a variable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Protocol

from pydantic import Field, ValidationError

from supervisor import wire
from supervisor.errors import SupervisorError, WireError
from supervisor.model import Frozen, Name
from supervisor.monitor.sessions import Peer

VERSION = 1
Id = Annotated[int, Field(ge=0, le=2**53)]


class Request(Frozen):
    """Of every request: the peer's own number for it, and what is wanted."""

    id: Id
    req: str


class Hello(Request):
    # not Literal[1], which takes 1.0 and true for it
    version: Annotated[int, Field(ge=VERSION, le=VERSION)]


class Open(Request):
    server: Name


class Close(Request):
    session: Id


class Plain(Request):
    """A request without arguments."""


class Monitor(Protocol):
    """What the functions of the tables may do."""

    def hello(self, peer: Peer) -> wire.Message: ...
    def servers_of(self, peer: Peer) -> wire.Message: ...
    def open(self, peer: Peer, number: int, server: str) -> None: ...
    def describe(self, peer: Peer, number: int, server: str) -> None: ...
    def close(self, peer: Peer, session: int) -> wire.Message: ...
    def inspect(self) -> wire.Message: ...
    def kill(self, session: int) -> wire.Message: ...
    def steer(self, server: str, *, stop: bool) -> wire.Message: ...
    def reload(self) -> wire.Message: ...
    def drain(self) -> wire.Message: ...


def _hello(monitor: Monitor, peer: Peer, _: Hello) -> wire.Message:
    if peer.greeted:
        raise WireError("a second hello")
    peer.greeted = True
    return monitor.hello(peer)


Function = Callable[[Monitor, Peer, Request], wire.Message | None]


@dataclass(frozen=True)
class Rule:
    """One request: its closed shape, its function, whether it must be the first."""

    shape: type[Request]
    function: Function
    first: bool = False


def _rule(shape: type[Request], function: Callable[..., wire.Message | None], *, first: bool = False) -> Rule:
    return Rule(shape, function, first)


PROXY = {
    "hello": _rule(Hello, _hello, first=True),
    "open": _rule(Open, lambda monitor, peer, request: monitor.open(peer, request.id, request.server)),
    "describe": _rule(Open, lambda monitor, peer, request: monitor.describe(peer, request.id, request.server)),
    "close": _rule(Close, lambda monitor, peer, request: monitor.close(peer, request.session)),
    "list": _rule(Plain, lambda monitor, peer, _: monitor.servers_of(peer)),
}
ADMIN = {
    "hello": _rule(Hello, _hello, first=True),
    "inspect": _rule(Plain, lambda monitor, _peer, _: monitor.inspect()),
    "kill": _rule(Close, lambda monitor, _peer, request: monitor.kill(request.session)),
    "start": _rule(Open, lambda monitor, _peer, request: monitor.steer(request.server, stop=False)),
    "stop": _rule(Open, lambda monitor, _peer, request: monitor.steer(request.server, stop=True)),
    "reload": _rule(Plain, lambda monitor, _peer, _: monitor.reload()),
    "drain": _rule(Plain, lambda monitor, _peer, _: monitor.drain()),
}


def handle(monitor: Monitor, peer: Peer, message: wire.Message) -> None:
    """Answer one request, or raise WireError: then the connection is closed, and its sessions with it."""
    rule = (ADMIN if peer.admin else PROXY).get(str(message.get("req")))
    if rule is None:
        raise WireError(f"unknown request {str(message.get('req'))[:40]!r}")
    if rule.first == peer.greeted:
        raise WireError("hello comes first, and once")
    try:
        request = rule.shape.model_validate(message)
    except ValidationError as error:
        raise WireError(f"malformed {message['req']}: {error.errors()[0]['type']}") from None
    try:
        answer = rule.function(monitor, peer, request)
    except SupervisorError as error:
        if isinstance(error, WireError):
            raise
        answer = {"error": failure(error)}
    if answer is not None:
        peer.send({"id": request.id} | answer)


def failure(error: SupervisorError) -> wire.Message:
    """An error as a peer gets it: the message as it is, and the exit status."""
    return {"status": error.exit_status, "message": str(error)}
