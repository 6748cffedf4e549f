"""What an ordinary user may not do to a log that others write too."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from supervisor.audit import chain, claims, schema, segments
from supervisor.audit.claims import Claims, Delegated
from supervisor.audit.confine import Place
from supervisor.sandbox import syscalls
from tests.unit.audit import ledgers
from tests.unit.audit.ledgers import Started, started

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
        yes: list[object] = []
        no: dict[str, list[object]] = {}
        # the ledger may have read some before the others were sent
        while len(yes) + sum(map(len, no.values())) < len(bodies):
            answer = dict(peer.hear())
            which = yes if "ok" in answer else no.setdefault(str(answer["reason"]), [])
            which += ledgers.ids(answer)
        assert yes == [4]
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
def test_who_is_hung_up_on_again_and_again_fills_no_log(place: Place) -> None:
    with started(place) as ledger:
        for _ in range(20):
            pid = os.fork()
            if pid == 0:
                os.setresuid(WHO, WHO, WHO)
                ledger.peer(WHO).socket.send(b"garbage")
                os._exit(0)
            os.waitpid(pid, 0)
            assert ledger.event()["event"] == "dropped"
        path = segments.path_of(ledger.folder, 1)
    kinds = [line.kind for line in map(chain.parse, path.read_bytes().splitlines(keepends=True)) if line]
    assert kinds.count(chain.DROPPED) == 1


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


SUBUID = """\
# not a range
ada:100000:65536
root:300000:65536
1001:2147483648:65536
eve:1:x
bob:99999999999:1
"""


@pytest.fixture
def delegated(tmp_path: Path) -> Delegated:
    (tmp_path / "subuid").write_text(SUBUID)
    return Delegated(str(tmp_path / "subuid"))


def test_all_uids_that_one_user_was_given_are_one_user(delegated: Delegated) -> None:
    assert [delegated.one(each) for each in (0, 1, 99_999, 100_000, 165_535, 165_536)] == [
        0, 1, 99_999, 100_000, 100_000, 165_536,
    ]  # fmt: skip
    assert delegated.one((1 << 31) + 9) == 1 << 31
    limited = Claims(1 << 20, delegated)
    assert not any(limited.refused(100_000 + each, "intent", said("me"), 1 << 20) for each in range(60))
    assert limited.refused(165_535, "intent", said("me"), 1 << 20)
    assert not limited.refused(165_536, "intent", said("me"), 1 << 20)


def test_no_uid_that_somebody_was_given_is_one_of_ours(delegated: Delegated) -> None:
    of_root = 300_005
    for uid in (of_root, (1 << 31) + 9, syscalls.FIRST_UID + (1 << 22)):
        assert Claims(delegated=delegated).refused(uid, "intent", said("uid:0"), 1), uid
    everything = Claims(delegated=Delegated("/nowhere"))
    assert everything.refused(syscalls.FIRST_UID + (1 << 22) - 1, "intent", said("uid:0"), 1) == ""


@root
def test_connections_of_all_those_uids_are_counted_together(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims.Delegated.__init__, "__defaults__", (str(place.root.parent / "subuid"),))
    (place.root.parent / "subuid").write_text(SUBUID)
    ledger = Started(place, forked=True)
    held = [ledger.peer(100_000 + each) for each in range(claims.MOST_EACH + 1)]
    assert ledger.event()["event"] == "refused"
    assert held[-1].socket.recv(1) == b""
    assert ledger.peer(WHO).ask() == {"ok": [1]}
    ledger.end()
