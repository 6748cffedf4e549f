"""What the broker says is a stranger's word: it parses what strangers send."""

from __future__ import annotations

import pytest

from supervisor import wire
from supervisor.monitor.egress import Egress
from supervisor.monitor.loop import Loop


@pytest.mark.parametrize("session", [1.0, True, [1], {"a": 1}, None, "1"])
def test_a_broker_that_talks_nonsense_is_ended_and_its_sessions_with_it(session: object) -> None:
    told: list[tuple[int, wire.Message]] = []
    lost: list[tuple[int, str]] = []
    egress = Egress(Loop(), lambda *event: told.append(event), lambda *why: lost.append(why))
    egress._users = {1}
    egress._heard({"event": "refused", "session": session})
    assert told == []
    assert lost == [(1, "the egress broker ended unexpectedly")]


def test_of_a_session_that_has_ended_nothing_is_told() -> None:
    told: list[tuple[int, wire.Message]] = []
    egress = Egress(Loop(), lambda *event: told.append(event), lambda *_: None)
    egress._users = {1}
    for number in (2**70, 2, 1):
        egress._heard({"event": "refused", "session": number, "name": "a.test"})
    assert told == [(1, {"event": "refused", "session": 1, "name": "a.test"})]
