"""A client's request on its way to a server and back, across eras where the two differ.

Runs unprivileged. What a legacy server asks its client during a call reaches a modern client as an answer that
wants input, and the other way round; see the specification's multi-round-trip requests.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import msgspec

from supervisor.proxy import envelope, eras, message, sharing
from supervisor.proxy.instance import Instance, Waiter
from supervisor.proxy.message import Fields

if TYPE_CHECKING:
    from supervisor.proxy.auditing import Mark
    from supervisor.proxy.conversation import Conversation
    from supervisor.proxy.endpoint import Route
    from supervisor.proxy.servers import Key, Server
    from supervisor.telemetry.traces import Span

# of one client, at a time
MAX_CALLS = 4096
_ROUNDS = 32
# what one call may want to know at a time, and how many bytes may wait for its client with each answer
_QUESTIONS, _LONGEST = 16, 4 << 20
_INPUT = b'"input_required"'


class Call(Waiter):
    """One request that waits for its answer. `name` is what the item is called here, for people."""

    is_call = True
    name = ""
    server: Server | None = None
    instance: Instance | None = None
    number = b""
    span: Span | None = None
    token: msgspec.Raw | None = None
    mark: Mark | None = None
    exclusive = True
    # what only a call between two eras has
    rounds = 0
    state = ""
    earlier: Span | None = None
    outcome: Fields | None = None
    answers: dict[str, msgspec.Raw]

    def __init__(
        self,
        conversation: Conversation,
        key: bytes,
        fields: Fields,
        *,
        method: str,
        params: Fields,
        meta: Fields | None,
    ) -> None:
        self.conversation = conversation
        self.key = key
        self.fields = fields
        # nothing that stays refers to the whole message
        self.spelling = fields["id"].copy()
        self.method = method
        self.params = params
        self.meta = meta
        self.modern = meta is not None and eras.VERSION in meta
        self.began = self.touched = time.monotonic()
        self.questions: dict[str, tuple[msgspec.Raw, str, msgspec.Raw]] = {}

    @property
    def asked_at(self) -> float:
        return self.touched if self.state else math.inf

    def aim(self, route: Route, member: str) -> None:
        """Send it to where an exposed name leads, under the name that the server knows."""
        self.server = route.server
        if route.name is not None:
            self.params[member] = route.name

    def place(self, server: Server) -> tuple[Key, Conversation | None]:
        """Who shares the process that it goes to, and whose that is if it is one client's alone.

        A legacy server ties a client's capabilities, roots and log level to its connection: it is shared only where
        the registry says so.
        """
        to, share, modern = self.conversation, server.settings.session.share, server.modern[self.modern]
        if share == "call":
            return (self,), None if self.modern else to
        if share == "server":
            return (modern,), None
        if not modern and not self.modern:
            return (to,), to
        if modern:
            return (modern, to.principal.name), None
        capabilities = bytes((self.meta or {}).get(eras.CAPABILITIES, message.EMPTY))
        return sharing.vacant(server, (modern, to.principal.name, capabilities)), None

    def go(self, instance: Instance) -> None:
        """Send it to a process that is ready, when it is written down that this will be done."""
        self.instance = instance
        audit = self.conversation.gateway.audit
        if audit is not None and self.mark is None and self.server is not None:
            audit.intend(self, self.server)
            return
        fields, params, meta = self.fields, self.params, self.meta
        if self.modern != instance.modern:
            meta = self._translated(instance, meta or {})
            params = params | {"_meta": message.raw(meta)}
            if not meta:
                del params["_meta"]
        tracing = self.conversation.gateway.tracing
        if tracing is not None:
            meta = tracing.outgoing(self, instance, meta or {})
            params = params | {"_meta": message.raw(meta)}
        if meta and (token := _token(meta)):
            self.token = token
            meta = meta | {"progressToken": msgspec.Raw(instance.next_id)}
            params = params | {"_meta": message.raw(meta)}
        if audit is not None:
            audit.sent(self, instance)
        # also where nothing is rewritten: of two members with one name, the server must see the one that we saw
        self.number = instance.send(self, fields, params if params or "params" in fields else None)
        if self.modern or not instance.modern:
            # it is not sent again: what it carries may be long, and its answer may take long
            self.fields = self.params = {}
            if self.meta is not None:
                self._keep_meta(self.meta)

    def _keep_meta(self, meta: Fields) -> None:
        kept = (eras.CAPABILITIES, eras.LOG_LEVEL)
        self.meta = {key: value.copy() for key, value in meta.items() if key in kept}

    def _translated(self, instance: Instance, meta: Fields) -> Fields:
        if self.modern:
            if level := message.text(meta.get(eras.LOG_LEVEL)):
                instance.lower_level(level)
            return eras.stripped(meta)
        client = self.conversation.hello
        return eras.stamped(meta, eras.MODERN[0], client.capabilities, client.client, client.level)

    def answered(self, fields: Fields) -> None:
        """The server's answer."""
        if self.state:
            self._keep(fields)  # the client is still busy with a question of the server's
            return
        instance = self.instance
        if instance is not None:
            instance.used = self.touched = time.monotonic()
            if self.modern != instance.modern and "result" in fields and self._bridged(instance, fields):
                return
        if self.server is not None and self.server.makes_tasks and "result" in fields:
            self._note_task(fields["result"])
        fields["id"] = self.spelling
        self.conversation.finish(self, message.line(fields), outcome=message.outcome(fields))

    def _bridged(self, instance: Instance, fields: Fields) -> bool:
        """Make a result one of the client's era; whether it is not for the client at all."""
        if instance.modern:
            return _INPUT in bytes(fields["result"]) and self._ask(fields)
        fields["result"] = eras.completed(fields["result"], self.method, self._server_info())
        return False

    def _note_task(self, result: msgspec.Raw) -> None:
        """A task is asked for by its id alone: remember who made it."""
        table = message.fields(result) or {}
        table = message.fields(table["task"]) or {} if "task" in table else table
        if task := message.text(table.get("taskId")):
            self.conversation.gateway.parked.issue(self, task)

    def _server_info(self) -> msgspec.Raw | None:
        if self.server is None:
            return None
        pinned = self.server.manifest.era(modern=False)
        return eras.server_info(pinned.handshake, modern="legacy" not in self.server.manifest.eras)

    def lost(self, code: int, reason: str) -> None:
        """There will be no answer; the client is told why."""
        if self.state:
            body = {"code": code, "message": reason}
            self._keep({"jsonrpc": message.TWO, "id": self.spelling, "error": message.raw(body)})
            return
        self.conversation.finish(self, message.error(bytes(self.spelling), code, reason), outcome=str(code))

    def _keep(self, fields: Fields) -> None:
        """An answer that waits for its client to come back."""
        if sum(len(bytes(each)) for each in fields.values()) > _LONGEST:
            said = f"the answer is over {_LONGEST} bytes, and came before its client's"
            fields = {"jsonrpc": message.TWO, "error": message.raw({"code": envelope.TOO_LONG, "message": said})}
        self.outcome = fields

    def progressed(self, fields: Fields, params: Fields) -> None:
        """The server tells how far it is; under the client's own token."""
        self.touched = time.monotonic()
        if self.token is not None and not self.state:
            fields["params"] = message.raw(params | {"progressToken": self.token})
            self.conversation.say(message.line(fields), self.key)

    def asked(self, instance: Instance, fields: Fields, method: str) -> bool:
        """The server asks its client something during this call; whether that client can be asked."""
        self.touched = time.monotonic()
        if not self.modern:
            return self.conversation.questions.ask(instance, fields, method, self.key)
        capability = eras.ASKED.get(method)
        offered = message.fields((self.meta or {}).get(eras.CAPABILITIES, message.EMPTY)) or {}
        params = fields.get("params", message.EMPTY)
        if capability is None or capability not in offered:
            return False
        if len(self.questions) >= _QUESTIONS or len(bytes(params)) > _LONGEST:
            return False
        self.questions[f"{self.rounds}-{len(self.questions)}"] = (fields["id"], method, params)
        if not self.state:
            self._park()
        return True

    def _park(self) -> None:
        """Answer a modern client with the server's questions; the server's own answer waits for its retry."""
        self.rounds += 1
        asked = {name: {"method": method, "params": params} for name, (_, method, params) in self.questions.items()}
        self.state = self.conversation.gateway.parked.park(self)
        body = {"resultType": "input_required", "inputRequests": asked, "requestState": self.state}
        line = message.result(bytes(self.spelling), message.encode(body))
        self.conversation.finish(self, line, outcome="ok", parked=True)

    def resume(self, retry: Call) -> None:
        """The client came back with answers: it is this call that goes on, under the new id."""
        self.conversation, self.key, self.spelling = retry.conversation, retry.key, retry.spelling
        self.mark, retry.mark = retry.mark, None
        self.token = _token(retry.meta)
        self.began = self.touched = time.monotonic()
        self.state = ""
        self.conversation.hold(self)
        if (tracing := self.conversation.gateway.tracing) is not None:
            tracing.resumed(self, retry)
        audit = self.conversation.gateway.audit
        if audit is not None and self.instance:
            audit.sent(self, self.instance)
        given = message.fields(retry.params.get("inputResponses", message.EMPTY)) or {}
        for name in list(self.questions):
            if name in given and self.instance:
                request_id, _, _ = self.questions.pop(name)
                self.instance.write(message.result(bytes(request_id), bytes(given[name])))
        outcome, self.outcome = self.outcome, None
        if outcome is not None:
            self.answered(outcome)
        elif self.questions:
            self._park()

    def _ask(self, fields: Fields) -> bool:
        """Ask a legacy client what a modern server wants to know, and call again with the answers."""
        result = message.fields(fields["result"]) or {}
        if message.text(result.get("resultType")) != "input_required":
            return False
        self.rounds += 1
        if self.rounds > _ROUNDS:
            self.lost(envelope.SERVER_ENDED, f"the server asked for input {_ROUNDS} times in one call")
            return True
        if "requestState" in result:
            self.params["requestState"] = result["requestState"]
        else:
            self.params.pop("requestState", None)
        wanted: dict[str, tuple[str, msgspec.Raw]] = {}
        for name, request in (message.fields(result.get("inputRequests", message.EMPTY)) or {}).items():
            table = message.fields(request) or {}
            method = message.text(table.get("method")) or ""
            if method not in eras.ASKED or not self.conversation.questions.offers(method):
                said = f"the server asks for {method[:200]}, which this client does not offer"
                self.lost(message.METHOD_NOT_FOUND, said)
                return True
            wanted[name] = method, table.get("params", message.EMPTY)
        self._put(wanted)
        return True

    def _put(self, wanted: dict[str, tuple[str, msgspec.Raw]]) -> None:
        if len(wanted) > _QUESTIONS:
            self.lost(envelope.TOO_MANY, f"the server asks {len(wanted)} questions at once; {_QUESTIONS} may be")
            return
        self.answers = {}
        for name, (method, params) in wanted.items():
            self.conversation.questions.put(method, params, self.key, self._answer_for(name, len(wanted)))
        if not wanted:
            self._again()

    def _answer_for(self, name: str, wanted: int) -> eras.Answered:
        def answered(fields: Fields) -> None:
            if "result" in fields:
                self.answers[name] = fields["result"]
                if len(self.answers) == wanted:
                    self._again()
                return
            error = message.fields(fields.get("error", message.EMPTY)) or {}
            self.conversation.questions.drop(self.key)
            self.lost(message.INVALID_PARAMS, f"the client refused: {message.text(error.get('message'))}")

        return answered

    def _again(self) -> None:
        """Call with the answers: whichever process there is, because a modern one keeps nothing between calls."""
        self.touched = time.monotonic()
        self.params["inputResponses"] = message.raw(self.answers)
        if self.server is not None:
            self.conversation.dispatch(self, self.server)


def _token(meta: Fields | None) -> msgspec.Raw | None:
    """The progress token in a `_meta`, of whatever type; null is none."""
    token = (meta or {}).get("progressToken")
    return None if token is None or bytes(token) == message.NULL else token.copy()
