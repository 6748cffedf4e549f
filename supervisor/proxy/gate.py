"""What a relay writes down of the calls that pass it: one client, one server, lines as they are.

Runs unprivileged. A call waits until its intent is written, and what its client sends after it waits behind it, in
order; one whose intent is not written goes no further, and its client is told why. Each request within a batch of
the old revisions is a call of its own.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import os
import re
import time
from collections import deque
from collections.abc import Callable
from typing import Literal, NamedTuple

import msgspec

from supervisor.audit import record
from supervisor.audit.reached import Reached
from supervisor.audit.record import Answer, Context, Touched
from supervisor.audit.redact import knowing
from supervisor.proxy import envelope, message
from supervisor.proxy.auditing import client_name
from supervisor.proxy.hosts import Hosts
from supervisor.proxy.link import Opened
from supervisor.proxy.message import Fields
from supervisor.proxy.recording import Recording, Way, answer, limits
from supervisor.proxy.touched import PATIENCE, Watch, Window

# requests that make a server do nothing for anybody
_PLAIN = frozenset(
    (
        *("initialize", "ping", "server/discover", "logging/setLevel", "subscriptions/listen"),
        *("tools/list", "prompts/list", "resources/list", "resources/templates/list"),
        *("resources/subscribe", "resources/unsubscribe"),
    )
)
_NAMED = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}
_CALLED = frozenset((*_NAMED, "completion/complete"))
# what a server does for somebody, and answers: without an id it would be done and not recorded
_ASKING = ("tools/", "prompts/", "resources/", "completion/", "tasks/")
_KEY = re.compile(rb'[\s,]*("[^"\\]*(?:\\.[^"\\]*)*")\s*:\s*', re.DOTALL)
_encode = msgspec.json.Encoder().encode
_DURING = 100
# seconds, at the end of a session, for what its last calls touched to be told
_LAST = 5.0
_SESSION = "the server's session has ended"


class Audited(NamedTuple):
    """What the gate of a relay is made of, when there is an event loop."""

    way: Way
    opened: Opened
    user: str
    groups: tuple[str, ...]
    monitor: str
    server: str

    def context(self, client: str = "") -> Context:
        """What all calls of the session have in common."""
        opened = self.opened
        return Context(
            user=self.user,
            groups=self.groups,
            session=f"{self.monitor}-{opened.session}",
            client=client,
            server=self.server,
            profile=opened.profile,
            spec=opened.spec,
            image=opened.image,
            runtime=opened.runtime,
            posture=opened.posture,
            accepted=opened.accepted,
            redactor=knowing(opened.secrets),
        )


class _Passing(NamedTuple):
    call: record.Call
    began: float
    during: list[str]
    window: Window
    watched: bool


class _Line:
    """One line of the client's: how many intents it waits for, and why it is refused, if it is."""

    def __init__(self, line: bytes) -> None:
        self.line = line
        # one until all of it has been looked at
        self.waits = 1
        self.keys: list[bytes] = []
        self.cancels: list[bytes] = []
        self.refused = ""


class Gate:
    """`write` passes a line on to the server; `refuse` answers the client's request of that key."""

    def __init__(
        self, audited: Audited, write: Callable[[bytes], None], refuse: Callable[[bytes, str], None]
    ) -> None:
        self._audited = audited
        self._context = audited.context()
        self._recording = Recording(audited.way, self._context)
        self._recording.start()
        self._write, self._refuse = write, refuse
        self._lines: deque[_Line] = deque()
        self._watch = Watch(audited.opened.files)
        self._passing: dict[bytes, _Passing] = {}
        self._asking = 0
        self._late: dict[asyncio.Task[None], _Passing] = {}
        self._hosts = Hosts()
        self._run = os.urandom(6).hex()
        self._number = itertools.count(1)
        self._drained: Callable[[], None] | None = None

    def put(self, line: bytes) -> None:
        """A line of the client's, in its turn."""
        waiting = _Line(line)
        self._lines.append(waiting)
        for fields in messages(line):
            method = message.text(fields.get("method"))
            params = message.fields(fields.get("params", message.EMPTY)) or {}
            if (cancelled := cancels(fields)) is not None:
                waiting.cancels.append(cancelled)
            if method == "initialize" and "clientInfo" in params:
                self._context = dataclasses.replace(self._context, client=client_name(params["clientInfo"]))
            if method is not None and "id" in fields and method not in _PLAIN:
                waiting.waits += 1
                self._intend(waiting, fields, method, params)
        waiting.waits -= 1
        self._flush()

    def _intend(self, waiting: _Line, fields: Fields, method: str, params: Fields) -> None:
        key = envelope.spelled(bytes(fields["id"]))
        name = message.text(params.get(_NAMED.get(method, ""))) or ""
        call = record.Call(self._context, f"{self._run}-{next(self._number)}", name, method)
        waiting.keys.append(key)
        given = params.get("arguments", message.EMPTY) if method in ("tools/call", "prompts/get") else None
        arguments = bytes(given if given is not None else message.raw(params))

        def done(reason: str) -> None:
            waiting.waits -= 1
            waiting.refused = waiting.refused or reason
            if not reason:
                others = [*self._passing.values(), *self._late.values()]
                during = [each.call.call for each in others][:_DURING]
                for each in others:
                    each.during.append(call.call)
                self._passing[key] = _Passing(call, time.monotonic(), during, self._watch.window(), self._watch.on)
            self._flush()

        self._recording.intent(record.short_intent(call, arguments), done, power=False)

    def _flush(self) -> None:
        while self._lines and self._lines[0].waits == 0:
            first = self._lines.popleft()
            if not first.refused:
                self._write(first.line)
                for key in first.cancels:
                    self._later(key, "cancelled", b"", "")
                continue
            for key in first.keys:
                self._later(key, "-31013", b"", first.refused)
                self._refuse(key, first.refused)

        if self._drained and not self._lines:
            self._drained()
            self._drained = None

    def drained(self, then: Callable[[], None]) -> None:
        """Call `then` when no line waits any more; none is put after this."""
        self._drained = then
        self._flush()

    def holds(self, key: bytes) -> bool:
        """Whether this call has not been sent yet."""
        return any(key in each.keys for each in self._lines)

    def answered(self, line: bytes) -> None:
        """A line of the server's, which has been passed on."""
        if not self._passing and not self._asking and self._watch.on:
            # what it opened for itself, or for nobody's call, is no call's
            self._asking += 1
            self._watch.ask(self._asked)
        for fields in messages(line) if self._passing else ():
            if "id" in fields and "method" not in fields:
                key = envelope.spelled(bytes(fields["id"]))
                if key not in self._passing:
                    # 3.0 and "3" are 3 to many a client
                    key = message.number(fields["id"])
                failure = message.fields(fields.get("error", message.EMPTY)) or {}
                said = message.text(failure.get("message")) or ""
                self._later(key, message.outcome(fields), line.rstrip(b"\n"), said)

    def _asked(self) -> None:
        self._asking -= 1

    def _later(self, key: bytes, outcome: str, line: bytes, said: str) -> None:
        """What a call touched is known some time after its answer."""
        passing = self._passing.pop(key, None)
        if passing is None:
            return
        took = int((time.monotonic() - passing.began) * 1_000_000)
        task = asyncio.get_running_loop().create_task(self._end(passing, took, answer(outcome, line, said, 0)))
        self._late[task] = passing
        task.add_done_callback(self._late.pop)

    async def _end(self, passing: _Passing, took: int, told: Answer) -> None:
        files, complete = await passing.window.close()
        if self._audited.opened.reaches:
            # what was reached is told by the broker, over the monitor, after the server has answered
            await asyncio.sleep(PATIENCE)
        seen: record.Seen = "none" if not passing.watched else "all" if complete else "part"
        attribution: Literal["exact", "window"] = "window" if passing.during else "exact"
        during, hit = tuple(passing.during[:_DURING]), limits(told.message)
        touched = Touched(files, self._hosts.listed(), attribution, during, hit, seen, self._hosts.more)
        if not self._passing and len(self._late) == 1:
            self._hosts = Hosts()
        self._recording.outcome(record.short_outcome(passing.call, took, told, touched))

    def reached(self, reached: Reached) -> None:
        """The session has reached a host, or was not let."""
        if self._passing or self._late:
            self._hosts.add(reached)
        else:
            what = "egress.refused" if reached.denied else "egress.reached"
            self._recording.event(what, dict(reached._asdict()), self._context)

    async def close(self, reason: str) -> None:
        """The end of the session: what was not answered is lost."""
        for key in list(self._passing):
            self._later(key, "-31001", b"", f"{_SESSION}: {reason}")
        if late := list(self._late):
            await asyncio.wait(late, timeout=_LAST)
        self._watch.close()
        await self._recording.close()


def cancels(fields: Fields) -> bytes | None:
    """The key of the request that a message of its client's takes back."""
    if message.text(fields.get("method")) != "notifications/cancelled" or "id" in fields:
        return None
    params = message.fields(fields.get("params", message.EMPTY)) or {}
    return envelope.spelled(bytes(params["requestId"])) if "requestId" in params else None


def objection(line: bytes) -> str:
    """Why a line of the client's is not passed on, or "": somebody could read another message in it than we do."""
    single = line.lstrip()[:1] != b"["
    for each in [line] if single else message.items(msgspec.Raw(line)):
        fields = message.incoming(bytes(each))
        if fields is None:
            return "it could be read as another message than it seems to be: not UTF-8, or a member in another case"
        if "method" in fields and (wrong := _hidden(fields, bytes(each))):
            return wrong
    return ""


def _hidden(fields: Fields, written: bytes) -> str:
    """Why a message with a method could be another call than is written down, or ""."""
    method = message.text(fields["method"])
    if method is None:
        return "its method is no text"  # to JavaScript ["tools/call"] is the same name of a member
    if _twice(message.blanked(written), fields):
        return "a member is there twice"
    if not fields.keys().isdisjoint(("result", "error")):
        return "it is a request and an answer"
    if method in _CALLED and (wrong := _misaimed(method, fields)):
        return f'the params of "{method}" {wrong}'
    return f'"{method}" without an id' if "id" not in fields and method.startswith(_ASKING) else ""


def _misaimed(method: str, fields: Fields) -> str:
    """Why the params of a call could be about something else than what is written down, or ""."""
    params = message.fields(fields.get("params", message.EMPTY))
    if params is None or message.ambiguous(params) or _twice(bytes(fields.get("params", b"{}")), params):
        return "are no object, or a member is there twice or in another case"
    named = _NAMED.get(method, "")
    return f"have a {named} that is no text" if named in params and message.text(params[named]) is None else ""


def _twice(data: bytes, table: Fields) -> bool:
    """Whether a member of this object is there twice; `table` has only one of them."""
    data = data.strip()
    if len(_encode(table)) == len(data):
        return False  # no spelling of the same is shorter
    seen: set[str] = set()
    at = 1
    while found := _KEY.match(data, at):
        name = message.text(msgspec.Raw(found[1]))
        if name is None or name in seen or name not in table:
            return True
        if not data.startswith(bytes(table[name]), found.end()):
            return True
        seen.add(name)
        at = found.end() + len(bytes(table[name]))
    return data[at:].strip() != b"}"


def messages(line: bytes) -> list[Fields]:
    """The message of a line, or those of a batch."""
    if line[:1] == b"{":
        found = message.fields(line)
        return [found] if found is not None else []
    if line.lstrip()[:1] == b"[":
        return [each for item in message.items(msgspec.Raw(line)) if (each := message.fields(item)) is not None]
    found = message.fields(line)
    return [found] if found is not None else []
