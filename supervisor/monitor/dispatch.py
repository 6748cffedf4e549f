"""The two tables of requests. What is not in a peer's table ends the peer.

Runs as root. The table is the policy: request, shape, function, whether a hello must have come first.
Requests carry names, never policy: no request has a field for a command, a path, a mount or a variable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, NamedTuple

from msgspec import Meta, ValidationError, convert

from supervisor import wire
from supervisor.errors import SupervisorError, WireError
from supervisor.model import Frozen, Name
from supervisor.monitor.sessions import Peer

VERSION = 1
Id = Annotated[int, Meta(ge=0, le=2**53)]


class Request(Frozen):
    """Of every request: the peer's own number for it, and what is wanted."""

    id: Id
    req: str


class Hello(Request):
    version: Annotated[int, Meta(ge=VERSION, le=VERSION)]


class Open(Request):
    server: Name


class Close(Request):
    session: Id


class Decide(Open):
    """The number is of what was reviewed: what has changed meanwhile has another."""

    approval: Annotated[str, Meta(pattern=r"^[0-9a-f]{12}\Z")]
    # written down in UTF-8, which has no surrogates
    reason: Annotated[str, Meta(max_length=1000, pattern=r"^[^\ud800-\udfff]*\Z")] = ""
    until: Annotated[float, Meta(ge=0, le=1e300)] = 0


class Rule(NamedTuple):
    """One request: its closed shape, and what a monitor.requests.Monitor does for a peer that sends it."""

    shape: type[Request]
    function: Callable[..., wire.Message | None]


PROXY = {
    "hello": Rule(Hello, lambda monitor, peer, _: monitor.hello(peer)),
    "open": Rule(Open, lambda monitor, peer, request: monitor.open(peer, request.id, request.server)),
    "describe": Rule(Open, lambda monitor, peer, request: monitor.describe(peer, request.id, request.server)),
    "close": Rule(Close, lambda monitor, peer, request: monitor.close(peer, request.session)),
    "ask": Rule(Open, lambda monitor, peer, request: monitor.wanted(peer, request.server)),
    "list": Rule(Request, lambda monitor, peer, _: monitor.servers_of(peer)),
}
ADMIN = {
    "hello": Rule(Hello, lambda monitor, peer, _: monitor.hello(peer)),
    "inspect": Rule(Request, lambda monitor, _peer, _: monitor.inspect()),
    "kill": Rule(Close, lambda monitor, _peer, request: monitor.kill(request.session)),
    "start": Rule(Open, lambda monitor, _peer, request: monitor.steer(request.server, stop=False)),
    "stop": Rule(Open, lambda monitor, _peer, request: monitor.steer(request.server, stop=True)),
    "reload": Rule(Request, lambda monitor, _peer, _: monitor.reload()),
    "drain": Rule(Request, lambda monitor, _peer, _: monitor.drain()),
    **dict.fromkeys(("approve", "deny", "revoke"), Rule(Decide, lambda monitor, *about: monitor.decide(*about))),
}


def handle(monitor: object, peer: Peer, message: wire.Message) -> None:
    """Answer one request, or raise WireError: then the connection is closed, and its sessions with it."""
    name = str(message.get("req"))
    rule = (ADMIN if peer.admin else PROXY).get(name)
    if rule is None:
        raise WireError(f"unknown request {name[:40]!r}")
    if (name == "hello") == peer.greeted:
        raise WireError("hello comes first, and once")
    try:
        request = convert(message, rule.shape)
    except (ValidationError, UnicodeError) as error:  # half a character, where no text belongs or as a key
        raise WireError(f"malformed {name}: {str(error)!r:.200}") from None
    peer.greeted = True
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
