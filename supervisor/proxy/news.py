"""Subscriptions of clients, brought to the servers that they are about, and what those tell brought back.

Runs unprivileged.
"""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING

from supervisor.errors import SessionLost, SupervisorError
from supervisor.proxy import envelope, listening, message
from supervisor.proxy.calls import Call
from supervisor.proxy.envelope import RequestFailed
from supervisor.proxy.instance import Instance
from supervisor.proxy.listening import Listener, Subscriptions
from supervisor.proxy.message import Fields
from supervisor.proxy.servers import Server, Unavailable

if TYPE_CHECKING:
    from supervisor.proxy.conversation import Conversation
    from supervisor.proxy.endpoint import Route
    from supervisor.proxy.gateway import Gateway


class News:
    """By process: who has subscribed to what of it."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._of: dict[Instance, Subscriptions] = {}

    def of(self, instance: Instance) -> Subscriptions:
        """Those of one process; SessionLost when it has ended."""
        if instance.gone:
            raise SessionLost(instance.gone)
        return self._of.setdefault(instance, Subscriptions(instance, self._ended))

    def subscribe(self, conversation: Conversation, call: Call, route: Route) -> None:
        """resources/subscribe and unsubscribe of a legacy client."""
        server = route.server
        if server.modern[False] or server.settings.session.share == "server":
            conversation.forward(call, server, lambda *_: self._begin(conversation, call, route))
            return
        call.aim(route, "uri")
        conversation.forward(call, server, _hold)

    def _begin(self, conversation: Conversation, call: Call, route: Route) -> None:
        self._gateway.spawn(self._subscribe(conversation, call, route))

    async def _subscribe(self, conversation: Conversation, call: Call, route: Route) -> None:
        exposed, uri = call.name, message.text(route.name) or call.name

        def hear(changed: str, fields: Fields) -> None:
            params = listening.retold(fields, exposed if changed == uri else changed, None)
            conversation.say(message.line(fields | {"params": params}), None)

        try:
            subscriptions = await self._ready(conversation, call, route.server)
            if call.method == "resources/subscribe":
                await subscriptions.add(uri, conversation, hear)
            else:
                subscriptions.remove(uri, conversation)
        except SupervisorError as error:
            line = _refusal(call, error)
        else:
            line = message.result(bytes(call.spelling), b"{}")
            if conversation.closed:
                subscriptions.remove_all(conversation)
        conversation.finish(call, line, outcome=message.outcome(message.fields(line) or {}))

    def listen(self, conversation: Conversation, call: Call, wanted: Fields) -> None:
        """subscriptions/listen of a modern client: open until one of us ends it."""
        conversation.hold(call)
        listener = conversation.listeners[call.key] = Listener(call, wanted)
        self._gateway.spawn(self._listen(conversation, listener))

    async def _listen(self, conversation: Conversation, listener: Listener) -> None:
        endpoint = conversation.endpoint
        for exposed in listener.uris:
            route = endpoint.resource(exposed)
            if route is None or route.judged(None).outcome != "allow":
                continue  # not in the acknowledgement: that is how a client is told
            if await self._heard(conversation, listener, exposed, route):
                listener.honoured.append(exposed)
            if conversation.calls.get(listener.call.key) is not listener.call:
                listener.close()
                return
        for server in endpoint.servers if listener.lists else []:
            for instance in server.instances.values():
                if instance.ready:
                    self.of(instance).watch_lists()
        listener.acknowledge()

    async def _heard(self, conversation: Conversation, listener: Listener, exposed: str, route: Route) -> bool:
        """Subscribe at the server; whether that could be done."""
        hear = functools.partial(_updated, listener, exposed)
        try:
            async with asyncio.timeout(route.server.settings.session.answer):
                subscriptions = await self._ready(conversation, listener.call, route.server)
                await subscriptions.add(message.text(route.name) or exposed, listener, hear)
        except (SupervisorError, TimeoutError):
            return False
        listener.subscriptions.append(subscriptions)
        return True

    async def _ready(self, conversation: Conversation, call: Call, server: Server) -> Subscriptions:
        """Those of the process for a call of that client, ready; SupervisorError when it cannot be had."""
        waiting = Ready()
        conversation.instance(call, server).give(waiting)
        return self.of(await waiting.future)

    def started(self, instance: Instance) -> None:
        """A process is ready: somebody may have asked for news of lists before."""
        if any(listener.lists for each in self._gateway.conversations for listener in each.listeners.values()):
            self.of(instance).watch_lists()

    def updated(self, server: Server, instance: Instance, fields: Fields, params: Fields) -> None:
        """A server says that a resource has changed."""
        uri = message.text(params.get("uri")) or ""
        if instance.owner and instance not in self._of:
            exposed = instance.owner.endpoint.alias(server, uri)
            if exposed != uri:
                fields["params"] = message.raw(params | {"uri": exposed})
            instance.owner.say(message.line(fields), None)
        elif instance in self._of:
            self._of[instance].updated(uri, fields)

    def changed(self, method: str, server: Server | None) -> None:
        """A list is another now, for everybody who sees that server."""
        for each in list(self._gateway.conversations):
            if server is not None and each.only not in (None, server.name):
                continue
            if each.protocol:
                each.say(message.notification(method, {}), None)
            for listener in list(each.listeners.values()):
                listener.changed(method)

    def left(self, conversation: Conversation) -> None:
        """A client is gone."""
        for each in list(self._of.values()):
            each.remove_all(conversation)

    def over(self, instance: Instance) -> None:
        """A process has ended: streams that rested on it end as well."""
        self._of.pop(instance, None)
        for conversation in list(self._gateway.conversations):
            for listener in list(conversation.listeners.values()):
                if any(each.instance is instance for each in listener.subscriptions):
                    self.end(conversation, listener)

    def _ended(self, who: object) -> None:
        """A server has ended a subscription: a modern client can be told, a legacy one cannot."""
        if isinstance(who, Listener):
            self.end(who.call.conversation, who)

    def end(self, conversation: Conversation, listener: Listener) -> None:
        """We end a stream."""
        conversation.listeners.pop(listener.call.key, None)
        listener.end()


def _refusal(call: Call, error: SupervisorError) -> bytes:
    """An error of the server's as it is, and one of ours."""
    if isinstance(error, RequestFailed):
        return message.line({"jsonrpc": message.TWO, "id": call.spelling, "error": error.error})
    code = error.code if isinstance(error, Unavailable) else envelope.SERVER_ENDED
    return message.error(bytes(call.spelling), code, str(error))


def _updated(listener: Listener, exposed: str, _: str, fields: Fields) -> None:
    listener.updated(exposed, fields)


class Ready:
    """Somebody who waits for a process, and not for an answer of it."""

    exclusive = False

    def __init__(self) -> None:
        self.future: asyncio.Future[Instance] = asyncio.get_running_loop().create_future()

    def go(self, instance: Instance) -> None:
        """It is there."""
        if not self.future.done():
            self.future.set_result(instance)

    def lost(self, code: int, reason: str) -> None:
        """It will not be."""
        if not self.future.done():
            self.future.set_exception(Unavailable(code, reason))

    def asked(self, instance: Instance, fields: Fields, method: str) -> bool:
        """It is no client."""
        return False


def _hold(call: Call, server: Server) -> None:
    """A subscription keeps its process from being idle."""
    call.conversation.dispatch(call, server)
    if call.instance:
        holders = call.instance.holders
        if call.method == "resources/unsubscribe":
            holders.discard(call.name)
        elif len(holders) < listening.MOST_OF_ONE_PROCESS:
            holders.add(call.name)
