"""One client: its requests to where they belong, its answers to whoever asked, both eras on one connection.

Runs unprivileged. What can be answered without a process is answered here; everything else becomes a Call.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from supervisor.proxy import envelope, eras, local, message, sharing
from supervisor.proxy.calls import MAX_CALLS, Call
from supervisor.proxy.instance import Hello, Instance
from supervisor.proxy.message import Fields
from supervisor.proxy.outlet import Outlet
from supervisor.proxy.principal import Principal
from supervisor.proxy.questions import Questions
from supervisor.proxy.servers import NOBODY, Server, Unavailable, usable

if TYPE_CHECKING:
    from supervisor.proxy.auditing import Known
    from supervisor.proxy.endpoint import Route
    from supervisor.proxy.gateway import Gateway
    from supervisor.proxy.listening import Listener
    from supervisor.proxy.process import Process

# seconds that a client may leave unread what a process says that others use as well
PATIENCE = 5.0
Then = Callable[[Call, Server], None]
_FIRST = f'initialize first, or send params._meta["{eras.VERSION}"] with every request'
_SLOW = "this client does not read what it gets"


class Conversation:
    """The state of one client.

    `blocked` is called when nothing more can be taken from the client (a server does not read, or the client does
    not), and when it can again.
    """

    def __init__(self, gateway: Gateway, outlet: Outlet, principal: Principal, only: str | None) -> None:
        self.gateway = gateway
        self.outlet = outlet
        self.principal = principal
        self.only = only
        self.endpoint = gateway.view(only, principal)
        self.protocol = ""
        self.hello = Hello(eras.LEGACY[-1], message.EMPTY, NOBODY)
        self.calls: dict[bytes, Call] = {}
        self.listeners: dict[bytes, Listener] = {}
        self.questions = Questions(self)
        self.instances: set[Instance] = set()
        # what is the same in the records of its calls, by tool
        self.known: dict[str, Known] = {}
        self.closed = False
        self.blocked: Callable[[bool], None] = lambda _: None
        self._full: set[Process] = set()
        # since when the client does not read, and whether we have given up to wait for that
        self._held: float | None = None
        self._slow = False
        outlet.on_writable = self._resume

    @property
    def deaf(self) -> bool:
        """Whether there is no use in telling this client anything."""
        return self.closed or self._slow

    def receive(
        self, line: bytes, fields: Fields | None = None, params: Fields | None = None, meta: Fields | None = None
    ) -> None:
        """One message of the client's; what it holds from a front that has looked at it already."""
        if self.closed:
            return
        if fields is None and self.protocol and (usual := message.usual(line)) and local.used(self, usual):
            return
        fields = fields or message.incoming(line)
        if fields is None or fields.get("jsonrpc") != message.TWO:
            self._malformed(line)
        elif "method" in fields:
            method = message.text(fields["method"])
            if params is None:
                params = message.fields(fields["params"]) if "params" in fields else {}
            if method is None or params is None:
                self._malformed(line)
            elif "id" in fields:
                self._requested(fields, method, params, meta)
            else:
                local.notified(self, method, params, fields)
        elif "result" in fields or "error" in fields:
            self.questions.answer(fields)
        else:
            self._malformed(line)

    def _malformed(self, line: bytes) -> None:
        if answer := message.wrong(line):
            self._reject(*answer)

    def _reject(self, key: bytes | None, code: int, said: str) -> None:
        """Answer what never became a request; under its id if that is not another one's."""
        if key in self.calls:
            key = None
        self.outlet.deliver(message.error(key or message.NULL, code, said), key, last=key is not None)
        self._check()

    def _requested(self, fields: Fields, method: str, params: Fields, meta: Fields | None) -> None:
        key = message.identifier(fields["id"])
        if key is None:
            self._reject(None, message.INVALID_REQUEST, "a request id is text or a whole number")
            return
        if key in self.calls:
            self._duplicate(key)
            return
        if meta is None and "_meta" in params:
            meta = message.fields(params["_meta"])
        call = Call(self, key, fields, method=method, params=params, meta=meta)
        if call.modern:
            if wrong := eras.problem(meta or {}):
                self.answer(call, message.error(key, *wrong))
                return
        elif not self.protocol and method not in ("initialize", "ping"):
            self.refuse(call, message.INVALID_PARAMS, _FIRST)
            return
        local.TABLE[call.modern].get(method, local.unknown)(self, call)

    def _duplicate(self, key: bytes) -> None:
        # it has the id of a request that is going to be answered: this is not that answer
        said = "this request id is in use"
        self.outlet.deliver(message.error(key, message.INVALID_REQUEST, said), None, last=True)
        self._check()

    def answer(self, call: Call, line: bytes) -> None:
        """Answer a request that never left."""
        self.outlet.deliver(line, call.key, last=True)
        self._check()

    def refuse(self, call: Call, code: int, said: str, data: object = None) -> None:
        """Answer a request that never left with an error."""
        self.answer(call, message.error(bytes(call.spelling), code, said, data))

    def use(self, call: Call, route: Route, member: str) -> None:
        """Send a request to the server of a route, if its verdict allows that."""
        verdict = route.verdict if route.check is None else route.judged(call.params.get("arguments"))
        if verdict.outcome != "allow":
            local.deny(self, call, route.server, verdict)
            return
        if message.ambiguous(call.params):
            self.refuse(call, message.INVALID_PARAMS, "params has members that differ in case only")
            return
        call.aim(route, member)
        if call.modern and "requestState" in call.params and self.gateway.parked.resume(call):
            return
        if self.admit(call, route.server):
            (self.gateway.audit.intend if self.gateway.audit else self.dispatch)(call, route.server)

    def forward(self, call: Call, server: Server, then: Then | None = None) -> None:
        """Send a request to a server, starting it if need be, when it is written down that this will be done."""
        if self.admit(call, server):
            if self.gateway.audit:
                self.gateway.audit.intend(call, server, then)
            else:
                (then or self.dispatch)(call, server)

    def go_on(self, call: Call, then: Callable[[], None]) -> None:
        """Go on with what the client was asked about, when that is written down."""
        audit, server = self.gateway.audit, call.server
        if audit is None or server is None:
            then()
            return
        self.hold(call)

        def written(*_: object) -> None:
            self._release(call)
            then()

        audit.intend(call, server, written)

    def deny(
        self, call: Call, server: Server | None, answer: tuple[int, str], rule: str, data: object = None
    ) -> None:
        """Refuse a request by a rule, and write that down."""
        if self.gateway.audit is not None:
            self.gateway.audit.refused(call, server, rule, answer[1])
        self.refuse(call, *answer, data)

    def running(self, call: Call, server: Server) -> Instance | None:
        """The process that would serve this call, if there is one already."""
        found = server.instances.get(call.place(server)[0])
        return found if found is not None and found.ready else None

    def admit(self, call: Call, server: Server) -> bool:
        """Whether one more call may go to that server; if not, the client has been told."""
        call.server = server
        most = server.settings.quota.calls
        busy, rule = server.load.get(self.principal.name, 0), "too many"
        if busy >= most:
            self.gateway.meter.refused(rule := "quota.calls")
            said = f"{self.principal.name} has {most} calls in flight (quota.calls, {server.settings.origin})"
        elif len(self.calls) >= MAX_CALLS:
            said = f"this client has {MAX_CALLS} calls in flight"
        elif self._slow:
            said = _SLOW
        else:
            self.calls[call.key] = call
            server.load[self.principal.name] = busy + 1
            return True
        self.deny(call, server, (message.BUSY, f'server "{server.name}": {said}'), rule)
        return False

    def hold(self, call: Call) -> None:
        """It is under way from now on."""
        self.calls[call.key] = call
        if call.server is not None:
            load = call.server.load
            load[self.principal.name] = load.get(self.principal.name, 0) + 1

    def _release(self, call: Call) -> None:
        del self.calls[call.key]
        if call.instance is not None and call.instance.turn is call:
            call.instance.over_with(call)
        if call.server is not None:
            load, name = call.server.load, self.principal.name
            if load[name] > 1:
                load[name] -= 1
            else:
                del load[name]

    def dispatch(self, call: Call, server: Server, instance: Instance | None = None) -> None:
        """Give a call to the process that serves it, started if there is none; `instance` served it just now."""
        try:
            instance = self.instance(call, server, instance)
        except Unavailable as error:
            call.lost(error.code, str(error))
            return
        if instance.ready and not instance.serial:
            call.go(instance)
        else:
            call.instance = instance
            instance.give(call)

    def instance(self, call: Call, server: Server, known: Instance | None = None) -> Instance:
        """The process that serves this call, as `known` did just now; Unavailable when there can be none now."""
        found = known or server.instances.get(call.place(server)[0])
        if found is None or found not in self.instances or not found.ready or found.ending:
            found = self._join(call, server)
        return found

    def _join(self, call: Call, server: Server) -> Instance:
        key, owner = call.place(server)
        found = server.instances.get(key)
        if found is None or not usable(found):
            hello = sharing.hello(self, call, server, owner)
            found = server.instance(key, self.principal.name, modern=server.modern[call.modern], hello=hello)
            found.owner = owner
        self.instances.add(found)
        found.users.add(self)
        found.principals.add(self.principal.name)
        if found.full:
            self.block(found, full=True)
        if self._held is not None and not self._slow:
            found.pause(self, paused=True)
        return found

    def finish(self, call: Call, line: bytes, *, outcome: str, parked: bool = False) -> None:
        """The answer to a call; nothing happens if the client has cancelled it."""
        if self.calls.get(call.key) is not call:
            return
        self._release(call)
        self.outlet.deliver(line, call.key, last=True)
        if call.server is not None:
            self._count(call, call.server, line, outcome=outcome, parked=parked)
        if self._held is None and not self.outlet.writable():
            self._hold()

    def _count(self, call: Call, server: Server, line: bytes, *, outcome: str, parked: bool = False) -> None:
        server.calls += 1
        if (server.row.failures or server.rows) and outcome in ("ok", "tool_error"):
            server.worked(self.principal.name)
        if self.gateway.audit is not None:
            self.gateway.audit.ended(call, outcome, line)
        if self.gateway.tracing is not None:
            self.gateway.tracing.ended(call, outcome)
        # names of resources and unknown methods are the client's invention
        name = call.name if call.method in ("tools/call", "prompts/get") else local.label(call.method)
        self.gateway.meter.called(server.name, name, time.monotonic() - call.began, outcome=outcome)
        if call.instance and not parked and server.settings.session.share == "call":
            call.instance.end("its call was answered")

    def say(self, line: bytes, about: bytes | None) -> None:
        """Something that is not an answer."""
        if not self.deaf:
            self.outlet.deliver(line, about, last=False)
            self._check()

    def cancel(
        self, call: Call, fields: Fields | None = None, line: bytes = b"", outcome: str = "cancelled"
    ) -> None:
        """Nobody waits for the answer any more: the server is told, and the client gets `line`, if anything.

        `fields` is the client's own message, which is passed on under the id that the server knows.
        """
        if self.calls.get(call.key) is not call:
            return
        listener = self.listeners.pop(call.key, None)
        if listener:
            listener.close()
        self._release(call)
        self.questions.drop(call.key)
        if call.instance:
            call.instance.abandon(call, call.number, fields)
        self.outlet.deliver(line, call.key, last=True)
        if call.server:
            self._count(call, call.server, line, outcome=outcome)

    def timed_out(self, call: Call, seconds: float) -> None:
        """No message about a call for too long: it is cancelled at the server, and the client told."""
        said = f'server "{call.server.name if call.server else ""}" did not answer within {seconds:g} s'
        said = f"{said} (session.answer)"
        line = message.error(bytes(call.spelling), envelope.SERVER_SILENT, said)
        self.cancel(call, line=line, outcome="timeout")

    def mirrored(self, tool: str) -> Mapping[tuple[str, ...], bytes]:
        """The arguments of a tool that its schema wants repeated in HTTP headers."""
        return self.gateway.endpoint(self).mirrored.get(tool, {})

    def close(self) -> None:
        """The client is gone: what it asked for is cancelled, and what was its alone ends."""
        if self.closed:
            return
        self.closed = True
        for call in list(self.calls.values()):
            self.cancel(call)
        self.gateway.left(self)
        for instance in self.instances:
            instance.users.discard(self)
            instance.pause(self, paused=False)
            if instance.owner is self:
                instance.end("its client has gone")
        self.instances.clear()

    def _check(self) -> None:
        if self._held is None and not self.outlet.writable():
            self._hold()

    def _hold(self) -> None:
        """Neither read what there is no room for, nor ask for more of it."""
        self._held = time.monotonic()
        for instance in self.instances:
            instance.pause(self, paused=True)
        self._tell()

    def _resume(self) -> None:
        self._held, self._slow = None, False
        for instance in self.instances:
            instance.pause(self, paused=False)
        self._tell()

    def look(self, now: float) -> None:
        """Once a second: others must not wait for a client that does not read."""
        if self._held is None or self._slow or now - self._held < PATIENCE:
            return
        self._slow = True
        for instance in self.instances:
            if instance.owner is not self:
                instance.pause(self, paused=False)
        for call in list(self.calls.values()):
            if call.instance and call.instance.owner is not self:
                self.cancel(call, line=message.error(bytes(call.spelling), message.BUSY, _SLOW))

    def block(self, process: Process, *, full: bool) -> None:
        """A process does not take more, or does again."""
        (self._full.add if full else self._full.discard)(process)
        self._tell()

    def _tell(self) -> None:
        self.blocked(bool(self._full) or self._held is not None)

    def forget(self, instance: Instance) -> None:
        """A process has ended."""
        self.instances.discard(instance)
        self.known.clear()
        if instance in self._full:
            self.block(instance, full=False)
        self.questions.forget(instance)
