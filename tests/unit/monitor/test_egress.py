"""What the broker says is a stranger's word: it parses what strangers send."""

from __future__ import annotations

import pytest

from supervisor import wire
from supervisor.monitor import egress as egress_module
from supervisor.monitor.egress import Egress
from supervisor.monitor.loop import Loop


@pytest.mark.parametrize("session", [1.0, True, [1], {"a": 1}, None, "1"])
def test_a_broker_that_talks_nonsense_is_ended_and_its_sessions_with_it(session: object) -> None:
    told: list[tuple[int, wire.Message]] = []
    lost: list[tuple[int, str]] = []
    egress = Egress(Loop(), lambda *event: told.append(event), lambda *why: lost.append(why))
    egress._users = {1: lambda: lost.append((1, "gone"))}
    egress._heard({"event": "refused", "session": session})
    assert told == []
    assert lost == [(1, "gone")]


def test_of_a_session_that_has_ended_nothing_is_told() -> None:
    told: list[tuple[int, wire.Message]] = []
    egress = Egress(Loop(), lambda *event: told.append(event), lambda *_: None)
    egress._users = {1: lambda: None}
    for number in (2**70, 2, 1):
        egress._heard({"event": "refused", "session": number, "name": "a.test"})
    assert told == [(1, {"event": "refused", "session": 1, "name": "a.test"})]


def test_what_a_session_reached_last_is_told_before_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    egress = Egress(Loop(), lambda *event: told.append(event), lambda *why: told.append(why))
    egress._users = {1: lambda: None, 2: lambda: told.append("lost 2")}
    sent: list[wire.Message] = []
    monkeypatch.setattr(egress, "_send", lambda message, fds=None: sent.append(message))
    egress.remove(1, lambda: told.append("ended 1"))
    assert sent == [{"req": "remove", "session": 1}]
    egress._heard({"event": "reached", "session": 1, "name": "a.test"})
    egress._heard({"event": "removed", "session": 1})
    assert told == [(1, {"event": "reached", "session": 1, "name": "a.test"}), "ended 1"]
    egress._heard({"event": "reached", "session": 1, "name": "a.test"})
    egress._heard(None)
    assert told[2:] == ["lost 2"]


def test_a_session_that_reached_nobody_or_whose_broker_has_gone_ends_at_once() -> None:
    ended: list[int] = []
    egress = Egress(Loop(), lambda *_: None, lambda *_: None)
    egress.remove(1, lambda: ended.append(1))
    egress._users = {2: lambda: None}
    egress.remove(2, lambda: ended.append(2))
    assert ended == [1]
    egress._heard(None)
    assert ended == [1, 2]


def test_a_broker_that_never_says_so_is_as_good_as_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress_module, "_LAST_SECONDS", 0.01)
    loop, ended = Loop(), list[int]()
    egress = Egress(loop, lambda *_: None, lambda *_: None)
    egress._users = {1: lambda: None}
    egress.remove(1, lambda: ended.append(1))
    while not ended:
        loop.once()
