"""One client: its requests to where they belong, its answers to whoever asked, both eras on one connection.

Runs unprivileged. What can be answered without a process is answered here; everything else becomes a Call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

import msgspec

from supervisor.proxy import envelope, eras, local, message
from supervisor.proxy.calls import Call
from supervisor.proxy.instance import Hello, Instance
from supervisor.proxy.message import Fields
from supervisor.proxy.principal import Principal
from supervisor.proxy.servers import NOBODY, Key, Server, Unavailable

if TYPE_CHECKING:
    from supervisor.proxy.endpoint import Route
    from supervisor.proxy.gateway import Gateway
    from supervisor.proxy.listening import Listener

MAX_CALLS = 4096
_BATCH = "batches are gone from the protocol since 2025-06-18: send one message at a time"
_FIRST = f'initialize first, or send params._meta["{eras.VERSION}"] with every request'


class Outlet(Protocol):
    """Where the messages for one client go; see the fronts.

    `about` is the key of the client's own request that a message belongs to, `last` says that it is the answer.
    """

    on_writable: Callable[[], None]

    def deliver(self, line: bytes, about: bytes | None, *, last: bool) -> None: ...
    def writable(self) -> bool: ...


class Conversation:
    """The state of one client. `blocked` is called when a server does not take more, and when it does again."""

    def __init__(self, gateway: Gateway, outlet: Outlet, principal: Principal, only: str | None) -> None:
        self.gateway = gateway
        self.outlet = outlet
        self.principal = principal
        self.only = only
        self.protocol = ""
        self.hello = Hello(eras.LEGACY[-1], message.EMPTY, NOBODY)
        self.calls: dict[bytes, Call] = {}
        self.listeners: dict[bytes, Listener] = {}
        self.instances: set[Instance] = set()
        self.closed = False
        self.blocked: Callable[[bool], None] = lambda _: None
        self._asked: dict[bytes, eras.Answered] = {}
        self._asked_by: dict[tuple[Instance, bytes], bytes] = {}
        self._tokens: dict[bytes, tuple[Instance, msgspec.Raw]] = {}
        self._number = 0
        self._blocking: set[Instance] = set()
        self._paused = False
        outlet.on_writable = self._resume

    @property
    def level(self) -> str:
        """The log level that a legacy client has set; empty: none."""
        return self.hello.level

    def receive(self, line: bytes) -> None:
        """One message of the client's."""
        self.take(line, message.fields(line))

    def take(self, line: bytes, fields: Fields | None) -> None:
        """The same, for a front that has looked at its members already."""
        if fields is None or bytes(fields.get("jsonrpc", b"")) != b'"2.0"':
            self._malformed(line, fields)
            return
        if "method" not in fields:
            self._response(fields)
            return
        method = message.text(fields["method"])
        params = message.fields(fields.get("params", message.EMPTY))
        if method is None or params is None:
            self._malformed(line, fields)
        elif "id" not in fields:
            self._notified(method, params, fields)
        else:
            self._requested(fields, method, params)

    def _malformed(self, line: bytes, fields: Fields | None) -> None:
        known = message.identifier(fields["id"]) if fields and "id" in fields else None
        if fields is not None:
            code, said = message.INVALID_REQUEST, "not a JSON-RPC 2.0 message: jsonrpc, method or params is wrong"
        elif message.is_batch(line):
            code, said = message.INVALID_REQUEST, _BATCH
        else:
            code, said = message.PARSE_ERROR, "this is not a JSON object"
        # an answer to nothing we asked must not be answered
        if fields is None or "method" in fields or "result" not in fields:
            self.outlet.deliver(message.error(known or message.NULL, code, said), known, last=known is not None)

    def _requested(self, fields: Fields, method: str, params: Fields) -> None:
        key = message.identifier(fields["id"])
        if key is None or key in self.calls:
            said = "this request id is in use" if key else "a request id is text or a whole number"
            self.outlet.deliver(
                message.error(key or message.NULL, message.INVALID_REQUEST, said), None, last=key is not None
            )
            return
        meta = message.fields(params["_meta"]) if "_meta" in params else None
        call = Call(self, key, fields, method=method, params=params, meta=meta)
        if call.modern:
            if wrong := eras.problem(meta or {}):
                self.answer(call, message.error(key, *wrong))
                return
        elif not self.protocol and method not in ("initialize", "ping"):
            self.answer(call, message.error(key, message.INVALID_PARAMS, _FIRST))
            return
        local.TABLE[call.modern].get(method, local.unknown)(self, call)

    def answer(self, call: Call, line: bytes) -> None:
        """Answer a request that never left."""
        self.outlet.deliver(line, call.key, last=True)

    def refuse(self, call: Call, code: int, said: str, data: object = None) -> None:
        """Answer a request that never left with an error."""
        self.answer(call, message.error(bytes(call.spelling), code, said, data))

    def use(self, call: Call, route: Route, member: str) -> None:
        """Send a request to the server of a route, if its verdict allows that."""
        if route.verdict.outcome != "allow":
            self.gateway.meter.refused(route.verdict.rule)
            self.refuse(call, message.NOT_ALLOWED, route.verdict.reason)
            return
        call.aim(route, member)
        if call.modern and "requestState" in call.params and self.gateway.parked.resume(call):
            return
        self.forward(call, route.server)

    def forward(self, call: Call, server: Server) -> None:
        """Send a request to a server, starting it if need be."""
        call.server = server
        busy = server.load.get(self.principal.name, 0)
        if busy >= server.settings.quota.calls or len(self.calls) >= MAX_CALLS:
            self.gateway.meter.refused("quota.calls")
            most = min(server.settings.quota.calls, MAX_CALLS)
            said = f"{self.principal.name} has {most} calls in flight (quota.calls, {server.settings.origin})"
            self.refuse(call, message.BUSY, f'server "{server.name}": {said}')
            return
        server.load[self.principal.name] = busy + 1
        self.calls[call.key] = call
        try:
            instance = self.instance(call, server)
        except Unavailable as error:
            call.lost(error.code, str(error))
            return
        call.instance = instance
        server.give(instance, call)

    def instance(self, call: Call, server: Server) -> Instance:
        """The process that serves this call, started if there is none."""
        modern = server.speaks(modern=call.modern)
        key, owner = self._key(call, server, modern=modern)
        found = server.instances.get(key)
        if found is None or found.ending:
            found = server.instance(key, self.principal.name, modern=modern, hello=self._hello(call, server, owner))
            found.owner = owner
            found.blocked = lambda full: self._block(found, full=full)
        self.instances.add(found)
        return found

    def _key(self, call: Call, server: Server, *, modern: bool) -> tuple[Key, Conversation | None]:
        """Who shares a process, and whose it is if it is one client's alone.

        A legacy server ties a client's capabilities, roots and log level to its connection: it is shared only where
        the registry says so.
        """
        share = server.settings.session.share
        if share == "call":
            return (call,), None if call.modern else self
        if share == "server":
            return (modern,), None
        if modern:
            return (modern, self.principal.name), None
        if call.modern:
            capabilities = bytes((call.meta or {}).get(eras.CAPABILITIES, message.EMPTY))
            return (modern, self.principal.name, capabilities), None
        return (self,), self

    def _hello(self, call: Call, server: Server, owner: Conversation | None) -> Hello:
        lists = server.manifest.era(modern=False)
        version = lists.version if lists.version in eras.LEGACY else eras.LEGACY[-1]
        if owner:
            self.hello.version = version
            return self.hello
        if call.modern and server.settings.session.share != "server":
            meta = call.meta or {}
            return Hello(version, meta.get(eras.CAPABILITIES, message.EMPTY), meta.get(eras.CLIENT, NOBODY))
        return Hello(version, message.EMPTY, NOBODY)

    def finish(self, call: Call, line: bytes, *, outcome: str, parked: bool = False) -> None:
        """The answer to a call; nothing happens if the client has cancelled it."""
        if self.calls.get(call.key) is not call:
            return
        self._release(call)
        self.outlet.deliver(line, call.key, last=True)
        if call.server is not None:
            self.gateway.called(call, outcome=outcome)
            if call.instance and not parked and call.server.settings.session.share == "call":
                call.instance.end("its call was answered")
        self._check()

    def _release(self, call: Call) -> None:
        del self.calls[call.key]
        if call.server is not None:
            call.server.load[self.principal.name] -= 1

    def say(self, line: bytes, about: bytes | None) -> None:
        """Something that is not an answer."""
        if not self.closed:
            self.outlet.deliver(line, about, last=False)
            self._check()

    def ask(self, instance: Instance, fields: Fields, method: str, about: bytes | None) -> bool:
        """Pass on what a server asks; whether the client offers that."""
        original = fields["id"]

        def answered(found: Fields) -> None:
            self._asked_by.pop((instance, bytes(original)), None)
            found["id"] = original
            instance.write(message.line(found))

        params = fields.get("params")
        table = message.fields(params) if params is not None else None
        meta = message.fields(table["_meta"]) if table and "_meta" in table else None
        if table and meta and "progressToken" in meta:
            token = b"%d" % (self._number + 1)
            self._tokens[token] = (instance, meta["progressToken"])
            params = message.raw(table | {"_meta": message.raw(meta | {"progressToken": msgspec.Raw(token)})})
        if not self._put(fields | ({} if params is None else {"params": params}), method, about, answered):
            return False
        self._asked_by[instance, bytes(original)] = b"%d" % self._number
        return True

    def question(self, method: str, params: msgspec.Raw, about: bytes | None, answered: eras.Answered) -> bool:
        """Ask the client something of ours; whether it offers that."""
        fields: Fields = {
            "jsonrpc": message.TWO,
            "id": message.EMPTY,
            "method": message.raw(method),
            "params": params,
        }
        return self._put(fields, method, about, answered)

    def _put(self, fields: Fields, method: str, about: bytes | None, answered: eras.Answered) -> bool:
        capability = eras.ASKED.get(method)
        if self.closed or not self.protocol or len(self._asked) >= MAX_CALLS:
            return False
        if capability and capability not in (message.fields(self.hello.capabilities) or {}):
            return False
        self._number += 1
        number = b"%d" % self._number
        self._asked[number] = answered
        self.say(message.line(fields | {"id": msgspec.Raw(number)}), about)
        return True

    def _response(self, fields: Fields) -> None:
        key = message.identifier(fields["id"]) if "id" in fields else None
        answered = self._asked.pop(key, None) if key else None
        if answered and ("result" in fields or "error" in fields):
            answered(fields)

    def withdrawn(self, instance: Instance, fields: Fields, params: Fields) -> None:
        """A server no longer wants to know what it has asked."""
        number = self._asked_by.pop((instance, bytes(params.get("requestId", b""))), None)
        if number and self._asked.pop(number, None):
            fields["params"] = message.raw(params | {"requestId": msgspec.Raw(number)})
            self.say(message.line(fields), None)

    def _notified(self, method: str, params: Fields, fields: Fields) -> None:
        if method == "notifications/cancelled":
            key = message.identifier(params["requestId"]) if "requestId" in params else None
            if key in self.calls:
                self.cancel(self.calls[key], params)
        elif method == "notifications/progress":
            known = self._tokens.get(bytes(params.get("progressToken", b"")))
            if known:
                fields["params"] = message.raw(params | {"progressToken": known[1]})
                known[0].write(message.line(fields))
        elif method != "notifications/initialized":
            for instance in self.instances:
                # of a process that others use as well, one client may not change the state
                if instance.owner is self and instance.ready and (self.only or method in eras.SPREAD):
                    instance.write(message.line(fields))

    def cancel(
        self, call: Call, params: Fields | None = None, line: bytes = b"", outcome: str = "cancelled"
    ) -> None:
        """Nobody waits for the answer any more: the server is told, and the client gets `line`, if anything."""
        listener = self.listeners.pop(call.key, None)
        if listener:
            listener.close()
        self._release(call)
        instance = call.instance
        if instance and call.server and not call.server.withdraw(instance, call):
            instance.pending.pop(call.number, None)
            if instance.ready:
                said = (params or {}) | {"requestId": msgspec.Raw(call.number)}
                instance.write(message.notification("notifications/cancelled", said))
        if call.server:
            self.gateway.called(call, outcome=outcome)
        self.outlet.deliver(line, call.key, last=True)

    def mirrored(self, tool: str) -> Mapping[tuple[str, ...], bytes]:
        """The arguments of a tool that its schema wants repeated in HTTP headers."""
        return self.gateway.endpoint(self).mirrored.get(tool, {})

    def close(self) -> None:
        """The client is gone: what it asked for is cancelled, and what was its alone ends."""
        if self.closed:
            return
        for call in list(self.calls.values()):
            self.cancel(call)
        self.closed = True
        self.gateway.left(self)
        for instance in self.instances:
            instance.pause(self, paused=False)
            if instance.owner is self:
                instance.end("its client has gone")
        self.instances.clear()

    def _check(self) -> None:
        """Do not read what there is no room for."""
        if not self._paused and not self.outlet.writable():
            self._paused = True
            for instance in self.instances:
                instance.pause(self, paused=True)

    def _resume(self) -> None:
        self._paused = False
        for instance in self.instances:
            instance.pause(self, paused=False)

    def _block(self, instance: Instance, *, full: bool) -> None:
        (self._blocking.add if full else self._blocking.discard)(instance)
        self.blocked(bool(self._blocking))

    def forget(self, instance: Instance) -> None:
        """A process has ended."""
        self.instances.discard(instance)
        if instance in self._blocking:
            self._block(instance, full=False)
        for known in [key for key in self._asked_by if key[0] is instance]:
            self._asked.pop(self._asked_by.pop(known), None)

    def timed_out(self, call: Call, seconds: float) -> None:
        """No message about a call for too long: it is cancelled at the server, and the client told."""
        if self.calls.get(call.key) is not call:
            return
        said = f'server "{call.server.name if call.server else ""}" did not answer within {seconds:g} s'
        said = f"{said} (session.answer)"
        line = message.error(bytes(call.spelling), envelope.SERVER_SILENT, said)
        self.cancel(call, line=line, outcome="timeout")
