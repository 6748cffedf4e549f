"""The hosts of a call: bounded, each once, what moved added up."""

from __future__ import annotations

from supervisor.audit.reached import Reached
from supervisor.proxy import hosts
from supervisor.proxy.hosts import Hosts


def test_what_moved_in_several_connections_is_added_up() -> None:
    made = Hosts()
    for sent, received in ((0, 0), (10, 1), (0, 0), (20, 2)):
        made.add(Reached("a.test", 443, sent, received))
    made.add(Reached("a.test", 80, 5, 5))
    made.add(Reached("a.test", 443, denied=True))
    assert set(made.listed()) == {
        Reached("a.test", 443, 30, 3),
        Reached("a.test", 80, 5, 5),
        Reached("a.test", 443, denied=True),
    }
    assert made.more == 0


def test_what_there_is_no_room_for_is_counted_and_hides_no_refusal() -> None:
    made = Hosts()
    for number in range(hosts.MOST + 3):
        made.add(Reached(f"h{number}.test", 443))
    made.add(Reached("h0.test", 443, 1, 1))
    made.add(Reached("evil.test", 443, denied=True))
    assert made.more == 3
    assert made.listed()[0] == Reached("evil.test", 443, denied=True)
    assert Reached("h0.test", 443, 1, 1) in made.listed()
