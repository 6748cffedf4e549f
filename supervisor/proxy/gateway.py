"""The gateway: every server of the registry behind one endpoint, started when it is first needed.

Runs unprivileged, in one event loop. It holds what several clients have in common: servers, endpoints, calls that
wait for their client's word, subscriptions; and looks after all of it once a second.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterator
from typing import Protocol

from supervisor.errors import SupervisorError
from supervisor.proxy import eras, listening, local, manifests, message, pump, settings
from supervisor.proxy.calls import Call
from supervisor.proxy.care import Care
from supervisor.proxy.channel import Channel
from supervisor.proxy.conversation import Conversation, Outlet
from supervisor.proxy.endpoint import Endpoint
from supervisor.proxy.instance import Instance
from supervisor.proxy.journal import Journal
from supervisor.proxy.link import Exited
from supervisor.proxy.message import Fields
from supervisor.proxy.news import News
from supervisor.proxy.parked import Parked
from supervisor.proxy.principal import Principal
from supervisor.proxy.servers import Server


class Meter(Protocol):
    """Who counts what happens. A tool is counted as what it is called here, any other request by its method.

    Outcome: "ok", "tool_error" (an answer that says so), "cancelled", "timeout", or the code of a JSON-RPC error.
    """

    def called(self, server: str, tool: str, seconds: float, *, outcome: str) -> None: ...
    def refused(self, rule: str) -> None: ...
    def started(self, server: str, seconds: float) -> None: ...


class Gateway:
    """See the module. `only`, if given, is the one server that is asked for at all."""

    def __init__(self, channel: Channel, meter: Meter, journal: Journal, only: str | None = None) -> None:
        self.channel = channel
        self.meter = meter
        self.journal = journal
        self.servers: dict[str, Server] = {}
        self.conversations: set[Conversation] = set()
        self.stopping = False
        self._only = only
        self._texts: dict[str, tuple[str, str, str]] = {}
        self._endpoints: dict[str | None, Endpoint] = {}
        self.parked = Parked()
        self.news = News(self)
        self._care = Care(self)
        self._tasks: set[asyncio.Task[None]] = set()
        channel.ended = self._exited
        channel.refused = self._refused
        channel.reloaded = lambda: self.spawn(self._reload())

    async def load(self) -> list[str]:
        """Ask for the servers and make the endpoints; what could not be used, a line each."""
        answer, _ = await self.channel.ask("list")
        listed = answer.get("servers")
        names = {
            str(each["name"]): str(each["profile"])
            for each in (listed if isinstance(listed, list) else [])
            if isinstance(each, dict)
        }
        found: dict[str, Server] = {}
        problems = []
        for name in list(names) if self._only is None else [self._only]:
            try:
                found[name] = await self._server(name)
                found[name].profile = names.get(name, "")
            except SupervisorError as error:
                problems.append(str(error))
        old, self.servers = self.servers, found
        self._endpoints = {name: Endpoint([server], single=True) for name, server in found.items()}
        self._endpoints[None] = Endpoint(list(found.values()), single=False)
        for name, server in old.items():
            if found.get(name) is not server:
                if name not in found:
                    self._texts.pop(name, None)
                self.spawn(server.stop("its configuration has changed"))
        return problems

    async def _server(self, name: str) -> Server:
        answer, fds = await self.channel.ask("describe", server=name)
        pinned = b""
        for fd in fds:
            with open(fd, "rb") as file:
                pinned = file.read(manifests.MAX_BYTES + 1)
        text, digest = str(answer.get("gateway", "{}")), str(answer.get("manifest", ""))
        identity = (text, digest, str(answer.get("spec", "")))
        known = self.servers.get(name)
        if known is not None and self._texts.get(name) == identity:
            self._halt(known, stopped=bool(answer.get("stopped")))
            return known
        if not digest or not pinned or len(pinned) > manifests.MAX_BYTES:
            raise SupervisorError(f'server "{name}" is not pinned, and not offered: supervisor pin {name}')
        made = Server(
            name, settings.decode(text, name), manifests.decode(pinned, f"pins/{name}.json"), self.channel
        )
        made.notified = self._notified
        made.stderr = self.journal.add
        made.ended = self._over
        made.started = self._started
        self._texts[name] = identity
        self._halt(made, stopped=bool(answer.get("stopped")))
        return made

    def _halt(self, server: Server, *, stopped: bool) -> None:
        """An operator has stopped a server, or started it again."""
        if stopped and not server.stopped:
            self.spawn(server.stop("stopped by the operator"))
        elif server.stopped and not stopped:
            server.revive()
        server.stopped = stopped

    def _started(self, server: Server, instance: Instance, seconds: float) -> None:
        self.meter.started(server.name, seconds)
        self.news.started(instance)

    async def _reload(self) -> None:
        """The configuration has changed, or an operator has started a server again."""
        before = dict(self.servers)
        try:
            problems = await self.load()
        except SupervisorError as error:
            problems = [str(error)]
        for each in problems:
            pump.note(each)
        for server in self.servers.values():
            if server.state == "DEAD":
                server.revive()
        if before != self.servers:
            for method in listening.CHANGED:
                self.news.changed(method, None)

    def conversation(self, outlet: Outlet, principal: Principal, only: str | None) -> Conversation:
        """A new client."""
        made = Conversation(self, outlet, principal, only or self._only)
        self.conversations.add(made)
        return made

    def knows(self, principal: Principal, server: str) -> bool:
        """Whether there is an endpoint for that server alone."""
        return server in self._endpoints

    def endpoint(self, conversation: Conversation) -> Endpoint:
        """What a client sees; of a server that is gone, nothing."""
        found = self._endpoints.get(conversation.only)
        return found or Endpoint([], single=False)

    def left(self, conversation: Conversation) -> None:
        """A client is gone."""
        self.conversations.discard(conversation)
        self.news.left(conversation)

    def called(self, call: Call, *, outcome: str) -> None:
        """A call has come to its end."""
        if call.server is not None:
            call.server.calls += 1
            seconds = time.monotonic() - call.began
            self.meter.called(call.server.name, local.label(call.method, call.name), seconds, outcome=outcome)

    # what servers say by themselves

    def _notified(self, server: Server, instance: Instance, method: str, fields: Fields) -> None:
        params = message.fields(fields.get("params", message.EMPTY)) or {}
        if method == listening.UPDATED:
            self.news.updated(server, instance, fields, params)
        elif method in listening.CHANGED:
            self.spawn(self._recheck(server, instance, method))
        elif method == "notifications/cancelled":
            for each in [instance.owner] if instance.owner else self._users(instance):
                each.withdrawn(instance, fields, params)
        elif method == "notifications/message":
            self._logged(instance, fields, params)
        elif instance.owner:
            instance.owner.say(message.line(fields), None)
        else:
            for each in set(self._users(instance)):
                each.say(message.line(fields), None)

    def _users(self, instance: Instance) -> Iterator[Conversation]:
        """The clients that have a call at this process."""
        for waiter in list(instance.pending.values()):
            if isinstance(waiter, Call):
                yield waiter.conversation

    def _logged(self, instance: Instance, fields: Fields, params: Fields) -> None:
        """A log message: to the owner, or to whoever asked for logs with a call that is under way."""
        level = message.text(params.get("level"))
        number = eras.LEVELS.index(level) if level in eras.LEVELS else 0
        for waiter in reversed(instance.pending.values()):
            if not isinstance(waiter, Call):
                continue
            wanted = message.text((waiter.meta or {}).get(eras.LOG_LEVEL)) if waiter.modern else eras.LEVELS[0]
            if wanted in eras.LEVELS and eras.LEVELS.index(wanted) <= number:
                waiter.conversation.say(message.line(fields), waiter.key)
                return
        if instance.owner:
            instance.owner.say(message.line(fields), None)

    async def _recheck(self, server: Server, instance: Instance, method: str) -> None:
        """A server says that a list has changed: only if it is still as it was pinned does it go on."""
        try:
            async with asyncio.timeout(server.settings.session.start):
                await server.compare(instance, server.manifest.era(modern=instance.modern).handshake)
        except (SupervisorError, TimeoutError) as error:
            if instance.ready and server.drift:
                pump.note(f'server "{server.name}": {error}')
                server.unwell(instance, str(error))
            return
        if instance.owner:
            instance.owner.say(message.notification(method, {}), None)
        else:
            self.news.changed(method, server)

    # the end of processes

    def _exited(self, ended: Exited) -> None:
        for server in self.servers.values():
            if server.owns(ended.session):
                server.exited(ended)
                return

    def _over(self, instance: Instance) -> None:
        """A process has ended: nobody may wait for it any more."""
        self._care.over(instance)
        self.news.over(instance)
        for conversation in self.conversations:
            conversation.forget(instance)

    def _refused(self, session: int, said: str) -> None:
        for server in self.servers.values():
            if server.owns(session):
                pump.note(pump.printable(f"{server.name}: {said}"))

    def start(self) -> None:
        """Look after everything from now on."""
        self.spawn(self._care.run())

    def spawn(self, coroutine: Coroutine[None, None, None]) -> None:
        """Run something beside everything else, until it or we end."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Answer what can be answered within a bound, end every process, hang up."""
        self.stopping = True
        for conversation in list(self.conversations):
            for listener in list(conversation.listeners.values()):
                self.news.end(conversation, listener)
        await asyncio.gather(*(each.stop("the gateway has ended") for each in self.servers.values()))
        for task in self._tasks:
            task.cancel()
        self.channel.close()
