"""A connection to the monitor, seen from there."""

from __future__ import annotations

import pytest

from supervisor import wire
from supervisor.monitor.sessions import Peer


def test_a_peer_that_has_hung_up_is_told_nothing_more() -> None:
    ours, theirs = wire.pair()
    with ours, theirs:
        peer = Peer(ours, admin=False)
        peer.send({"event": "reloaded"})
        assert wire.receive(theirs) == ({"event": "reloaded"}, [])
        peer.closed = True
        ours.close()
        # of a session that is not reaped yet
        peer.send({"event": "refused", "session": 7})


def test_a_peer_that_is_gone_or_does_not_read_is_to_be_closed() -> None:
    for reads in (True, False):
        ours, theirs = wire.pair()
        with ours, theirs:
            ours.setblocking(False)
            peer = Peer(ours, admin=False)
            if reads:
                theirs.close()
            for _ in range(10_000):
                peer.send({"event": "reloaded", "padding": "x" * 1000})
                if peer.closed:
                    break
            else:
                pytest.fail("never closed")
