"""One connection as the ledger sees it: how many mistakes it may make, and how much is remembered of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor import wire
from supervisor.audit import claims, forms, peers
from supervisor.audit.claims import Claims, Delegated
from supervisor.audit.peers import UNFIT, Turn
from supervisor.audit.segments import Log, Rules
from supervisor.errors import WireError
from tests.unit.audit import ledgers

WHO = 54321


class Talk:
    """Connections of this process's, and the other ends of them."""

    def __init__(self, log: Log) -> None:
        self.turn = Turn(log, "", Claims(delegated=Delegated("/nowhere")))
        self.open: list[tuple[ledgers.Peer, peers.Peer]] = []

    def connect(self, whose: int) -> tuple[ledgers.Peer, peers.Peer]:
        ours, theirs = wire.pair()
        self.open.append((ledgers.Peer(theirs), peers.Peer(ours, whose)))
        return self.open[-1]

    def learn(self, ends: tuple[ledgers.Peer, peers.Peer], number: int) -> None:
        """Send a record that is a form of four thousand bytes, and have it read."""
        client, peer = ends
        client.number += 1
        body = ledgers.sample("c", user="me", client="%" * 1000)
        assert len(body) < forms.LIMIT
        head = b'{"id":%d,"kind":"intent","policy":"process","form":%d,"record":' % (client.number, number)
        client.socket.send(head + body + b"}")
        peer.read(self.turn)


@pytest.fixture
def talk(tmp_path: Path) -> Iterator[Talk]:
    made = Talk(Log(tmp_path, Rules()))
    yield made
    for client, peer in made.open:
        client.socket.close()
        peer.socket.close()


def mistakes(talk: Talk, count: int) -> None:
    client, peer = talk.connect(WHO)
    for _ in range(count):
        client.say(body=b"{}")
        peer.read(talk.turn)


def learn_eight(talk: Talk, ends: tuple[ledgers.Peer, peers.Peer]) -> None:
    for number in range(8):
        talk.learn(ends, number)


def test_a_mistake_is_forgotten_in_time_and_many_at_once_are_not(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    mistakes(talk, UNFIT)
    with pytest.raises(WireError, match=f"after {UNFIT} others"):
        mistakes(talk, UNFIT + 1)
    monkeypatch.setattr(peers, "_FORGIVEN", 1e-9)
    mistakes(talk, 3 * UNFIT)


def test_what_is_remembered_of_a_user_is_bounded_and_gone_with_his_connections(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "FORMS", 40_000)
    first, second = talk.connect(WHO), talk.connect(WHO)
    learn_eight(talk, first)
    learn_eight(talk, first)
    with pytest.raises(WireError, match=f"the forms of uid {WHO}"):
        learn_eight(talk, second)
    talk.learn(talk.connect(WHO + 1), 0)
    first[1].forget(talk.turn.claims)
    third = talk.connect(WHO)
    learn_eight(talk, third)
    root = talk.connect(0)
    for number in range(64):
        talk.learn(root, number)


def test_what_was_sent_before_its_sender_ended_is_taken_though_he_read_no_answer(talk: Talk) -> None:
    client, peer = talk.connect(WHO)
    client.say(body=ledgers.sample("c", user="me"))
    assert peer.read(talk.turn)
    peer.answer(b'{"ok":[1]}')
    for _ in range(3):
        client.say("outcome", body=ledgers.sample("c", "outcome", user="me"))
    client.socket.close()
    while peer.read(talk.turn):
        pass
    assert talk.turn.taken == 4


def test_64_connections_of_a_gateway_may_have_64_forms_each() -> None:
    whole = ledgers.sample("run-1", client="a client of some name 1.2.3")
    assert len(whole) * forms.MOST * claims.MOST_EACH < claims.FORMS
