"""The ledger: the only process that writes the audit log.

Runs as a uid of its own (root) or as the user, under Landlock rules for one log folder and a system call filter;
standard library only. It obeys its starter for new peers and nothing else, believes of a peer only what the kernel
says of it (SCM_CREDENTIALS, with every message), answers when a record is written, and never changes what it wrote.
"""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from select import EPOLLIN, EPOLLOUT, epoll

from supervisor import wire
from supervisor.audit import chain, confine, cursors, schema, segments, signing
from supervisor.audit.claims import Claims
from supervisor.audit.peers import Peer, Turn
from supervisor.audit.segments import Log
from supervisor.audit.signing import Signing
from supervisor.errors import SupervisorError, WireError
from supervisor.sandbox import rights

# how long peers may still finish what they have begun when the starter is gone
_GRACE = 5.0
_BATCH = 1 << 20
# seconds that an acknowledgement may wait for which nobody waits
_OWED = 0.002
_FULL = "No space left on device, but for what was begun"


class Ledger:
    """The loop: a turn reads what peers have sent, writes it, syncs it if somebody asked for that, and answers."""

    def __init__(self, control: socket.socket, log: Log, signing: Signing, exports: Path, claims: Claims) -> None:
        self._control, self._log, self._signing, self._exports = control, log, signing, exports
        self._claims = claims
        self._peers: set[Peer] = set()
        # who is owed an acknowledgement, and until when
        self._owing: set[Peer] = set()
        self._owed = 0.0
        self._current = Turn(log, "", claims)
        self._epoll = epoll()
        self._heard: dict[int, Peer | Callable[[], None]] = {}
        self._ends: float | None = None
        # since when nothing is taken (microseconds), why, and how many records were refused
        self._gap: tuple[int, str, int] | None = None
        control.setblocking(False)
        self._watch(control, self._command)
        if not signing.gone:
            self._watch(signing.socket, self._signed)

    def serve(self) -> None:
        """Until the starter has hung up and no peer is left, or the grace is over."""
        # the starter knows that it can go on; nobody has spoken yet
        for kind in schema.KINDS:
            schema.grammar(kind)
        while self._ends is None or (self._peers and time.monotonic() < self._ends):
            self._turn()
        self._pay(self._current)
        if self._gap:
            self._log.note(chain.GAP, since=self._gap[0], reason=self._gap[1], refused=self._gap[2])
        self._log.note(chain.CLOSED, peers=len(self._peers))
        with contextlib.suppress(OSError):
            self._log.commit()
            self._signing.last(self._log)
        self._signing.end()

    def _watch(self, sock: socket.socket, whom: Peer | Callable[[], None]) -> None:
        self._heard[sock.fileno()] = whom
        self._epoll.register(sock.fileno(), EPOLLIN)

    def _unwatch(self, sock: socket.socket) -> None:
        del self._heard[sock.fileno()]
        self._epoll.unregister(sock.fileno())

    def _wait(self) -> float:
        """Seconds until there is something to do anyway; what is due now is done."""
        due = self._signing.ask(self._log)
        wait = -1.0 if due is None else due
        for at in (self._owed if self._owing else None, self._ends):
            if at is not None:
                left = max(0.0, at - time.monotonic())
                wait = left if wait < 0 else min(wait, left)
        return wait

    def _turn(self) -> None:
        ready = self._epoll.poll(self._wait())
        turn = self._current
        turn.refusing = self._room()
        for fd, _ in ready:
            whom = self._heard.get(fd)
            if isinstance(whom, Peer):
                self._hear(whom, turn)
                if self._log.pending > _BATCH:
                    self._write(turn)
            elif whom:
                whom()
        self._write(turn)
        if self._owing and time.monotonic() >= self._owed:
            self._pay(turn)

    def _room(self) -> str:
        """Why nothing may be taken now, or "". Starts the next segment when it is time."""
        try:
            if self._log.is_full():
                self._rotate()
            return self._signing.problem or (_FULL if self._log.is_short() else "")
        except OSError as error:
            return error.strerror or str(error)

    def _rotate(self) -> None:
        self._log.rotate()
        try:
            retired = self._log.retire(cursors.oldest(self._exports, self._log.name))
        except SupervisorError as error:
            # somebody has changed an old segment: everything stays as it is, for whoever looks into it
            self._log.note(chain.KEPT, reason=str(error))
            self._tell({"event": "kept", "reason": str(error)})
            return
        if retired:
            self._tell({"event": "retired", "first": retired[0], "last": retired[-1]})

    def _hear(self, peer: Peer, turn: Turn) -> None:
        try:
            if peer.waits:
                peer.flush()
                self._mind(peer)
            elif not peer.read(turn):
                self._forget(peer)
        except WireError as error:
            self._drop(peer, error)

    def _mind(self, peer: Peer) -> None:
        """Wait for it to send, or to take what it has been sent."""
        self._epoll.modify(peer.socket.fileno(), EPOLLOUT if peer.waits else EPOLLIN)

    def _drop(self, peer: Peer, error: WireError) -> None:
        uid, pid = peer.who
        if times := self._claims.drops(uid):
            self._log.note(chain.DROPPED, uid=uid, pid=pid, reason=str(error)[:500], times=times)
        self._tell({"event": "dropped", "pid": pid, "reason": str(error)[:500]})
        self._forget(peer)

    def _forget(self, peer: Peer) -> None:
        self._peers.discard(peer)
        self._owing.discard(peer)
        peer.forget(self._claims)
        self._unwatch(peer.socket)
        peer.socket.close()

    def _write(self, turn: Turn) -> None:
        """Write and answer what has been appended."""
        if turn.denied:
            self._deny(turn)
        try:
            self._log.commit()
            written = turn.taken > 0
        except OSError as error:
            turn.fail(error.strerror or str(error))
            written = False
        if turn.outcomes and (owing := turn.owe()):
            self._owed = self._owed if self._owing else time.monotonic() + _OWED
            self._owing |= owing
        if turn.process:
            self._say(turn.answers(turn.process))
        if turn.power:
            try:
                self._log.sync()
            except OSError as error:
                turn.refusing = error.strerror or str(error)
                turn.refuse(turn.power)
            self._say(turn.answers(turn.power))
        if turn.no:
            self._say(turn.answers(turn.no, turn.refusing))
        if turn.refused or self._gap:
            self._account(turn, written=written)
        turn.taken = 0

    def _pay(self, turn: Turn) -> None:
        """Acknowledge what is owed."""
        self._say(turn.answers({peer: [] for peer in self._owing}))
        self._owing.clear()

    def _deny(self, turn: Turn) -> None:
        """Say no to who may not write what he has sent, and write that down, though not each time."""
        for reason, which in turn.denied.items():
            count = sum(map(len, which.values()))
            said = f"{reason}: {turn.faults[reason]}" if turn.faults[reason] else reason
            if not turn.refusing and (more := self._claims.news(reason, count)):
                self._log.note(chain.GAP, since=time.time_ns() // 1000, reason=said, refused=more)
                self._tell({"event": "denied", "reason": said})
            self._say(turn.answers(which, said))
        turn.denied.clear()
        turn.faults.clear()

    def _account(self, turn: Turn, *, written: bool) -> None:
        """Keep the record of what was refused, and write it down when there is room again."""
        if turn.refused:
            since, reason, count = self._gap or (time.time_ns() // 1000, turn.refusing, 0)
            if not count:
                self._tell({"event": "full", "reason": reason})
            self._gap = (since, reason, count + turn.refused)
            turn.refused = 0
        elif self._gap and written and not turn.refusing:
            since, reason, count = self._gap
            self._gap = None
            self._log.note(chain.GAP, since=since, reason=reason, refused=count)
            self._tell({"event": "recovered", "refused": count})

    def _say(self, answers: Iterable[tuple[Peer, bytes]]) -> None:
        for peer, message in answers:
            if peer in self._peers:
                waited = peer.waits
                peer.answer(message)
                if peer.waits != waited:
                    self._mind(peer)

    def _command(self) -> None:
        """The starter's word: a peer, or the end."""
        try:
            received = wire.receive(self._control, max_fds=1)
        except BlockingIOError:
            return
        except (ConnectionError, WireError):
            received = None
        if received is None:
            self._unwatch(self._control)
            self._ends = time.monotonic() + _GRACE
            return
        message, fds = received
        # for whom: a visitor by the kernel's word, or the starter himself
        uid = message.get("uid", 0)
        uid = self._claims.one(uid) if isinstance(uid, int) else -1
        asked = message.get("req") == "peer" and uid >= 0 and len(fds) == 1
        if asked and self._claims.room(uid, Counter(each.whose for each in self._peers)):
            peer = Peer(socket.socket(fileno=fds[0]), uid)
            self._peers.add(peer)
            self._watch(peer.socket, peer)
            return
        for fd in fds:
            os.close(fd)
        self._tell(
            {"event": "refused", "reason": f"{len(self._peers)} peers, or not a request: {str(message)[:200]}"}
        )

    def _signed(self) -> None:
        trouble = self._signing.hear(self._log)
        if trouble:
            self._tell({"event": "unsigned", "reason": trouble})
        if self._signing.gone:
            self._unwatch(self._signing.socket)

    def _tell(self, event: wire.Message) -> None:
        """To the starter, if it listens: everything is in the log too."""
        with contextlib.suppress(OSError):
            wire.send(self._control, event)


def _begin(control: socket.socket) -> Ledger | None:
    """From the starter's first message to a ledger that may do nothing else; None when the starter has gone."""
    received = wire.receive(control)
    if received is None:
        return None
    first = dict(received[0])
    place = confine.Place(Path(str(first.pop("folder"))))
    filter_, sign, gap = str(first.pop("filter")), first.pop("sign", True), first.pop("gap", None)
    rules = segments.rules(first)
    confine.prepare(place)
    signer = signing.start(place.root) if sign is True else None
    claims = Claims()
    confine.become(confine.LEDGER)
    os.umask(0o027)
    folder, _ = segments.acquire(place.logs)
    confine.only([folder], [place.cursors])
    log = Log(folder, rules)
    if isinstance(gap, dict):
        log.note(chain.GAP, since=gap["since"], reason=gap["reason"], refused=0)
    ledger = Ledger(control, log, Signing(signer, log, filter_), place.cursors, claims)
    rights.load_seccomp(base64.b64decode(filter_, validate=True))
    wire.send(control, {"event": "ready", "folder": str(folder), "log": log.name, "seq": log.head.seq})
    return ledger


def main(fd: int) -> None:
    """Give everything up, then write what peers send, until the starter on descriptor `fd` hangs up."""
    confine.alone()
    control = socket.socket(fileno=fd)
    control.set_inheritable(False)
    try:
        ledger = _begin(control)
    except (SupervisorError, OSError, ValueError, KeyError) as error:
        reason = (
            f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
        )
        with contextlib.suppress(OSError):
            wire.send(control, {"event": "failed", "reason": f"the audit log cannot be written: {reason}"})
        return
    if ledger:
        ledger.serve()
