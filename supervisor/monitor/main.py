"""The monitor: decides who may open what, has it spawned, hands over the descriptors, and kills it in the end.

Runs as root (in personal mode without root, as the user). It never sees an MCP byte and is never on the data path.
Its input is what the planner made of the owner's files, and small requests of a closed schema.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import sys
import time
from dataclasses import dataclass
from itertools import islice

from supervisor import wire
from supervisor.errors import ConfigError, LaunchFailed, Refused, SupervisorError, WireError
from supervisor.model import HELD_BY_PROXY, HostFacts, Plan, Registered, ServerEntry, Verdict
from supervisor.monitor import admit, dispatch, planning
from supervisor.monitor.children import Spawner
from supervisor.monitor.loop import Loop
from supervisor.monitor.sessions import Peer, Session, Sessions
from supervisor.profile import granted, host
from supervisor.runtimes import native
from supervisor.sandbox import cgroup

# of one user's, to proxy.sock
MAX_CONNECTIONS = 256
# of sessions in one answer of at most 64 KiB
MAX_SHOWN = 200


@dataclass(frozen=True)
class Server:
    """A registered server, planned, checked and loaded."""

    entry: ServerEntry
    plan: Plan
    document: dict[str, object]


def check(registered: Registered, facts: HostFacts) -> Server:
    """Check a plan against this host, and its mounts against the rules once more; raises what is wrong."""
    entry, ready = registered.entry, registered.plan
    for mount in ready.spec.mounts:
        granted.permitted(mount.source, f"{entry.origin}: mount", entry.home)
    spec = native.check(ready, facts, entry.accept_missing)
    return Server(entry, ready.model_copy(update={"spec": spec}), native.document(spec, facts))


class Monitor:
    """See supervisor.monitor.dispatch.Monitor for what requests may do."""

    def __init__(self, loop: Loop, spawner: Spawner, config: str | None) -> None:
        self.loop = loop
        self.spawner = spawner
        self.config = config
        self.facts = host.probe()
        self.servers: dict[str, Server] = {}
        self.filter = ""
        self.sessions = Sessions(loop, spawner)
        self.peers: set[Peer] = set()
        self.failed: SupervisorError | None = None
        self.draining = False

    def adopt(self, planned: planning.Planned) -> None:
        """Make these the servers, all or nothing."""
        ready = [check(each, self.facts) for each in planned.servers]
        for server in ready:
            self.spawner.load(server.plan.spec.digest, server.document)
        self.spawner.keep([server.plan.spec.digest for server in ready])
        self.servers, self.filter = {server.entry.name: server for server in ready}, planned.proxy

    def accept(self, sock: socket.socket, *, admin: bool) -> None:
        """Serve one more connection, or close it: nobody may take all our descriptors."""
        sock.setblocking(False)
        peer = Peer(sock, admin=admin)
        if not admin and sum(each.uid == peer.uid for each in self.peers) >= MAX_CONNECTIONS:
            sock.close()
            return
        self.peers.add(peer)
        self.loop.watch(sock.fileno(), lambda: self._readable(peer))

    def hello(self, peer: Peer) -> wire.Message:
        """Greet; in personal mode say here what was wrong with the one server."""
        if self.failed:
            raise self.failed
        return {"ok": {"version": dispatch.VERSION, "pid": os.getpid(), "filter": self.filter}}

    def servers_of(self, peer: Peer) -> wire.Message:
        """The servers this peer may open."""
        shown = [
            {"name": name, "profile": server.entry.profile}
            for name, server in sorted(self.servers.items())
            if self._verdict(peer, name).outcome == "allow"
        ]
        return {"ok": {"servers": shown}}

    def open(self, peer: Peer, number: int, server: str) -> None:
        """Start a session, or raise Refused; the answer follows when the payload runs."""
        verdict = self._verdict(peer, server)
        if verdict.outcome != "allow" or self.draining:
            where = f"{verdict.source}: " if verdict.source else ""
            raise Refused("the supervisor is draining" if self.draining else f"{where}{verdict.reason}")
        known = self.servers[server]
        self.sessions.open(
            server,
            known.plan.spec,
            known.document,
            peer,
            lambda session, failure, fds: self._opened(number, known.plan, session, failure, fds),
        )

    def close(self, peer: Peer, session: int) -> wire.Message:
        """End a session of this peer's; one that has just ended by itself is no error."""
        if session in peer.sessions:
            self.sessions.close(session)
        return {"ok": {}}

    def inspect(self) -> wire.Message:
        """What runs, for the operator: the oldest sessions, and how many there are."""
        return {
            "ok": {
                "total": len(self.sessions.by_number),
                "servers": sorted(self.servers),
                "sessions": [
                    {
                        "session": session.number,
                        "server": session.server,
                        "uid": session.peer.uid,
                        "spec": session.spec.digest,
                        "running": session.running,
                    }
                    for session in islice(self.sessions.by_number.values(), MAX_SHOWN)
                ],
            }
        }

    def kill(self, session: int) -> wire.Message:
        """End any session at once."""
        if session not in self.sessions.by_number:
            raise ConfigError(f"no session {session}")
        self.sessions.kill(session, "killed by the operator")
        return {"ok": {}}

    def reload(self) -> wire.Message:
        """Read the registry again, all or nothing; running sessions live on."""
        if self.config is None:
            raise ConfigError("there is no configuration file in personal mode")
        self.adopt(planning.ask({"catalog": self.config}))
        return {"ok": {"servers": sorted(self.servers)}}

    def drain(self) -> wire.Message:
        """Accept nothing new and end when the last session has."""
        self.draining = True
        if not self.sessions.by_number:
            self.loop.stop()
        return {"ok": {"sessions": len(self.sessions.by_number)}}

    def exited(self, number: int, code: int | None, limits: list[str]) -> None:
        """A session was reaped."""
        self.sessions.exited(number, code, limits)
        if self.draining:
            self.drain()

    def _verdict(self, peer: Peer, name: str) -> Verdict:
        server = self.servers.get(name)
        return admit.admit(
            server.entry if server else None,
            name,
            uid=peer.uid,
            gid=peer.gid,
            peer_sessions=len(peer.sessions),
            user_sessions=sum(len(each.sessions) for each in self.peers if each.uid == peer.uid),
        )

    def _opened(
        self, number: int, ready: Plan, session: Session, failure: LaunchFailed | None, fds: list[int]
    ) -> None:
        if failure:
            session.peer.send({"id": number, "error": dispatch.failure(failure)})
            return
        spec = ready.spec
        answer: wire.Message = {
            "session": session.number,
            "spec": spec.digest,
            "profile": spec.profile,
            "accepted": list(spec.accepted),
            "summary": ready.summary[:4096],
            "start": spec.session.start,
            "grace": spec.session.grace,
        }
        answer |= {name: getattr(spec.limits, name) for name in HELD_BY_PROXY}
        session.peer.send({"id": number, "ok": answer}, fds)
        if session.peer.closed:
            self._hang_up(session.peer)

    def _readable(self, peer: Peer) -> None:
        try:
            received = wire.receive(peer.socket)
            if received:
                dispatch.handle(self, peer, received[0])
            else:
                peer.closed = True
        except BlockingIOError:
            return
        except WireError as error:
            print(f"supervisor: uid {peer.uid} pid {peer.pid}: {error}; connection closed", file=sys.stderr)
            peer.closed = True
        except ConnectionError:
            peer.closed = True
        if peer.closed:
            self._hang_up(peer)

    def _hang_up(self, peer: Peer) -> None:
        """A connection is over, and every session it opened with it."""
        if peer not in self.peers:
            return
        peer.closed = True
        self.peers.discard(peer)
        self.loop.forget(peer.socket.fileno())
        peer.socket.close()
        for number in list(peer.sessions):
            self.sessions.kill(number, "its connection was closed")
        if self.config is None:
            self.loop.stop()


def _serve(monitor: Monitor, loop: Loop, spawner: Spawner) -> int:
    """Run until told to stop; then nothing of ours is left. 0, or 1 when the spawner was lost."""
    lost = []

    def gone() -> None:
        # the kernel has killed every sandbox with it; only the empty groups are left
        lost.append(True)
        print("supervisor: the spawner ended unexpectedly; its sessions were killed with it", file=sys.stderr)
        loop.stop()

    def reload() -> None:
        try:
            monitor.reload()
        except SupervisorError as error:
            print(f"supervisor: not reloaded, the old configuration stays: {error}", file=sys.stderr)

    if not monitor.failed:  # then it has told, or is about to, why it will not be needed
        spawner.serve(loop, monitor.exited, gone)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.on_signal(number, loop.stop)
    loop.on_signal(signal.SIGHUP, reload if monitor.config else loop.stop)
    loop.run()
    spawner.close()
    monitor.sessions.egress.close()
    monitor.sessions.disk.close()
    if lost:
        _sweep(f"{cgroup.PREFIX}{spawner.pid}-")
    return 1 if lost else 0


def _sweep(prefix: str) -> None:
    """Remove the groups of a spawner that was killed, as soon as the kernel has ended what was in them."""
    hierarchy, deadline = cgroup.probe(), time.monotonic() + 1
    while time.monotonic() < deadline:
        hierarchy.sweep()
        if not any(name.startswith(prefix) for base in hierarchy.folders() for name in os.listdir(base)):
            break
        time.sleep(0.01)


def personal(spawner: Spawner, proxy: int, config: int) -> int:
    """The monitor of one typed command: its one peer is on `proxy`, the planner's answer on `config`."""
    loop = Loop()
    monitor = Monitor(loop, spawner, None)
    try:
        with open(config, "rb") as file:
            answer = file.read()
        spawner.greet()
        monitor.adopt(planning.read(answer))
    except SupervisorError as error:
        monitor.failed = error
    monitor.accept(socket.socket(fileno=proxy), admin=False)
    return _serve(monitor, loop, spawner)


def daemon(config: str, folder: str) -> int:
    """The monitor of a host: proxy.sock for everybody whom the registry names, admin.sock for its owner."""
    # a connection costs us a descriptor, and a session costs the spawner two
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    spawner = Spawner()
    loop = Loop()
    monitor = Monitor(loop, spawner, os.path.abspath(config))
    listeners = []
    try:
        spawner.greet()
        monitor.adopt(planning.ask({"catalog": monitor.config}))
        for name, mode in (("proxy.sock", 0o666), ("admin.sock", 0o600)):
            listeners.append((f"{folder}/{name}", _listen(monitor, f"{folder}/{name}", mode)))
        said = f"supervisor: {len(monitor.servers)} servers, listening in {folder}"
        # from the loop: whoever hears it may send a signal at once
        loop.later(0, lambda: print(said, file=sys.stderr, flush=True))
        return _serve(monitor, loop, spawner)
    except SupervisorError:
        spawner.close()
        raise
    finally:
        for path, sock in listeners:
            with contextlib.suppress(OSError):
                os.unlink(path)
            sock.close()


def _listen(monitor: Monitor, path: str, mode: int) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    _remove_stale(path)
    before = os.umask(0o777 & ~mode)
    try:
        sock.bind(path)
    except OSError as error:
        raise SupervisorError(f"{path}: {error.strerror or error}") from None
    finally:
        os.umask(before)
    sock.listen(64)
    sock.setblocking(False)

    def ready() -> None:
        try:
            connection, _ = sock.accept()
        except OSError:
            return  # it is gone again, or we are out of descriptors until somebody else is
        monitor.accept(connection, admin=path.endswith("/admin.sock"))

    monitor.loop.watch(sock.fileno(), ready)
    return sock


def _remove_stale(path: str) -> None:
    """Remove a socket that nobody listens on; ConfigError when somebody does."""
    if not os.path.lexists(path):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError as error:
            raise SupervisorError(f"{path}: {error.strerror}") from None
    raise ConfigError(f"{path}: another supervisor daemon is listening there")
