"""How the end of a session is told: the limit that was hit, the monitor's word, or what the server did itself."""

from __future__ import annotations

import pytest

from supervisor import wire
from supervisor.proxy.link import Exited, Link


def told(code: int | None, *, reason: str = "", **limits: int) -> Exited:
    """What a proxy makes of the monitor's event."""
    ours, theirs = wire.pair()
    with ours, theirs:
        event: wire.Message = {"event": "exited", "session": 1, "code": code, "limits": limits, "reason": reason}
        wire.send(theirs, event)
        ended = Link(ours).event()
    assert ended is not None
    return ended


MEMORY = "killed by the kernel: it used more than its 64 MiB of memory (limits.memory)"


@pytest.mark.parametrize(
    ("ended", "status", "says"),
    [
        (told(0), 0, "exited with status 0"),
        (told(-15), 143, "killed by signal 15 (SIGTERM)"),
        (told(-37), 165, "killed by signal 37 (Real-time signal 3)"),
        (told(None), 137, "killed"),
        (told(None, reason="closed"), 137, "closed"),
        (
            told(-9, memory=64 << 20),
            137,
            "killed by the kernel: it used more than its 64 MiB of memory (limits.memory)",
        ),
        (told(0, memory=64 << 20), 0, "exited with status 0"),
        (told(1, pids=64), 1, "exited with status 1; it was refused more than 64 processes (limits.pids)"),
    ],
)
def test_the_end_of_a_session_is_told_with_its_cause(ended: Exited, status: int, says: str) -> None:
    assert (ended.status, ended.reason) == (status, says)
