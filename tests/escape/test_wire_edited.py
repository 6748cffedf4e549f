"""A server that is edited at the moment at which it is opened."""

from __future__ import annotations

import json
import os

from supervisor import wire
from tests.escape.arena import Arena
from tests.escape.peers import OPEN, Peer
from tests.integration import adversary
from tests.integration.adversary import server


def test_a_server_that_is_edited_while_its_secrets_are_read_is_not_started(arena: Arena) -> None:
    folder = arena.base / "edited"
    folder.mkdir()
    folder.chmod(0o711)
    os.mkfifo(folder / "fifo")
    (folder / "fifo").chmod(0o644)
    config = f"""
[server.mine]
profile = "none"
command = {json.dumps(server("deaf"))}
[server.mine.secrets]
SLOW = {{ command = ["/bin/cat", "{folder}/fifo"], to = "env" }}
"""
    with adversary.daemon(folder, config) as made, Peer(made).hello() as peer:
        wire.send(peer.socket, OPEN)
        # opened as soon as the command reads it
        with (folder / "fifo").open("wb") as fifo:
            made.config.write_text(config + '[server.mine.env]\nA = "b"\n')
            with Peer(made, name="admin.sock").hello() as admin:
                assert "ok" in (admin.ask({"id": 2, "req": "reload"}) or {})
            fifo.write(b"secret")
        answer = peer.next() or {}
        while "event" in answer:
            answer = peer.next() or {}
        assert "configuration has changed" in str(answer["error"])
        assert "ok" in (peer.ask({"id": 3, "req": "list"}) or {})
