"""What an ordinary user may not do to a log that others write too."""

from __future__ import annotations

import json
import os

import pytest

from supervisor.audit import chain, claims, schema, segments
from supervisor.audit.claims import Claims
from supervisor.audit.confine import Place
from supervisor.sandbox import syscalls
from tests.unit.audit import ledgers
from tests.unit.audit.ledgers import started

root = pytest.mark.skipif(os.geteuid() != 0, reason="to be somebody else needs root")
WHO = 54321


def said(user: str = f"uid:{WHO}", app: str = "test 1", svc: str = "stdio") -> dict[str, str | None]:
    return {"user": json.dumps(user), "app": json.dumps(app), "svc": json.dumps(svc)}


@root
def test_a_record_in_another_name_is_refused_and_the_sender_is_told_why(place: Place) -> None:
    with started(place) as ledger:
        peer = ledger.peer(WHO)
        bodies = (
            ledgers.sample("a", user="uid:0"),
            ledgers.sample("b", user="uid:0").replace(b'"uid:0"', b'"\\u0075id:0"'),
            ledgers.sample("c", user=f"uid:{WHO}", client="monitor"),
            ledgers.sample("d", user=f"uid:{WHO}"),
        )
        pid = os.fork()
        if pid == 0:
            os.setresuid(WHO, WHO, WHO)
            for body in bodies:
                peer.say(body=body)
            os._exit(0)
        os.waitpid(pid, 0)
        heard = [peer.hear() for _ in range(3)]
        yes = [each["ok"] for each in heard if "ok" in each]
        no = {str(each["reason"]): each["no"] for each in heard if "no" in each}
        assert yes == [[4]]
        assert no == {
            f"uid {WHO} may not write in another user's name": [1, 2],
            f"uid {WHO} is not the monitor, and may not write as it": [3],
        }
        assert ledger.peer().ask() == {"ok": [1]}, "root's gateway names whom it serves"
        path = segments.path_of(ledger.folder, 1)
    kinds = [line.kind for line in map(chain.parse, path.read_bytes().splitlines(keepends=True)) if line]
    assert kinds.count("intent") == 2
    assert kinds.count(chain.GAP) == 2


@root
def test_nobody_takes_the_connections_of_others(place: Place) -> None:
    with started(place) as ledger:
        held = [ledger.peer(WHO) for _ in range(claims.MOST_EACH + 1)]
        assert ledger.event()["event"] == "refused"
        assert held[-1].socket.recv(1) == b""
        held[0].ask()
        assert [ledger.peer(uid).ask() for uid in (0, WHO + 1)] == [{"ok": [1]}] * 2
        held[0].socket.close()
        held[1].ask()
        assert ledger.peer(WHO).ask() == {"ok": [1]}


def test_all_ordinary_users_leave_room_for_root() -> None:
    had: dict[int, int] = {}
    taken = 0
    for each in range(claims.MOST_PEERS):
        while Claims().room(WHO + each, had):
            had[WHO + each] = had.get(WHO + each, 0) + 1
            taken += 1
    assert taken == claims.MOST
    assert Claims().room(0, had)


def test_eight_users_who_take_all_they_can_leave_room_for_fifty_others() -> None:
    had: dict[int, int] = {}
    for _ in range(claims.MOST_EACH):
        for user in range(8):
            if Claims().room(WHO + user, had):
                had[WHO + user] = had.get(WHO + user, 0) + 1
    assert all(count >= claims.FEW for count in had.values())
    for user in range(8, 58):
        for _ in range(claims.FEW):
            assert Claims().room(WHO + user, had), user
            had[WHO + user] = had.get(WHO + user, 0) + 1
        assert not Claims().room(WHO + user, had)
    assert Claims().room(WHO, {WHO: claims.MOST_EACH - 1})
    assert not Claims().room(WHO, {WHO: claims.MOST_EACH})


def test_an_ordinary_user_writes_so_much_and_others_are_served() -> None:
    limited = Claims(rate=1 << 20)
    for _ in range(60):
        assert limited.refused(WHO, "intent", said(), 1 << 20) == ""
    why = limited.refused(WHO, "intent", said(), 1 << 20)
    assert why == f"uid {WHO} writes more than 1 MiB/s to the audit log"
    assert limited.refused(WHO, "outcome", said(), 1 << 20) == "", "of what was let through"
    assert limited.refused(WHO + 1, "intent", said(f"uid:{WHO + 1}"), 1 << 20) == ""
    assert all(limited.refused(0, "intent", said("sub"), 1 << 20) == "" for _ in range(100))
    assert [limited.news(why, 3), limited.news(why, 2)] == [3, 0]


def test_a_proxy_of_roots_names_whom_it_serves_and_is_not_the_monitor() -> None:
    proxy = syscalls.FIRST_UID + 7
    assert Claims().refused(proxy, "intent", said("uid:0"), 1) == ""
    assert Claims().refused(proxy, "event", said("uid:0", svc="monitor"), 1)
    assert Claims().refused(WHO, "event", said() | {"app": None}, 1) == ""


@pytest.mark.parametrize("kind", ["intent", "outcome"])
def test_what_a_record_says_of_its_user_is_read(kind: str) -> None:
    end, found = schema.read(kind, (text := ledgers.sample("c", kind).decode()), 0)
    assert end == len(text)
    assert (found["user"], found["app"], found["svc"]) == ('"uid:1000"', '"test 1"', '"stdio"')
