"""A ledger as its starter sees it, and proxies that talk to it without an event loop."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from supervisor import wire
from supervisor.audit import ledger, record, schema
from supervisor.audit.confine import Place
from supervisor.monitor import children
from supervisor.profile.audit import ledger_filter

CODE = "import sys; sys.path.insert(0, sys.argv[1]); from supervisor.audit.ledger import main; main(3)"
compiled = cache(ledger_filter)


@contextmanager
def place(parent: str | None = None) -> Iterator[Place]:
    """A folder that the ledger's uid can reach, unlike those of pytest."""
    root = Path(tempfile.mkdtemp(prefix="audit-", dir=parent))
    root.chmod(0o755)
    try:
        yield Place(root / "audit")
    finally:
        shutil.rmtree(root)


class Peer:
    """One proxy."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.number = 0
        sock.settimeout(20)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)

    def say(self, kind: str = "intent", policy: str = "process", body: bytes = b"") -> int:
        """Send a record; its number."""
        self.number += 1
        head = f'{{"id":{self.number},"kind":"{kind}","policy":"{policy}","record":'.encode()
        self.socket.send(head + (body or sample(f"call-{self.number}", kind)) + b"}")
        return self.number

    def hear(self) -> dict[str, object]:
        """The next answer; {} at the end."""
        data = self.socket.recv(1 << 16)
        return dict(json.loads(data)) if data else {}

    def accepted(self) -> list[int]:
        """The numbers in the next answer, which refuses none."""
        answer = self.hear()
        if "no" in answer:
            raise ValueError(f"not an acknowledgement: {answer}")
        return ids(answer)

    def ask(self, kind: str = "intent", policy: str = "process", body: bytes = b"") -> dict[str, object]:
        """Send a record and wait for the answer."""
        self.say(kind, policy, body)
        return self.hear()


def ids(answer: dict[str, object]) -> list[int]:
    """Whatever numbers an answer is about."""
    found = answer.get("ok", answer.get("no", []))
    return [int(str(each)) for each in found] if isinstance(found, list) else []


def sample(call: str, kind: str = "intent", user: str = "uid:1000", client: str = "test 1") -> bytes:
    """A record of a call that read a file."""
    about = record.Call(record.Context(user, "7", client, "files"), call, "read_file")
    return record.intent(about, b'{"path":"/data/a.txt"}') if kind == "intent" else record.outcome(about, 1500)


class Started:
    """A ledger process. `events` are what it tells its starter.

    `forked`: from this process, which has imported and compiled everything, and so twenty times faster.
    """

    def __init__(self, where: Place, *, forked: bool = False, **rules: int) -> None:
        if forked:
            self.control, theirs = wire.pair()
            self.pid = _fork(self.control, theirs)
        else:
            process = children.start(CODE)
            self.pid, self.control = process.pid, process.socket
        self.control.settimeout(20)
        self.peers: list[Peer] = []
        wire.send(self.control, {"folder": str(where.root), "filter": compiled(), **rules})
        self.hello = self.event()

    def event(self) -> wire.Message:
        """The next thing that it tells; {} at the end."""
        received = wire.receive(self.control)
        return received[0] if received else {}

    def peer(self, uid: int = 0) -> Peer:
        """One more proxy, of this user's."""
        ours, theirs = wire.pair()
        wire.send(self.control, {"req": "peer", "uid": uid}, [theirs.fileno()])
        theirs.close()
        self.peers.append(Peer(ours))
        return self.peers[-1]

    @property
    def folder(self) -> Path:
        """Where it writes."""
        return Path(str(self.hello["folder"]))

    def end(self) -> None:
        """Hang up, as starter and as every peer, and wait for it."""
        self.control.close()
        for peer in self.peers:
            peer.socket.close()
        self._wait()

    def kill(self) -> None:
        """SIGKILL, and wait for it. What it has sent can still be heard."""
        os.kill(self.pid, signal.SIGKILL)
        self.control.close()
        self._wait()

    def _wait(self) -> None:
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def _fork(ours: socket.socket, theirs: socket.socket) -> int:
    for kind in schema.KINDS:
        schema.grammar(kind)
    pid = os.fork()
    if pid == 0:
        ours.close()
        ledger.main(theirs.detach())
        os._exit(0)
    theirs.close()
    return pid


@contextmanager
def started(where: Place, **rules: int) -> Iterator[Started]:
    """A ledger that is gone afterwards."""
    made = Started(where, forked=False, **rules)
    try:
        yield made
    finally:
        made.end()
