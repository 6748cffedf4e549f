"""A spawner that ends in the middle of a request is told as what it is, whatever the socket says of it."""

from __future__ import annotations

import os
import signal

import pytest

from supervisor.errors import SupervisorError
from supervisor.monitor.children import Spawner
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
    spawner.kill(1, signal.SIGKILL)
    spawner.spawn(1, "digest", lambda *_: [], lambda *_: None)
    loop.run()
    assert told == ["gone"]
    spawner.close()
