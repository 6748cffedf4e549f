"""What the monitor tells: in order, never waiting, nothing lost without a word."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from supervisor import wire
from supervisor.monitor import record
from supervisor.monitor.loop import Loop
from supervisor.monitor.record import Record


class Told:
    """A record and what its keeper has heard when it reads."""

    def __init__(self) -> None:
        self.ours, self.keeper = wire.pair()
        self.keeper.setblocking(False)
        self.loop = Loop()
        self.record = Record(self.loop, self.ours)

    def heard(self) -> list[wire.Message]:
        found: list[wire.Message] = []
        while True:
            try:
                received = wire.receive(self.keeper)
            except BlockingIOError:
                return found
            assert received
            found.append(received[0])

    def heard_until(self, what: str) -> list[wire.Message]:
        found = self.heard()
        while not any(each["what"] == what for each in found):
            self.loop.once()
            found += self.heard()
        return found


@pytest.fixture
def told() -> Iterator[Told]:
    made = Told()
    yield made
    made.ours.close()
    made.keeper.close()


def test_an_event_has_all_that_was_said(told: Told) -> None:
    told.record.tell("session.ended", 7, "files", 3, "abc", code=0)
    assert told.heard() == [
        {"req": "tell", "what": "session.ended", "uid": 7, "server": "files", "session": 3, "spec": "abc"}
        | {"details": {"code": 0}}
    ]


def test_a_keeper_that_does_not_read_is_not_waited_for_and_hears_all_in_order_later(told: Told) -> None:
    for number in range(3000):
        told.record.tell("egress.connected", 0, "files", number, told="x" * 500)
    told.record.tell("last", 0, "files")
    heard = told.heard_until("last")
    assert [each["session"] for each in heard[:-1]] == list(range(3000))


def test_what_was_left_out_is_counted(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "MOST", 10)
    for number in range(5000):
        told.record.tell("egress.connected", 0, "files", number, told="x" * 500)
    heard = told.heard_until("monitor.events_lost")
    assert len(heard) - 1 + int(heard[-1]["details"]["lost"]) == 5000  # type: ignore[index]
    assert heard[-1]["details"]["lost"] > 0  # type: ignore[index]


def test_a_flood_of_refusals_is_told_in_part_and_counted_per_user(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "SECOND", 0.01)
    for number in range(500):
        told.record.refused(7, f"name-{number}", "admit: unknown", "no such server")
    told.record.refused(8, "files", "admit: unknown", "no such server")
    heard = told.heard()
    assert [each["uid"] for each in heard] == [7] * record.REFUSALS + [8]
    assert heard[0]["details"] == {"rule": "admit: unknown", "reason": "no such server"}
    while not (later := told.heard()):
        told.loop.once()
    (rest,) = later
    assert (rest["uid"], rest["details"]) == (
        7,
        {"times": 500 - record.REFUSALS, "reason": "more in the same second"},
    )
    told.record.refused(7, "files", "admit: unknown", "no such server")
    assert len(told.heard()) == 1


def test_a_keeper_that_is_gone_is_said_once(told: Told, capsys: pytest.CaptureFixture[str]) -> None:
    told.keeper.close()
    told.record.tell("session.ended", 7, "files")
    told.record.tell("session.ended", 7, "files")
    assert capsys.readouterr().err == "supervisor: nothing more is told to the audit log: Broken pipe\n"


def test_without_a_keeper_nothing_is_kept() -> None:
    without = Record(Loop(), None)
    without.refused(0, "files", "rule", "reason")
    without.tell("session.ended", 0, "files")
