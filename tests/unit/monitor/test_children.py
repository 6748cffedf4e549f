"""A spawner that ends in the middle of a request is told as what it is, whatever the socket says of it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from supervisor.errors import LaunchFailed, SupervisorError
from supervisor.monitor.children import FEW, Spawner
from supervisor.monitor.loop import Loop

# says hello, and ends with a request unread: its peer gets ECONNRESET once, and EPIPE from then on
_ENDS = """
import os, socket
ours = socket.socket(fileno=3)
ours.send(b'{"event":"hello"}')
ours.recv(1, socket.MSG_PEEK)
os._exit(1)
"""


@pytest.fixture
def spawner() -> Spawner:
    made = Spawner(_ENDS)
    made.greet()
    return made


def test_a_document_that_is_never_loaded_is_told_with_the_reason(spawner: Spawner) -> None:
    for _ in range(2):
        with pytest.raises(SupervisorError, match="the spawner ended unexpectedly; nothing of any session"):
            spawner.load("digest", {})
    spawner.close()


def test_what_is_asked_of_one_that_is_gone_ends_in_its_end_and_nothing_else(spawner: Spawner) -> None:
    loop, told = Loop(), list[str]()
    spawner.keep([])
    os.waitid(os.P_PID, spawner.pid, os.WEXITED | os.WNOWAIT)

    def gone() -> None:
        told.append("gone")
        loop.stop()

    spawner.serve(loop, lambda *_: None, gone)
    spawner.keep([])
    spawner.spawn(1, "digest", lambda *_: [], lambda *_: None)
    loop.run()
    assert told == ["gone"]
    spawner.close()


# says of the oldest session that it has not said anything of, each time it is asked to keep nothing
_SLOW = """
import json, socket
ours = socket.socket(fileno=3)
ours.send(b'{"event":"hello"}')
asked = []
while data := ours.recv(4096):
    said = json.loads(data)
    if said["req"] == "spawn":
        asked.append(said["id"])
    else:
        died = {"event": "exited", "code": None, "limits": ["memory"]}
        how = died if said["digests"] else {"event": "failed", "step": "x", "reason": "y"}
        ours.send(json.dumps(how | {"id": asked.pop(0)}).encode())
"""


class Asked:
    """A spawner that says something of one session after the other when it is told to, and what was asked of it."""

    def __init__(self) -> None:
        self.spawner = Spawner(_SLOW)
        self.spawner.greet()
        self.loop = Loop()
        self.order = list[int]()
        self.failures = list[str]()
        self.spawner.serve(self.loop, lambda *_: None, self.loop.stop)

    def open(self, uid: int, number: int) -> None:
        def start() -> None:
            self.order.append(number)
            self.spawner.spawn(number, "digest", lambda *_: [], lambda failure, _: self.done(failure))

        self.spawner.in_turn(uid, start)

    def done(self, failure: LaunchFailed | None) -> None:
        self.failures.append(str(failure))

    def next(self, *, died: bool = False) -> None:
        """One session that is under way fails, or dies."""
        self.spawner.keep(["x"] if died else [])
        before = len(self.failures)
        while len(self.failures) == before:
            self.loop.once()


@pytest.fixture
def asked() -> Iterator[Asked]:
    made = Asked()
    yield made
    made.spawner.close()


def test_users_take_turns_and_few_sessions_are_asked_for_at_once(asked: Asked) -> None:
    for number in range(5):
        asked.open(1000, number)
    asked.open(0, 100)
    assert asked.order == list(range(FEW))
    asked.next()
    asked.next()
    assert 100 in asked.order
    assert len(asked.order) == FEW + 2
    while len(asked.failures) < 6:
        asked.next()
    assert sorted(asked.order) == [0, 1, 2, 3, 4, 100]


def test_a_session_that_dies_before_its_payload_is_started_has_failed_and_the_next_is_asked_for(
    asked: Asked,
) -> None:
    for number in range(FEW + 1):
        asked.open(0, number)
    asked.next(died=True)
    assert "the sandbox ended before its payload was started (limits hit: memory)" in asked.failures[0]
    assert len(asked.order) == FEW + 1
