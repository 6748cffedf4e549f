"""A proxy's way to the audit log: one connection to the ledger, another one when that has ended.

Runs unprivileged, in the event loop. It can neither connect nor start anything: the keeper, which was started
before privileges were given up, does both and hands over a descriptor. Meanwhile every call is refused, with why
and what to do; how many were, and since when, is the first that a new ledger hears.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import socket
import time
from collections import deque
from typing import NamedTuple

from supervisor import wire
from supervisor.audit import record
from supervisor.audit.client import Client, Done, Unrecorded
from supervisor.audit.forms import Short
from supervisor.audit.record import Answer, Context
from supervisor.proxy import envelope, message

# outcomes that wait for a new ledger, each with how often it may still be lost
_KEPT, _TRIES = 4096, 3
Written = bytes | Short
Kept = tuple[Written, int]
# seconds: between two requests for a ledger, and how long the last outcomes may wait for room
_FIRST, _LONGEST, _LAST = 0.05, 2.0, 2.0
# and how long the first intents may wait for the first connection
_EARLY = 20.0
# what a record holds of a code; a server says what it likes
_CODE = re.compile("-?(?:0|[1-9][0-9]{0,14})", re.ASCII)
_LIMIT = re.compile(r"\(((?:limits|session|quota)\.[a-z_]{1,40})")
_MOST_LIMITS = 16
_REFUSED = (message.NOT_ALLOWED, message.DEGRADED, message.BUSY, message.NOT_RECORDED)
_LOST = (envelope.SERVER_ENDED, envelope.SERVER_SILENT)
_TOOK = {"cancelled": "its client did not wait for it", "timeout": "it took too long"}


class Way(NamedTuple):
    """A connection to the ledger (None: not yet), the keeper's socket, and where the log is, for people."""

    sock: socket.socket | None
    keeper: socket.socket
    where: str


class Recording:
    """See the module. `context` is what is said of records that are about no call."""

    def __init__(self, way: Way, context: Context) -> None:
        self._way, self._context = way, context
        self._client: Client | None = None
        self._reason = ""
        self._gap: tuple[int, int] | None = None
        self._pause = _FIRST
        self._kept: deque[Kept] = deque(maxlen=_KEPT)
        # what is said of intents before the keeper's first answer
        self._early: list[tuple[Written, Done, bool]] | None = []
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def start(self) -> None:
        """From now on the running loop reads."""
        self._way.keeper.setblocking(False)
        asyncio.get_running_loop().add_reader(self._way.keeper.fileno(), self._heard)
        if self._way.sock:
            self._take(self._way.sock)
        else:
            self._ask()
            asyncio.get_running_loop().call_later(_EARLY, self._too_late)

    def intent(self, written: Written, done: Done, *, power: bool) -> None:
        """`done` hears that it is written, or why the call must not be made, for the caller to be told."""
        if self._client:
            self._client.tell(b"intent", written, lambda why: done(why and self._refused(why)), power=power)
        elif self._early is not None:
            self._early.append((written, done, power))
        else:
            done(self._refused(self._reason))

    def _too_late(self) -> None:
        if self._early is not None:
            self._reason = "who starts the ledger does not answer"
            self._answered()

    def _answered(self) -> None:
        """The keeper has answered for the first time, or never will: those that waited for it go on."""
        early, self._early = self._early or (), None
        for written, done, power in early:
            asyncio.get_running_loop().call_soon(functools.partial(self.intent, written, done, power=power))

    def outcome(self, written: Written, *, power: bool = False) -> None:
        """Not waited for. What a ledger has not acknowledged when it is ended, the next one gets."""
        self._outcome((written, _TRIES), power=power)

    def _outcome(self, kept: Kept, *, power: bool = False) -> None:
        client = self._client
        if client is None:
            self._kept.append(kept)
        else:
            client.tell(b"outcome", kept[0], functools.partial(self._unheard, client, kept), power=power)

    def _unheard(self, client: Client, kept: Kept, why: str) -> None:
        # not for ever: it may be one of these for which the ledger has hung up
        if why and client.gone and kept[1]:
            self._kept.append((kept[0], kept[1] - 1))

    def event(self, what: str, details: dict[str, object], context: Context | None = None) -> None:
        """What is no call."""
        if self._client:
            about = record.Call(context or self._context, f"{what}-{time.time_ns():x}", "", "event")
            self._client.tell(b"event", record.event(about, what, details), _ignore)

    def _refused(self, reason: str) -> str:
        since, count = self._gap or (time.time_ns() // 1000, 0)
        self._gap = since, count + 1
        return f"no audit, no call: {reason} ({self._way.where}); mend that and call again"

    def _take(self, sock: socket.socket) -> None:
        self._client, self._pause = Client(sock), _FIRST
        self._client.lost = self._lost
        if self._gap:
            since, refused = self._gap
            details = {"since": since, "refused": refused, "reason": self._reason}
            self._gap = None
            self.event("audit.gap", dict(details))
        kept, self._kept = self._kept, deque(maxlen=_KEPT)
        for each in kept:
            self._outcome(each)
        self._answered()

    def _lost(self) -> None:
        if self._client:
            self._client.close()
        self._client = None
        self._reason = self._reason or "its ledger was ended, and is started again"
        self._gap = self._gap or (time.time_ns() // 1000, 0)
        if not self._closed:
            self._ask()

    def _ask(self) -> None:
        try:
            wire.send(self._way.keeper, {"req": "peer"})
        except OSError:
            self._reason = "who starts the ledger has ended; start this again"
            self._answered()

    def _heard(self) -> None:
        try:
            received = wire.receive(self._way.keeper, max_fds=1)
        except BlockingIOError:
            return
        except OSError:
            received = None
        if received is None:
            asyncio.get_running_loop().remove_reader(self._way.keeper.fileno())
            self._reason = "who starts the ledger has ended; start this again"
            self._answered()
            return
        said, fds = received
        if fds:
            self._reason = self._reason or "its ledger was ended"
            self._take(socket.socket(fileno=fds[0]))
            self._reason = ""
        else:
            self._reason = str(said.get("reason"))
            self._answered()
            self._timer = asyncio.get_running_loop().call_later(self._pause, self._again)
            self._pause = min(self._pause * 2, _LONGEST)

    def _again(self) -> None:
        if self._client is None and not self._closed:
            self._ask()

    async def close(self) -> None:
        """Let what waits for room go, within a bound, and hang up."""
        ends = time.monotonic() + _LAST
        while self._client and self._client.unsent and time.monotonic() < ends:
            await asyncio.sleep(0.005)
        self._closed = True
        if self._timer:
            self._timer.cancel()
        with contextlib.suppress(OSError, ValueError):
            asyncio.get_running_loop().remove_reader(self._way.keeper.fileno())
        if self._client:
            self._client.lost = lambda: None
            self._client.close()


def connection(way: Way, seconds: float) -> socket.socket:
    """The connection to the ledger, for who has no event loop. Unrecorded: the keeper says why there is none."""
    if way.sock:
        return way.sock
    way.keeper.settimeout(seconds)
    try:
        wire.send(way.keeper, {"req": "peer"})
        received = wire.receive(way.keeper, max_fds=1)
    except OSError as error:
        raise Unrecorded(f"who starts the ledger does not answer: {error.strerror or error}") from None
    if received is None or not received[1]:
        raise Unrecorded(str(received[0].get("reason")) if received else "who starts the ledger has ended")
    return socket.socket(fileno=received[1][0])


def _ignore(_: str) -> None:
    """An outcome that was not written is a gap that the ledger itself records."""


def answer(outcome: str, line: bytes, said: str, first: int) -> Answer:
    """What came back, from how the call is counted (see gateway.Meter) and the message of its error, if any."""
    if outcome == "ok":
        return Answer("ok", content=line, first=first)
    if outcome == "tool_error":
        return Answer("failed", message="the tool says that it failed", content=line, first=first)
    if outcome in _TOOK:
        return Answer("lost", message=said or _TOOK[outcome], content=line)
    code = int(outcome) if _CODE.fullmatch(outcome) else 0
    if code in _REFUSED:
        return Answer("refused", code, said, line)
    return Answer("lost" if code in _LOST else "failed", code, said, line, first)


def limits(said: str) -> tuple[str, ...]:
    """The limits that a reason names."""
    return tuple(dict.fromkeys(_LIMIT.findall(said)))[:_MOST_LIMITS]
