"""What a gateway writes down of its clients' calls: an intent before each is forwarded, an outcome after it.

Runs unprivileged. No audit, no call: a call goes on when its intent is written, or its client is told why not.
What is not forwarded is recorded too, with the rule that refused it. Of what a call touched it is said whether
others were under way in the same process: then it may have been any of them.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from supervisor.audit import record
from supervisor.audit.reached import Reached
from supervisor.audit.record import PLAIN, Context, Decision, Opened, Touched
from supervisor.audit.redact import Withheld, knowing
from supervisor.proxy import eras, message
from supervisor.proxy.hosts import Hosts
from supervisor.proxy.recording import Recording, answer, limits
from supervisor.proxy.touched import PATIENCE

if TYPE_CHECKING:
    from supervisor.proxy.calls import Call
    from supervisor.proxy.conversation import Conversation
    from supervisor.proxy.instance import Instance
    from supervisor.proxy.servers import Server
    from supervisor.proxy.touched import Window

# ids that an outcome names
_DURING = 100
# contexts that are kept, one for each process that a client uses; whose client calls itself longer is made anew
_CONTEXTS, _LONG = 256, 512
# seconds, at the end, for what the last calls touched to be told
_LAST = 5.0
# and the longest that an outcome waits to be written
_SOON = 0.002
_ARGUMENTS = ("tools/call", "prompts/get")
_READING = ("prompts/get", "resources/read", "completion/complete", "tasks/get", "tasks/result", "tasks/list")
_WITHHELD = Withheld()


class Mark:
    """What is known of a call under way: its record, and what it touched so far."""

    __slots__ = (
        "call", "during", "earlier", "files", "home", "hosts", "instance", "lacks", "power", "seen", "window",
    )  # fmt: skip

    def __init__(self, call: record.Call, home: Instance | None, *, power: bool) -> None:
        self.call, self.power = call, power
        # the process whose session its record names
        self.home = home
        self.during: list[str] = []
        # most calls reach none
        self.hosts: Hosts | None = None
        self.files: list[Opened] = []
        # through processes that had it before, and of how many of them that is not all
        self.earlier: list[Opened] = []
        self.lacks = 0
        self.seen: record.Seen = "none"
        self.window: Window | None = None
        self.instance: Instance | None = None


class Known(NamedTuple):
    """What the records of a client's calls of one tool have in common, as long as this process is the one."""

    home: Instance | None
    context: Context
    tool: str
    activity: int
    power: bool


Key = tuple[str, tuple[str, ...], "Server | None", int, bytes]
# a call, its mark, microseconds, how it went, and the line that its client was answered
Ended = tuple["Call", Mark, int, str, bytes]


class Traits:
    """What does not change about a tool: its name at its server, whether it reads, whether it destroys."""

    def __init__(self, server: Server, method: str, name: str) -> None:
        self.activity = 2 if method in _READING else 99
        self.power = server.settings.audit.sync == "power"
        if method != "tools/call":
            return
        for lists in server.manifest.eras.values():
            item = lists.items("tools").get(name)
            table = message.fields(item) if item is not None else None
            hints = message.fields((table or {}).get("annotations", message.EMPTY)) or {}
            if bytes(hints.get("readOnlyHint", b"")) == b"true":
                self.activity = 2
            elif bytes(hints.get("destructiveHint", b"")) == b"true" and not server.settings.audit.sync:
                self.power = True


class Audit:
    """The records of one gateway. `transport` is how its clients come; `monitor` makes session numbers unique."""

    def __init__(self, recording: Recording, transport: str, monitor: int) -> None:
        self._recording = recording
        self._transport, self._monitor = transport, monitor
        self._number = itertools.count(1)
        self._run = os.urandom(6).hex()
        # of whom it is not known yet what they touched
        self._late: dict[Mark, Callable[[], None]] = {}
        # outcomes that are not written yet, and the timer that ends their wait
        self._unwritten: list[Ended] = []
        self._timer: asyncio.TimerHandle | None = None
        self._traits: dict[tuple[Server, str, str], Traits] = {}
        self._contexts: dict[Key, Context] = {}

    def intend(self, call: Call, server: Server, then: Callable[[Call, Server], None] | None = None) -> None:
        """Write down that a call is about to be made; then make it, or tell its client why not."""
        conversation = call.conversation
        instance = call.instance or conversation.running(call, server)
        if instance is None and server.settings.secret and then is None:
            # its process comes with the marks of its secrets: Call.go writes it down then, before it is sent
            conversation.dispatch(call, server)
            return
        mark = call.mark = self._mark(call, server, instance)

        def done(reason: str) -> None:
            if conversation.calls.get(call.key) is not call:
                return  # its client has cancelled it
            if reason:
                call.mark = None
                call.lost(message.NOT_RECORDED, reason)
            elif then is not None:
                then(call, server)
            else:
                conversation.dispatch(call, server, instance)

        self._recording.intent(record.short_intent(mark.call, _arguments(call)), done, power=mark.power)

    def refused(self, call: Call, server: Server | None, rule: str, reason: str) -> None:
        """Write down what was not let pass."""
        secret = server is not None and server.settings.secret
        mark = self._mark(call, server, call.conversation.running(call, server) if server and secret else None)
        if mark.call.context.redactor is _WITHHELD and call.method not in _ARGUMENTS:
            reason = ""  # it may quote what was asked for
        written = record.intent(mark.call, _arguments(call), Decision("deny", rule, reason))
        self._recording.intent(written, _nobody, power=False)

    def _mark(self, call: Call, server: Server | None, instance: Instance | None) -> Mark:
        number = f"{self._run}-{next(self._number)}"
        # what the client calls itself in each message may differ from call to call
        usual = call.meta is None and call.method == "tools/call"
        known = call.conversation.known.get(call.name) if usual else None
        if known is None or known.home is not instance:
            known = self._known(call, server, instance)
            if usual and instance is not None:
                call.conversation.known[call.name] = known
        made = record.Call(known.context, number, known.tool, call.method, known.activity)
        return Mark(made, instance, power=known.power)

    def _known(self, call: Call, server: Server | None, instance: Instance | None) -> Known:
        context = self._context(call, server, instance)
        name = call.name
        if server is not None and not call.conversation.endpoint.single:
            name = name.removeprefix(f"{server.name}__")
        if context.redactor is _WITHHELD and call.method not in _ARGUMENTS:
            name = ""  # not one of the server's: an address that its client made
        traits = self._traits_of(server, call.method, name) if server is not None else None
        activity, power = (traits.activity, traits.power) if traits else (99, False)
        return Known(instance, context, name, activity, power)

    def _traits_of(self, server: Server, method: str, name: str) -> Traits:
        key = (server, method, name if method == "tools/call" else "")
        found = self._traits.get(key)
        if found is None:
            if len(self._traits) > 10_000:
                self._traits.clear()
            found = Traits(server, method, name)
            # one that no server has may be as long as a message
            if len(name) <= _LONG:
                self._traits[key] = found
        return found

    def _context(self, call: Call, server: Server | None, instance: Instance | None) -> Context:
        conversation = call.conversation
        said = (call.meta or {}).get(eras.CLIENT, conversation.hello.client)
        opened = instance.opened if instance is not None else None
        principal = conversation.principal
        # a client over HTTP is a conversation for each request
        key = (principal.name, principal.groups, server, opened.session if opened else 0, bytes(said))
        found = self._contexts.get(key)
        if found is None:
            found = self._made(conversation, server, instance, said)
            if len(self._contexts) >= _CONTEXTS:
                self._contexts.clear()
            if len(key[-1]) <= _LONG:
                self._contexts[key] = found
        return found

    def _made(
        self, conversation: Conversation, server: Server | None, instance: Instance | None, said: msgspec.Raw
    ) -> Context:
        principal, opened = conversation.principal, instance.opened if instance is not None else None
        unseen = _WITHHELD if server and server.settings.secret else PLAIN
        return Context(
            user=principal.name,
            groups=principal.groups,
            client=client_name(said),
            transport=self._transport,
            session=f"{self._monitor}-{opened.session}" if opened else "",
            server=server.name if server else "",
            profile=opened.profile if opened else server.profile if server else "",
            spec=opened.spec if opened else server.identity[2] if server else "",
            image=opened.image if opened else "",
            runtime=opened.runtime if opened else "",
            manifest=server.identity[1] if server else "",
            posture=opened.posture if opened else "",
            accepted=opened.accepted if opened else (),
            redactor=knowing(opened.secrets) if opened else unseen,
        )

    def sent(self, call: Call, instance: Instance) -> None:
        """A call goes to its process; whoever is there already is under way with it."""
        mark = call.mark
        if mark is None:
            return
        if mark in instance.marks:
            return  # again, with what its client was asked for: what it touched so far is its own as well
        if mark.instance is not None:
            self._moved(mark, mark.instance)
        mark.instance = instance
        if instance.turn is call:
            instance.turn_mark = mark
        if instance.touched is not None and instance.touched.on:
            mark.window = instance.touched.window()
        for each in instance.marks:
            if len(each.during) < _DURING:
                each.during.append(mark.call.call)
            if len(mark.during) < _DURING:
                mark.during.append(each.call.call)
        instance.marks.add(mark)

    def _moved(self, mark: Mark, before: Instance) -> None:
        """It goes to another process now; what it touched through the one before is known some time later."""
        before.known(mark)
        window, mark.window = mark.window, None
        if window is None:
            return
        mark.lacks += 1

        def seen(files: list[Opened], complete: bool) -> None:
            mark.earlier += files
            mark.lacks -= complete

        window.end(seen)

    def ended(self, call: Call, outcome: str, line: bytes) -> None:
        """How it went, as it is counted (see gateway.Meter), and what its client was answered: written after it."""
        mark, call.mark = call.mark, None
        if mark is None and call.server is not None and outcome != str(message.NOT_RECORDED):
            # it waited for a process that did not come
            mark = self._mark(call, call.server, None)
            self._recording.intent(record.intent(mark.call, _arguments(call)), _nobody, power=False)
        if mark is None:
            return
        # not the loop's clock, which may stand still for a millisecond
        took = int((time.monotonic() - call.began) * 1_000_000)
        instance = mark.instance
        if instance is None:
            self._soon(call, mark, took, outcome, line)
            return
        if mark.home is not instance:
            # its own context names the session, which was only started for it
            mark.call = mark.call._replace(context=self._context(call, call.server, instance))
        if mark.window is None and not instance.reaches:
            self._soon(call, mark, took, outcome, line)
        else:
            self._later(mark, instance, lambda: self._soon(call, mark, took, outcome, line))

    def _later(self, mark: Mark, instance: Instance, known: Callable[[], None]) -> None:
        """What is known after the answer: the kernel's word on files, and the broker's on hosts."""

        def seen(files: list[Opened], complete: bool) -> None:
            mark.files = list(dict.fromkeys(mark.earlier + files))
            mark.seen = "all" if complete and not mark.lacks else "part"
            told()

        def told() -> None:
            if instance.reaches:
                asyncio.get_running_loop().call_later(PATIENCE, late)
            else:
                late()

        def late() -> None:
            if self._late.pop(mark, None):
                known()

        self._late[mark] = late
        if mark.window is not None:
            mark.window.end(seen, hurry=instance.turn_mark is mark)
        else:
            told()

    def _soon(self, call: Call, mark: Mark, took: int, outcome: str, line: bytes) -> None:
        """Nobody waits for an outcome: those of a short while are written together, between two calls."""
        if mark.instance is not None:
            mark.instance.known(mark)
        self._unwritten.append((call, mark, took, outcome, line))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_SOON, self._write_all)

    def _write_all(self) -> None:
        self._timer = None
        unwritten, self._unwritten = iter(self._unwritten), []
        try:
            for each in unwritten:
                self._write(*each)
        finally:
            # one that cannot be written takes no other with it
            if rest := list(unwritten):
                self._unwritten = rest + self._unwritten
                self._timer = self._timer or asyncio.get_running_loop().call_later(_SOON, self._write_all)

    def _write(self, call: Call, mark: Mark, took: int, outcome: str, line: bytes) -> None:
        said = "" if outcome in ("ok", "tool_error") else _error(line)
        first = call.server.settings.audit.first if call.server is not None else 0
        told = answer(outcome, line.rstrip(b"\n"), said, first)
        written = record.short_outcome(mark.call, took, told, self._touched(mark, limits(said)))
        self._recording.outcome(written, power=mark.power)

    async def close(self) -> None:
        """Write what is not written yet, within a bound, and hang up."""
        ends = time.monotonic() + _LAST
        while self._late and time.monotonic() < ends:
            await asyncio.sleep(0.005)
        for late in list(self._late.values()):
            asyncio.get_running_loop().call_soon(late)
        await asyncio.sleep(0)
        ends = time.monotonic() + _LAST
        while self._unwritten and time.monotonic() < ends:
            await asyncio.sleep(_SOON)
        await self._recording.close()

    def _touched(self, mark: Mark, hit: tuple[str, ...]) -> Touched:
        """The one place where what a call touched is put together."""
        attribution: Literal["exact", "window"] = "window" if mark.during else "exact"
        hosts, more = (mark.hosts.listed(), mark.hosts.more) if mark.hosts else ((), 0)
        return Touched(mark.files, hosts, attribution, tuple(mark.during), hit, mark.seen, more)

    def reached(self, instance: Instance, reached: Reached) -> None:
        """A session has reached a host, or was not let. Without a call under way it is a record of its own."""
        for mark in instance.marks:
            mark.hosts = mark.hosts or Hosts()
            mark.hosts.add(reached)
        if not instance.marks and instance.opened is not None:
            opened = instance.opened
            context = Context("", f"{self._monitor}-{opened.session}", "", instance.name, spec=opened.spec)
            what = "egress.refused" if reached.denied else "egress.reached"
            self._recording.event(what, dict(reached._asdict()), context)


def _nobody(_: str) -> None:
    """A refusal is one whether it is written or not."""


def _arguments(call: Call) -> bytes:
    """What the client gave, without what is the protocol's."""
    if call.method in _ARGUMENTS and "inputResponses" not in call.params:
        return bytes(call.params.get("arguments", message.EMPTY))
    return bytes(message.raw({key: value for key, value in call.params.items() if key != "_meta"}))


def client_name(said: msgspec.Raw) -> str:
    """Name and version of a client, as it gives them."""
    table = message.fields(said) or {}
    return f"{message.text(table.get('name')) or ''} {message.text(table.get('version')) or ''}".strip()


def _error(line: bytes) -> str:
    table = message.fields((message.fields(line) or {}).get("error", message.EMPTY)) or {}
    return message.text(table.get("message")) or ""
