"""Hostile peers of the wire tests: connections to a daemon by whoever is acting, and what arbitrary peers may say.

Runs as root, and as the ordinary user while a connection is made: that is whom the kernel vouches for.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from supervisor import wire
from tests.integration import adversary
from tests.integration.adversary import Daemon

HELLO: wire.Message = {"id": 1, "req": "hello", "version": 1}
SECONDS = 20


@contextmanager
def acting_as(uid: int) -> Iterator[None]:
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


class Peer:
    """A connection of whoever is acting."""

    def __init__(self, host: Daemon, *, name: str = "proxy.sock") -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(SECONDS)
        try:
            self.socket.connect(str(host.folder / name))
        except OSError:
            self.socket.close()
            raise

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def hello(self) -> Peer:
        answer = self.ask(HELLO)
        assert answer
        assert "ok" in answer
        return self

    def ask(self, message: wire.Message) -> wire.Message | None:
        """One request; its answer, or None when the connection was closed instead."""
        wire.send(self.socket, message)
        return self.next()

    def next(self) -> wire.Message | None:
        try:
            received = wire.receive(self.socket, max_fds=5)
        except ConnectionError:
            return None
        for fd in received[1] if received else []:
            os.close(fd)
        return received[0] if received else None

    def is_closed(self) -> bool:
        """Whether the other end hangs up, now or soon."""
        return self.next() is None


OPEN: wire.Message = {"id": 2, "req": "open", "server": "mine"}


def sandboxes(host: Daemon, *, besides: Sequence[int] = ()) -> list[int]:
    """The payloads that the daemon runs, without somebody's."""
    payloads = [pid for pid in adversary.below(host.process.pid) if adversary.MARKER in adversary.command_of(pid)]
    return [pid for pid in payloads if pid not in besides]


# anything that JSON can say; requests with keys and values of the right and of other kinds; all of it damaged
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("mine"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
fields = st.fixed_dictionaries(
    {},
    optional={
        "id": st.integers(0, 9) | json_values,
        "req": st.sampled_from(["hello", "open", "close", "list", "inspect", "kill", "load", "go"]) | json_values,
        "server": st.sampled_from(["mine", "private", "nothing", "Mine", "mine\0", "../mine"]) | json_values,
        "session": st.integers(-1, 300) | json_values,
        "version": st.just(1) | json_values,
        "command": st.just(["/bin/sh"]),
    },
)
texts = st.builds(lambda value: json.dumps(value).encode(), fields | json_values)
cut = st.builds(
    lambda data, at, byte: data[:at] + bytes([byte]) + data[at + 1 :],
    texts,
    st.integers(0, 60),
    st.integers(0, 255),
)
datagrams = st.binary(min_size=1, max_size=400) | texts | cut
relaxed = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))
