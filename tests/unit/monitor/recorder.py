"""A monitor that only writes down what it is asked for, and a connection to it: for tests of the tables."""

from __future__ import annotations

from supervisor import wire
from supervisor.monitor import dispatch
from supervisor.monitor.sessions import Peer


class Recorder:
    """A monitor that only writes down what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []
        self.error: Exception | None = None

    def _did(self, *what: object) -> wire.Message:
        self.asked.append(what)
        if self.error:
            raise self.error
        return {"ok": {}}

    def hello(self, peer: Peer) -> wire.Message:
        return self._did("hello")

    def servers_of(self, peer: Peer) -> wire.Message:
        return self._did("list")

    def open(self, peer: Peer, number: int, server: str) -> None:
        self._did("open", number, server)

    def describe(self, peer: Peer, number: int, server: str) -> None:
        self._did("describe", number, server)

    def close(self, peer: Peer, session: int) -> wire.Message:
        return self._did("close", session)

    def inspect(self) -> wire.Message:
        return self._did("inspect")

    def kill(self, session: int) -> wire.Message:
        return self._did("kill", session)

    def steer(self, server: str, *, stop: bool) -> wire.Message:
        return self._did("steer", server, stop)

    def reload(self) -> wire.Message:
        return self._did("reload")

    def wanted(self, peer: Peer, server: str) -> wire.Message:
        return self._did("ask", server)

    def decide(self, peer: Peer, request: dispatch.Decide) -> wire.Message:
        return self._did(request.req, request.server, request.approval, request.reason, request.until)

    def drain(self) -> wire.Message:
        return self._did("drain")


class Line:
    """A peer, and its own end of the connection."""

    def __init__(self, *, admin: bool) -> None:
        theirs, self.ours = wire.pair()
        self.ours.setblocking(False)
        theirs.setblocking(False)
        self.peer = Peer(theirs, admin=admin)
        self.monitor = Recorder()

    def says(self, message: wire.Message) -> wire.Message | None:
        """One request; the answer if there is one."""
        dispatch.handle(self.monitor, self.peer, message)
        try:
            received = wire.receive(self.ours)
        except BlockingIOError:
            return None
        return received[0] if received else None

    def greeted(self) -> Line:
        assert self.says({"id": 1, "req": "hello", "version": 1}) == {"id": 1, "ok": {}}
        self.monitor.asked.clear()
        return self

    def close(self) -> None:
        self.peer.socket.close()
        self.ours.close()
