"""Who wants to hear of what: subscriptions to resources and lists, across eras where the two differ.

Runs unprivileged. One subscription at a server serves everybody here who asked for the same resource there.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import msgspec

from supervisor.errors import SessionLost, SupervisorError
from supervisor.proxy import eras, message
from supervisor.proxy.instance import Instance, Waiter
from supervisor.proxy.message import Fields

if TYPE_CHECKING:
    from supervisor.proxy.calls import Call

# list_changed notification: the member of a filter that asks for it
CHANGED = {
    "notifications/tools/list_changed": "toolsListChanged",
    "notifications/prompts/list_changed": "promptsListChanged",
    "notifications/resources/list_changed": "resourcesListChanged",
}
UPDATED = "notifications/resources/updated"
# resources that one request, and that all together, may hear of
MOST, MOST_OF_ONE_PROCESS = 1024, 4096
# the resource that has changed, and the message that says so
_Hear = Callable[[str, Fields], None]


class Stream(Waiter):
    """A `subscriptions/listen` of ours at a modern server; it stays open as long as somebody listens."""

    def __init__(self, instance: Instance, filters: Mapping[str, object], over: Callable[[], None]) -> None:
        meta = eras.stamped({}, eras.MODERN[0], instance.hello.capabilities, instance.hello.client, "")
        fields: Fields = {
            "jsonrpc": message.TWO,
            "method": message.raw("subscriptions/listen"),
            "params": message.raw({"notifications": filters, "_meta": meta}),
        }
        self.instance = instance
        self.over = over
        self.number = instance.send(self, fields)

    def answered(self, fields: Fields) -> None:
        """The server has ended it, or never began."""
        self.over()

    @property
    def is_work(self) -> bool:
        return False

    def close(self) -> None:
        """Nobody listens any more."""
        if self.instance.pending.pop(self.number, None):
            body = {"requestId": msgspec.Raw(self.number)}
            self.instance.write(message.notification("notifications/cancelled", body))


class Subscriptions:
    """Those to the resources of one process: uri -> who hears of it; `ended` is told who no longer does."""

    def __init__(self, instance: Instance, ended: Callable[[object], None]) -> None:
        self.instance = instance
        self._ended = ended
        self._hearers: dict[str, dict[object, _Hear]] = {}
        self._streams: dict[str, Stream] = {}
        self._asked: dict[str, asyncio.Future[msgspec.Raw]] = {}
        self._lists: Stream | None = None

    def watch_lists(self) -> None:
        """Hear of changed lists: a modern server tells only who has asked."""
        if self.instance.modern and self._lists is None:
            self._lists = Stream(self.instance, dict.fromkeys(CHANGED.values(), True), lambda: None)

    async def add(self, uri: str, who: object, hear: _Hear) -> None:
        """Subscribe `who`; SupervisorError when the server does not take it."""
        if self.instance.gone:
            raise SessionLost(self.instance.gone)
        if uri not in self._hearers and len(self._hearers) >= MOST_OF_ONE_PROCESS:
            raise SupervisorError(f"{MOST_OF_ONE_PROCESS} resources of this server are subscribed to")
        hearers = self._hearers.setdefault(uri, {})
        first = not hearers
        hearers[who] = hear
        self.instance.holders.add(who)
        if self.instance.modern:
            if first:
                over = functools.partial(self._over, uri)
                self._streams[uri] = Stream(self.instance, {"resourceSubscriptions": [uri]}, over)
            return
        if first:
            self._asked[uri] = asyncio.ensure_future(self.instance.ask("resources/subscribe", {"uri": uri}))
        # who comes meanwhile gets the same answer
        if asked := self._asked.get(uri):
            await self._answered(asked, uri, who)

    async def _answered(self, asked: asyncio.Future[msgspec.Raw], uri: str, who: object) -> None:
        try:
            await asyncio.shield(asked)
        except (SupervisorError, asyncio.CancelledError):
            self.remove(uri, who, tell=False)
            raise
        finally:
            if asked.done() or uri not in self._hearers:
                asked.cancel()
                self._asked.pop(uri, None)

    def remove(self, uri: str, who: object, *, tell: bool = True) -> None:
        """Unsubscribe `who`."""
        hearers = self._hearers.get(uri, {})
        if hearers.pop(who, None) is None:
            return
        if not any(who in each for each in self._hearers.values()):
            self.instance.holders.discard(who)
        if hearers:
            return
        del self._hearers[uri]
        stream = self._streams.pop(uri, None)
        if stream:
            stream.close()
        elif tell and self.instance.ready:
            self.instance.tell("resources/unsubscribe", {"uri": uri})

    def _over(self, uri: str) -> None:
        for who in list(self._hearers.get(uri, {})):
            self.remove(uri, who)
            self._ended(who)

    def remove_all(self, who: object) -> None:
        """`who` is gone."""
        for uri in list(self._hearers):
            self.remove(uri, who)

    def updated(self, uri: str, fields: Fields) -> None:
        """The server says that a resource, or a part of it, has changed."""
        for subscribed, hearers in list(self._hearers.items()):
            if uri == subscribed or uri.startswith(subscribed.rstrip("/") + "/"):
                for hear in list(hearers.values()):
                    hear(uri, fields)


class Listener:
    """A modern client's `subscriptions/listen`: what it asked for, and its id, which is in every message to it."""

    def __init__(self, call: Call, wanted: Fields) -> None:
        self.call = call
        self.lists = {name for name in CHANGED.values() if bytes(wanted.get(name, b"")) == b"true"}
        self.uris = [
            text for each in message.items(wanted.get("resourceSubscriptions")) if (text := message.text(each))
        ]
        self.honoured: list[str] = []
        # what happened before the first message, in order and once
        self._early: dict[tuple[str, str], Fields] | None = {}
        self.subscriptions: list[Subscriptions] = []

    @property
    def tag(self) -> dict[str, object]:
        """The `_meta` of everything on this stream."""
        return {eras.SUBSCRIPTION: self.call.spelling}

    def acknowledge(self) -> None:
        """The first message: what of the wishes will be heard of."""
        agreed: dict[str, object] = dict.fromkeys(sorted(self.lists), True)
        if self.uris:
            agreed["resourceSubscriptions"] = self.honoured
        early, self._early = self._early, None
        self._say("notifications/subscriptions/acknowledged", {"notifications": agreed})
        for (method, uri), fields in (early or {}).items():
            self._pass(method, uri, fields)

    def changed(self, method: str) -> None:
        """A list is another now."""
        if CHANGED.get(method) in self.lists:
            self._tell(method, "", {})

    def updated(self, uri: str, fields: Fields) -> None:
        """A resource has changed; under its exposed name, what else the server says of that as it is."""
        self._tell(UPDATED, uri, fields)

    def _tell(self, method: str, uri: str, fields: Fields) -> None:
        if self._early is None:
            self._pass(method, uri, fields)
        else:
            self._early[method, uri] = fields

    def _pass(self, method: str, uri: str, fields: Fields) -> None:
        if not fields:
            self._say(method, {})
            return
        line = message.line(fields | {"params": retold(fields, uri, self.call.spelling)})
        self.call.conversation.say(line, self.call.key)

    def _say(self, method: str, params: dict[str, object]) -> None:
        line = message.notification(method, params | {"_meta": self.tag})
        self.call.conversation.say(line, self.call.key)

    def close(self) -> None:
        """Unsubscribe from everything."""
        for each in self.subscriptions:
            each.remove_all(self)

    def end(self) -> None:
        """We end it: the only answer such a request gets."""
        body = message.encode({"resultType": "complete", "_meta": self.tag})
        self.close()
        self.call.conversation.finish(self.call, message.result(bytes(self.call.spelling), body), outcome="ok")


def retold(fields: Fields, uri: str, subscription: msgspec.Raw | None) -> msgspec.Raw:
    """The params of a server's news under the name and the subscription that a client knows."""
    params = message.fields(fields.get("params", message.EMPTY)) or {}
    meta = message.fields(params.get("_meta", message.EMPTY)) or {}
    meta.pop(eras.SUBSCRIPTION, None)
    if subscription is not None:
        meta[eras.SUBSCRIPTION] = subscription
    params["uri"] = message.raw(uri)
    params.pop("_meta", None)
    return message.raw(params | ({"_meta": message.raw(meta)} if meta else {}))
