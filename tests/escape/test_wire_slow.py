"""A spawner that is slow, or stands still: whoever asks much of it holds up nobody else, nor what ends a session.

Runs as root; the peers are root and the ordinary user, as in test_wire. The spawner is stopped by a signal, which
is the slowest that it can be.
"""

from __future__ import annotations

import json
import os
import pwd
import select
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from supervisor import wire
from supervisor.monitor.admit import MAX_PER_PEER, MAX_PER_USER
from supervisor.monitor.children import FEW
from supervisor.sandbox.spawner import AHEAD
from tests.escape.arena import Arena
from tests.escape.peers import OPEN, SECONDS, Peer, acting_as
from tests.integration import adversary
from tests.integration.adversary import Daemon, server

pytestmark = pytest.mark.timeout(100)


@pytest.fixture
def host(arena: Arena) -> Iterator[Daemon]:
    folder = arena.base / "slow"
    folder.mkdir(exist_ok=True)
    name = pwd.getpwuid(arena.plots["user"].uid).pw_name
    config = f'[server.mine]\nprofile = "none"\ncommand = {json.dumps(server("deaf"))}\nusers = ["{name}"]\n'
    with adversary.daemon(folder, config) as made:
        yield made
        made.until_idle()
        assert made.process.poll() is None


@contextmanager
def standing_still(host: Daemon) -> Iterator[None]:
    spawner = host.spawner()
    os.kill(spawner, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(spawner, signal.SIGCONT)


def peers(host: Daemon, uid: int, stack: ExitStack) -> list[Peer]:
    """As many connections as it takes to have as many sessions as a user may have, all of them asked for."""
    with acting_as(uid):
        made = [stack.enter_context(Peer(host)).hello() for _ in range(MAX_PER_USER // MAX_PER_PEER)]
    for peer in made:
        for number in range(MAX_PER_PEER):
            wire.send(peer.socket, OPEN | {"id": 2 + number})
    return made


def made_so_far(pid: object) -> int:
    """How many sandboxes the spawner had forked when it forked this one, by the name of its control group."""
    return int(
        Path(f"/proc/{pid}/cgroup").read_text(encoding="ascii").split("supervisor-")[1].split()[0].split("-")[2]
    )


def test_sessions_that_are_asked_for_by_many_hold_up_nothing_but_their_own_start(
    host: Daemon, arena: Arena
) -> None:
    with ExitStack() as stack, standing_still(host):
        for uid in (0, arena.plots["user"].uid):
            peers(host, uid, stack)
        with Peer(host) as other:
            assert "ok" in (other.hello().ask({"id": 2, "req": "list"}) or {})


def test_a_session_whose_peer_is_gone_before_its_turn_is_not_made(host: Daemon, arena: Arena) -> None:
    with standing_still(host), ExitStack() as stack:
        peers(host, arena.plots["user"].uid, stack)
    with Peer(host) as peer:
        opened = (peer.hello().ask(OPEN) or {})["ok"]
        assert isinstance(opened, dict)
        assert made_so_far(opened["pid"]) <= FEW + AHEAD + 1


def test_users_take_turns(host: Daemon, arena: Arena) -> None:
    with ExitStack() as stack:
        with standing_still(host):
            many = peers(host, arena.plots["user"].uid, stack)
            one = stack.enter_context(Peer(host)).hello()
            wire.send(one.socket, OPEN)
        opened = (one.next() or {})["ok"]
        assert isinstance(opened, dict)
        assert made_so_far(opened["pid"]) <= FEW + AHEAD + 2
        for peer in many:
            peer.socket.close()


def test_a_session_ends_while_its_spawner_stands_still(host: Daemon) -> None:
    with Peer(host) as peer:
        opened = (peer.hello().ask(OPEN) or {})["ok"]
        assert isinstance(opened, dict)
        init = os.pidfd_open(int(str(opened["pid"])))
        with standing_still(host):
            peer.socket.close()
            assert select.select([init], [], [], SECONDS)[0]
        os.close(init)
