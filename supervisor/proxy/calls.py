"""A client's request on its way to a server and back, across eras where the two differ.

Runs unprivileged. What a legacy server asks its client during a call reaches a modern client as an answer that
wants input, and the other way round; see the specification's multi-round-trip requests.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from supervisor.proxy import envelope, eras, message
from supervisor.proxy.instance import Instance, Waiter
from supervisor.proxy.message import Fields

if TYPE_CHECKING:
    from supervisor.proxy.conversation import Conversation
    from supervisor.proxy.endpoint import Route
    from supervisor.proxy.servers import Server

_ROUNDS = 32
_INPUT = b'"input_required"'


class Call(Waiter):
    """One request that waits for its answer. `name` is what the item is called here, for people."""

    __slots__ = (
        "answers",
        "began",
        "conversation",
        "fields",
        "instance",
        "key",
        "meta",
        "method",
        "modern",
        "name",
        "number",
        "outcome",
        "params",
        "questions",
        "rounds",
        "server",
        "spelling",
        "state",
        "token",
        "touched",
    )

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
        self.spelling = fields["id"]
        self.method = method
        self.params = params
        self.meta = meta
        self.modern = meta is not None and eras.VERSION in meta
        self.name = ""
        self.server: Server | None = None
        self.instance: Instance | None = None
        self.number = b""
        self.token: msgspec.Raw | None = None
        self.began = self.touched = time.monotonic()
        self.rounds = 0
        self.state = ""
        self.questions: dict[str, tuple[msgspec.Raw, str, msgspec.Raw]] = {}
        self.answers: dict[str, msgspec.Raw] = {}
        self.outcome: Fields | None = None

    def aim(self, route: Route, member: str) -> None:
        """Send it to where an exposed name leads, under the name that the server knows."""
        self.server = route.server
        if route.name is not None:
            self.params[member] = route.name
            self.fields["params"] = message.raw(self.params)

    def go(self, instance: Instance) -> None:
        """Send it to a process that is ready."""
        self.instance = instance
        meta = self.meta
        if self.modern != instance.modern:
            meta = self._translated(instance, meta or {})
        if meta is not None and (meta is not self.meta or "progressToken" in meta):
            if "progressToken" in meta:
                self.token = meta["progressToken"]
                meta = meta | {"progressToken": msgspec.Raw(instance.next_id)}
            params = self.params | {"_meta": message.raw(meta)}
            if not meta:
                del params["_meta"]
            self.fields["params"] = message.raw(params)
        self.number = instance.send(self, self.fields)

    def _translated(self, instance: Instance, meta: Fields) -> Fields:
        if self.modern:
            if level := message.text(meta.get(eras.LOG_LEVEL)):
                instance.set_level(level)
            return eras.stripped(meta)
        client = self.conversation.hello
        return eras.stamped(meta, eras.MODERN[0], client.capabilities, client.client, self.conversation.level)

    def answered(self, fields: Fields) -> None:
        """The server's answer."""
        if self.state:
            self.outcome = fields  # the client is still busy with a question of the server's
            return
        instance = self.instance
        if instance is not None and self.modern != instance.modern:
            if instance.modern and "result" in fields and _INPUT in bytes(fields["result"]) and self._ask(fields):
                return
            if self.modern and "result" in fields:
                fields["result"] = eras.completed(fields["result"], self.method, self._server_info())
        if self.server is not None and self.server.makes_tasks and "result" in fields:
            self._note_task(fields["result"])
        fields["id"] = self.spelling
        self.conversation.finish(self, message.line(fields), outcome=message.outcome(fields))

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
            self.outcome = {"jsonrpc": message.TWO, "id": self.spelling, "error": message.raw(body)}
            return
        self.conversation.finish(self, message.error(bytes(self.spelling), code, reason), outcome=str(code))

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
            return self.conversation.ask(instance, fields, method, self.key)
        capability = eras.ASKED.get(method)
        offered = message.fields((self.meta or {}).get(eras.CAPABILITIES, message.EMPTY)) or {}
        if capability is None or capability not in offered:
            return False
        self.questions[f"{self.rounds}-{len(self.questions)}"] = (
            fields["id"],
            method,
            fields.get("params", message.EMPTY),
        )
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
        self.began = self.touched = time.monotonic()
        self.conversation.calls[self.key] = self
        self.state = ""
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
        wanted = message.fields(result.get("inputRequests", message.EMPTY)) or {}
        self.rounds += 1
        if self.rounds > _ROUNDS:
            self.lost(envelope.SERVER_ENDED, f"the server asked for input {_ROUNDS} times in one call")
            return True
        if "requestState" in result:
            self.params["requestState"] = result["requestState"]
        else:
            self.params.pop("requestState", None)
        self.answers = {}
        for name, request in wanted.items():
            table = message.fields(request) or {}
            method = message.text(table.get("method")) or ""
            params = table.get("params", message.EMPTY)
            if not self.conversation.question(method, params, self.key, self._answer_for(name, wanted)):
                self.lost(
                    message.METHOD_NOT_FOUND, f"the server asks for {method}, which this client does not offer"
                )
                return True
        if not wanted:
            self._again()
        return True

    def _answer_for(self, name: str, wanted: Fields) -> eras.Answered:
        def answered(fields: Fields) -> None:
            if self.conversation.calls.get(self.key) is not self:
                return  # cancelled meanwhile
            if "result" not in fields:
                error = message.fields(fields.get("error", message.EMPTY)) or {}
                self.lost(message.INVALID_PARAMS, f"the client refused: {message.text(error.get('message'))}")
                return
            self.answers[name] = fields["result"]
            if len(self.answers) == len(wanted):
                self._again()

        return answered

    def _again(self) -> None:
        self.params["inputResponses"] = message.raw(self.answers)
        self.fields["params"] = message.raw(self.params)
        if self.instance and self.instance.ready:
            self.go(self.instance)
        else:
            self.lost(envelope.SERVER_ENDED, "the server's session has ended while its client was asked")
