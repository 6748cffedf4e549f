"""What requests do: who may open what, sessions opened and ended, the registry read again.

Runs as root (in personal mode without root, as the user). It never sees an MCP byte and is never on the data path;
what it hands over are descriptors, and texts for gateways that it does not read.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from collections.abc import Callable
from itertools import islice
from typing import NamedTuple

from supervisor import wire
from supervisor.errors import ConfigError, LaunchFailed, Refused, SupervisorError, Unenforceable, WireError
from supervisor.model import HostFacts, Plan, Planned, Registered, Verdict
from supervisor.monitor import admit, approvals, dispatch, planning
from supervisor.monitor.children import CODE, Spawner
from supervisor.monitor.loop import Loop
from supervisor.monitor.record import Record
from supervisor.monitor.secrets import Secrets
from supervisor.monitor.sessions import Peer, Session, Sessions
from supervisor.profile import granted, host
from supervisor.runtimes import native

# of one user's, to proxy.sock
MAX_CONNECTIONS = 256
# of sessions in one answer of at most 64 KiB
MAX_SHOWN = 200
# seconds: between looks at the files that were read, for these to settle, and for gateways to end what is in flight
WATCH, SETTLE, DRAIN = 0.25, 5.0, 6.0


class Server(NamedTuple):
    """A registered server, planned, checked and loaded."""

    registered: Registered
    plan: Plan
    document: dict[str, object]


def check(registered: Registered, facts: HostFacts, plan: Plan | None = None) -> Server:
    """Check a plan against this host, and its mounts against the rules once more; raises what is wrong."""
    entry, ready = registered.entry, plan or registered.plan
    for mount in ready.spec.mounts:
        granted.permitted(mount.source, f"{entry.origin}: mount", entry.home)
    spec = native.check(ready, facts, entry.accept_missing)
    return Server(registered, ready.model_copy(update={"spec": spec}), native.document(spec, facts))


class Monitor:
    """What requests may do: see the tables of supervisor.monitor.dispatch."""

    def __init__(
        self, loop: Loop, spawner: Spawner, config: str | None, secrets: int, record: Record | None = None
    ) -> None:
        self.loop = loop
        self.spawners = {"native": spawner}
        self.config = config
        self.facts = host.probe()
        self.servers: dict[str, Server] = {}
        self.record = record or Record(loop, None)
        self.sessions = Sessions(loop, Secrets(loop, secrets), self.record)
        spawner.donated = self.sessions.egress.sockets
        self.peers: set[Peer] = set()
        self.failed: SupervisorError | None = None
        self.personal = config is None
        self.stopped: set[str] = set()
        self.watched: dict[str, int] = {}
        self.settling: dict[str, int] = {}
        # since when they are not as they were read, and when they may be read again
        self.since = self.again = 0.0
        self.filters: dict[str, object] = {}
        self.gone: Callable[[], None] | None = None
        self.sealed: planning.Sealed = {}
        self.asking: dict[str, set[int]] = {}

    def adopt(self, planned: Planned, sealed: planning.Sealed) -> None:
        """Make these the servers, all or nothing. Sessions of those that are gone or changed come to their end.

        A sealed image stays open here as long as one of them uses it: then the planner need not seal it again.
        """
        self.watched = dict(planned.watched)
        self.filters = {"filter": planned.proxy, "ledger": planned.ledger}
        self.sealed |= sealed
        facts = self.facts.model_copy(update={"missing": self.facts.missing | planned.gaps})
        ready = [self._loaded(each, facts) for each in planned.servers]
        for spawner in self.spawners.values():
            spawner.keep([server.plan.spec.digest for server in ready])
        self.servers = {server.registered.entry.name: server for server in ready}
        for digest in set(self.sealed) - {server.document["image"] for server in ready}:
            os.close(self.sealed.pop(digest))
        for session in self.sessions.by_number.values():
            now = self.servers.get(session.server)
            if now is None or now.plan.spec.digest != session.spec.digest or now.registered.held:
                self._end(session, (now and now.registered.held) or "its configuration has changed")
        self._tell()

    def _loaded(self, registered: Registered, facts: HostFacts) -> Server:
        """Load the first of its plans that can be enforced here; Unenforceable says what each lacks."""
        gaps: dict[str, str] = {}
        for plan in (registered.plan, *registered.others):
            try:
                server = check(registered, facts, plan)
                own = plan.spec.runtime in ("native", "gvisor")
                fds = [self.sealed[each] for each in self.sealed if own and each == server.document["image"]]
                server.document["sealed"] = [[file.st_dev, file.st_ino] for file in map(os.fstat, fds)]
                self.spawner(plan.spec.runtime).load(server.plan.spec.digest, server.document, fds)
            except Unenforceable as error:
                if not registered.others:
                    raise
                gaps |= {f"{plan.spec.runtime}: {name}": reason for name, reason in error.gaps.items()}
            else:
                return server
        raise Unenforceable(gaps, runtime="auto", optional=set())

    def spawner(self, runtime: str) -> Spawner:
        """What makes the sandboxes of a runtime; an engine's keeper is started when it is needed first."""
        if runtime not in self.spawners:
            made = self.spawners[runtime] = Spawner(CODE.format(f"runtimes.{runtime}"))
            made.donated = self.sessions.egress.sockets
            made.greet()
            if self.gone:
                made.serve(self.loop, self.sessions.exited, self.gone)
        return self.spawners[runtime]

    def _end(self, session: Session, reason: str) -> None:
        """End a session when its gateway has had the time to do it in order."""
        session.timers.append(self.loop.later(DRAIN, lambda: self.sessions.close(session.number, reason)))

    def _tell(self) -> None:
        """Tell every proxy to ask again."""
        for peer in self.peers:
            if peer.greeted and not peer.admin:
                peer.send({"event": "reloaded"})

    def watch(self) -> None:
        """Four times a second: read again what has changed, as soon as it stays as it is, or after some seconds.

        Nobody is served meanwhile, and who owns a program can touch it as often as he likes: so a tenth of the
        time, but for the registry itself.
        """
        now, at = {path: host.changed(path) for path in self.watched}, time.monotonic()
        late = any(0 < each.registered.until < time.time() for each in self.servers.values())
        self.since = at if now == self.watched else self.since
        due = now != self.watched and (now == self.settling or at - self.since > SETTLE)
        # servers.toml and servers.d
        own = any(now[path] != was for path, was in self.watched.items() if path.startswith(str(self.config)[:-4]))
        self.settling = now
        if (late or due) and (own or at >= self.again):
            self.watched = now
            self.reload_or_say()
            self.since = time.monotonic()
            self.again = self.since + 10 * (self.since - at)
        self.loop.later(WATCH, self.watch)

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
        return {"ok": {"version": dispatch.VERSION, "pid": os.getpid()} | self.filters}

    def servers_of(self, peer: Peer) -> wire.Message:
        """The servers this peer may open."""
        shown = [
            {"name": name, "profile": server.plan.spec.profile, "manifest": server.registered.digest}
            for name, server in sorted(self.servers.items())
            if self._verdict(peer, name).outcome == "allow"
        ]
        return {"ok": {"servers": shown}}

    def _permitted(self, peer: Peer, name: str) -> Server:
        """A server that this peer may open; Refused with the rule otherwise."""
        verdict = self._verdict(peer, name)
        if verdict.outcome != "allow":
            self.record.refused(peer.uid, name, verdict.rule, verdict.reason)
            raise Refused(f"{verdict.source}: {verdict.reason}".removeprefix(": "))
        return self.servers[name]

    def open(self, peer: Peer, number: int, server: str) -> None:
        """Start a session, or raise Refused; the answer follows when the payload runs."""
        known = self._permitted(peer, server)
        if held := self.wanted(peer, server)["ok"]:
            raise Refused(f'"{server}": {held}')
        if self.sessions.draining or server in self.stopped:
            stopped = f'"{server}" was stopped by the operator: supervisor start {server}'
            raise Refused("the supervisor is draining" if self.sessions.draining else stopped)

        plan, spawner = known.plan, self.spawner(known.plan.spec.runtime)
        about = (server, plan.spec, known.document, peer)
        self.sessions.open(*about, lambda *how: self._opened(number, plan, *how), spawner=spawner)

    def describe(self, peer: Peer, number: int, server: str) -> None:
        """Pass on what is written of a server for its gateway, unread, and its manifest as a descriptor."""
        known = self._permitted(peer, server)
        found, fds = known.registered, []
        with contextlib.suppress(OSError):  # gone since it was read: the next look at the files will tell
            fds = [os.open(found.manifest, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)]
        answer = {"gateway": found.gateway, "manifest": found.digest, "spec": known.plan.spec.digest}
        answer |= {"policy": found.policy, "held": found.held}
        peer.send({"id": number, "ok": answer | {"stopped": server in self.stopped}}, fds)
        wire.close(fds)

    def close(self, peer: Peer, session: int) -> wire.Message:
        """End a session of this peer's; one that has just ended by itself is no error."""
        if session in peer.sessions:
            self.sessions.close(session)
        return {"ok": {}}

    def inspect(self) -> wire.Message:
        """What runs, for the operator: the oldest sessions, and how many there are."""
        shown = [
            {"session": each.number, "server": each.server, "uid": each.peer.uid, "spec": each.spec.digest[:16]}
            | {"profile": each.spec.profile, "running": each.init >= 0, "pid": each.pid, "since": int(each.since)}
            for each in islice(self.sessions.by_number.values(), MAX_SHOWN)
        ]
        about = {"config": self.config, "servers": sorted(self.servers), "stopped": sorted(self.stopped)}
        return {"ok": about | {"total": len(self.sessions.by_number), "sessions": shown}}

    def kill(self, session: int) -> wire.Message:
        """End any session at once."""
        if session not in self.sessions.by_number:
            raise ConfigError(f"no session {session}")
        self.record.tell("operator.kill", 0, self.sessions.by_number[session].server, session)
        self.sessions.kill(session, "killed by the operator")
        return {"ok": {}}

    def wanted(self, peer: Peer, server: str) -> wire.Message:
        """Why a server may not run, if so; who would like to have it is noted for whoever decides, and no more."""
        found = self._permitted(peer, server).registered
        expired = "its approval has expired" if 0 < found.until < time.time() else ""
        if found.held and len(self.asking.setdefault(found.approval, set())) < MAX_SHOWN:
            self.asking[found.approval].add(peer.uid)
        return {"ok": found.held or expired}

    def decide(self, peer: Peer, request: dispatch.Decide) -> wire.Message:
        """Write down what the operator decided of what was reviewed, and let it hold."""
        known = self.servers.get(request.server)
        if known is None or known.registered.approval != request.approval:
            raise ConfigError(f'"{request.server}" is not as it was reviewed; supervisor pending shows it as it is')
        asked = [*self.asking.get(request.approval, ())]
        about = {"bound": known.registered.bound, "uid": peer.uid, "asked": asked}
        approvals.record(str(self.config), peer.pid, request.model_dump() | about)
        # also when the registry cannot be read now
        self.steer(request.server, stop=request.req != "approve")
        answer = self.reload()
        self.stopped.discard(request.server)
        return answer

    def steer(self, server: str, *, stop: bool) -> wire.Message:
        """Open no more of a server and end what runs in order; or let it be opened again."""
        if server not in self.servers:
            raise ConfigError(f'no server "{server}" is registered')
        self.record.tell("operator.stop" if stop else "operator.start", 0, server)
        (self.stopped.add if stop else self.stopped.discard)(server)
        for session in self.sessions.by_number.values():
            if stop and session.server == server:
                self._end(session, "stopped by the operator")
        self._tell()
        return {"ok": {}}

    def reload(self) -> wire.Message:
        """Read the registry again, all or nothing; running sessions live on."""
        if self.config is None:
            raise ConfigError("there is no configuration file in personal mode")
        self.adopt(*planning.ask({"catalog": self.config, "have": list(self.sealed)}))
        self.record.tell("configuration.read", 0, "", servers=sorted(self.servers))
        return {"ok": {"servers": sorted(self.servers)}}

    def reload_or_say(self) -> None:
        """Reload where nobody waits for the answer."""
        try:
            self.reload()
        except SupervisorError as error:
            print(f"supervisor: not reloaded, the old configuration stays: {error}", file=sys.stderr)

    def drain(self) -> wire.Message:
        """Accept nothing new and end when the last session has."""
        self.sessions.draining = True
        if not self.sessions.by_number:
            self.loop.stop()
        return {"ok": {"sessions": len(self.sessions.by_number)}}

    def _verdict(self, peer: Peer, name: str) -> Verdict:
        server = self.servers.get(name)
        entry, sessions = server.registered.entry if server else None, len(peer.sessions)
        users = sum(len(each.sessions) for each in self.peers if each.uid == peer.uid)
        return admit.admit(entry, name, uid=peer.uid, gid=peer.gid, peer_sessions=sessions, user_sessions=users)

    def _opened(
        self, number: int, ready: Plan, session: Session, failure: LaunchFailed | None, fds: list[int]
    ) -> None:
        if failure:
            session.peer.send({"id": number, "error": dispatch.failure(failure)})
            return
        spec = {"spec": ready.spec.digest, "accepted": list(ready.spec.accepted), "secrets": session.marks}
        answer = ready.told | spec | {"session": session.number, "pid": session.pid, "files": len(fds) > 4}
        session.peer.send({"id": number, "ok": answer}, fds)
        if session.peer.closed:
            self._hang_up(session.peer)

    def _readable(self, peer: Peer) -> None:
        try:
            received = wire.receive(peer.socket)
            if received:
                dispatch.handle(self, peer, received[0])
            peer.closed = peer.closed or not received
        except BlockingIOError:
            return
        except (WireError, ConnectionError) as error:
            if isinstance(error, WireError):
                print(f"supervisor: uid {peer.uid} pid {peer.pid}: {error}; connection closed", file=sys.stderr)
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
        if self.personal:
            self.loop.stop()
