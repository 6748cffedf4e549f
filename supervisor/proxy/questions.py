"""What a legacy client has been asked and has not answered yet, under ids of its own connection.

Runs unprivileged. Its servers ask, or we do, for a modern server that wants input. Bounded in number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from supervisor.proxy import eras, message
from supervisor.proxy.message import Fields

if TYPE_CHECKING:
    from supervisor.proxy.conversation import Conversation
    from supervisor.proxy.instance import Instance

MOST = 256


class Question(NamedTuple):
    """`about` is the client's call that it belongs to; of a server's, who asks, and its own id and token."""

    answered: eras.Answered
    about: bytes | None
    instance: Instance | None = None
    original: bytes = b""
    token: msgspec.Raw | None = None


class Questions:
    """Those of one client, by the number that it knows them by."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._open: dict[bytes, Question] = {}
        self._number = 0

    def offers(self, method: str) -> bool:
        """Whether the client can be asked that, now."""
        to = self._conversation
        if to.deaf or not to.protocol or len(self._open) >= MOST:
            return False
        capability = eras.ASKED.get(method)
        return capability is None or capability in (message.fields(to.hello.capabilities) or {})

    def ask(self, instance: Instance, fields: Fields, method: str, about: bytes | None) -> bool:
        """Pass on what a server asks; whether the client offers that."""
        if not self.offers(method):
            return False
        original = fields["id"].copy()

        def answered(found: Fields) -> None:
            found["id"] = original
            instance.write(message.line(found))

        params = message.fields(fields.get("params", message.EMPTY)) or {}
        meta = message.fields(params.get("_meta", message.EMPTY)) or {}
        token = meta.get("progressToken")
        if token is not None:
            ours = msgspec.Raw(b"%d" % (self._number + 1))
            fields["params"] = message.raw(params | {"_meta": message.raw(meta | {"progressToken": ours})})
        self._put(Question(answered, about, instance, bytes(original), token and token.copy()), fields)
        return True

    def put(self, method: str, params: msgspec.Raw, about: bytes, answered: eras.Answered) -> None:
        """Ask the client something of ours."""
        fields = {"jsonrpc": message.TWO, "id": message.TWO, "method": message.raw(method), "params": params}
        self._put(Question(answered, about), fields)

    def _put(self, question: Question, fields: Fields) -> None:
        self._number += 1
        number = b"%d" % self._number
        self._open[number] = question
        fields["id"] = msgspec.Raw(number)
        self._conversation.say(message.line(fields), question.about)

    def answer(self, fields: Fields) -> None:
        """The client's answer; nothing happens if nobody has asked."""
        key = message.identifier(fields["id"]) if "id" in fields else None
        question = self._open.pop(key, None) if key else None
        if question:
            question.answered(fields)

    def progress(self, fields: Fields, params: Fields) -> None:
        """How far the client is with an answer; under the server's own token."""
        question = self._open.get(bytes(params.get("progressToken", b"")))
        if question and question.instance and question.token is not None:
            fields["params"] = message.raw(params | {"progressToken": question.token})
            question.instance.write(message.line(fields))

    def withdrawn(self, instance: Instance, fields: Fields, params: Fields) -> None:
        """A server no longer wants to know what it has asked."""
        original = bytes(params.get("requestId", b""))
        for number, each in list(self._open.items()):
            if each.instance is instance and each.original == original:
                del self._open[number]
                fields["params"] = message.raw(params | {"requestId": msgspec.Raw(number)})
                self._conversation.say(message.line(fields), each.about)

    def forget(self, instance: Instance) -> None:
        """A process has ended, and with it what it asked."""
        self._drop({number for number, each in self._open.items() if each.instance is instance})

    def drop(self, about: bytes) -> None:
        """What we have asked for a call matters no more."""
        self._drop({number for number, each in self._open.items() if each.instance is None and each.about == about})

    def _drop(self, numbers: set[bytes]) -> None:
        for number in sorted(numbers):
            question = self._open.pop(number)
            body = {"requestId": msgspec.Raw(number), "reason": "nobody waits for the answer any more"}
            self._conversation.say(message.notification("notifications/cancelled", body), question.about)

    def open_about(self, about: bytes) -> bool:
        """Whether a call waits for its client rather than for its server."""
        return any(each.about == about for each in self._open.values())
