"""The gateway: every server of the registry behind one endpoint, started when it is first needed.

Runs unprivileged, in one event loop. It holds what several clients have in common: servers, endpoints, calls that
wait for their client's word, subscriptions; and looks after all of it once a second.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine
from typing import Protocol

from supervisor.audit.reached import Reached
from supervisor.errors import SupervisorError
from supervisor.proxy import eras, listening, manifests, message, pump, settings
from supervisor.proxy.auditing import Audit
from supervisor.proxy.calls import Call
from supervisor.proxy.care import Care
from supervisor.proxy.channel import Channel
from supervisor.proxy.conversation import Conversation
from supervisor.proxy.endpoint import Endpoint
from supervisor.proxy.instance import Instance
from supervisor.proxy.journal import Journal
from supervisor.proxy.link import Exited
from supervisor.proxy.message import Fields
from supervisor.proxy.news import News
from supervisor.proxy.outlet import Outlet
from supervisor.proxy.parked import Parked
from supervisor.proxy.principal import Principal
from supervisor.proxy.roles import Roles
from supervisor.proxy.servers import Server
from supervisor.proxy.tracing import Tracing

_ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
# seconds between two comparisons of one process's lists
_BREATH = 1.0
# principals, each with its own view of an endpoint, that are remembered
_VIEWS = 256


def _govern(server: Server, policy: str) -> None:
    """The policies of a server as they are now; what runs goes on."""
    if policy != server.policy:
        server.roles = Roles(policy, server.manifest) if policy else None
        server.policy = policy


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
        self.tracing: Tracing | None = None
        self.audit: Audit | None = None
        self.servers: dict[str, Server] = {}
        self.conversations: set[Conversation] = set()
        self.stopping = False
        self._only = only
        self._loading = asyncio.Lock()
        self._retired: set[Server] = set()
        self._changed: dict[Instance, set[str]] = {}
        self._endpoints: dict[str | None, Endpoint] = {}
        self._views: dict[tuple[str | None, Principal], Endpoint] = {}
        self.parked = Parked()
        self.news = News(self)
        self._care = Care(self)
        self._tasks: set[asyncio.Task[None]] = set()
        channel.ended = self._exited
        channel.refused = self._refused
        channel.reached = self._reached
        channel.reloaded = lambda: self.spawn(self._reload())
        channel.lost = self._lost

    async def load(self) -> list[str]:
        """Ask for the servers and make the endpoints; what could not be used, a line each."""
        async with self._loading:
            return await self._load()

    async def _load(self) -> list[str]:
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
        endpoints: dict[str | None, Endpoint] = {
            name: Endpoint([server], single=True) for name, server in found.items()
        }
        endpoints[None] = Endpoint(list(found.values()), single=False)
        old, self.servers, self._endpoints = self.servers, found, endpoints
        self._views.clear()
        for conversation in self.conversations:
            conversation.endpoint = self.view(conversation.only, conversation.principal)
        for name, server in old.items():
            if found.get(name) is not server:
                server.retired = "its configuration has changed"
                self._retired.add(server)
                self.spawn(self._retire(server))
        return problems

    async def _retire(self, server: Server) -> None:
        await server.stop(server.retired)
        await server.over()
        self._retired.discard(server)

    async def _server(self, name: str) -> Server:
        answer, fds = await self.channel.ask("describe", server=name)
        pinned = b""
        for fd in fds:
            with open(fd, "rb") as file:
                pinned = file.read(manifests.MAX_BYTES + 1)
        text, digest = str(answer.get("gateway", "{}")), str(answer.get("manifest", ""))
        identity = (text, digest, str(answer.get("spec", "")))
        known = self.servers.get(name)
        policy = str(answer.get("policy", ""))
        if known is not None and known.identity == identity:
            _govern(known, policy)
            self._halt(known, stopped=bool(answer.get("stopped")), held=str(answer.get("held", "")))
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
        made.identity = identity
        _govern(made, policy)
        self._halt(made, stopped=bool(answer.get("stopped")), held=str(answer.get("held", "")))
        return made

    def _halt(self, server: Server, *, stopped: bool, held: str) -> None:
        """An operator has stopped a server or let it start again, or it has to be approved, or has been."""
        halted = server.stopped or server.held
        server.stopped, server.held = stopped, held
        if (stopped or held) and not halted:
            self.spawn(server.stop(held or "stopped by the operator"))
        elif halted and not (stopped or held):
            server.revive()

    def _started(self, server: Server, instance: Instance, seconds: float) -> None:
        self.meter.started(server.name, seconds)
        self.news.started(instance)
        if instance in self._changed:
            self.spawn(self._recheck(server, instance))  # it said so before it was ready

    async def _reload(self) -> None:
        """The configuration has changed, or an operator has started a server again."""
        before = {name: (server, server.policy) for name, server in self.servers.items()}
        try:
            problems = await self.load()
        except SupervisorError as error:
            problems = [str(error)]
        for each in problems:
            pump.note(each)
        for server in self.servers.values():
            if server.state == "DEAD" or server.rows:
                server.revive()
        if before != {name: (server, server.policy) for name, server in self.servers.items()}:
            for method in listening.CHANGED:
                self.news.changed(method, None)

    def conversation(self, outlet: Outlet, principal: Principal, only: str | None) -> Conversation:
        """A new client."""
        made = Conversation(self, outlet, principal, only or self._only)
        self.conversations.add(made)
        return made

    def knows(self, principal: Principal, server: str) -> bool:
        """Whether there is an endpoint for that server alone, with anything in it for that principal."""
        return server in self._endpoints and self.view(server, principal).useful

    def endpoint(self, conversation: Conversation) -> Endpoint:
        """What a client sees."""
        return conversation.endpoint

    def view(self, only: str | None, principal: Principal) -> Endpoint:
        """What a client of all servers, or of one, sees; of a server that is gone, nothing."""
        shared = self._endpoints.get(only)
        if shared is None or not shared.governed:
            return shared or Endpoint([], single=False)
        key = (only, principal)
        if key not in self._views:
            if len(self._views) >= _VIEWS:
                del self._views[next(iter(self._views))]
            self._views[key] = Endpoint(shared.servers, single=shared.single, principal=principal)
        return self._views[key]

    def left(self, conversation: Conversation) -> None:
        """A client is gone."""
        self.conversations.discard(conversation)
        self.news.left(conversation)

    # what servers say by themselves

    def _notified(self, server: Server, instance: Instance, method: str, fields: Fields) -> None:
        params = message.fields(fields.get("params", message.EMPTY)) or {}
        if method == listening.UPDATED:
            self.news.updated(server, instance, fields, params)
        elif method in listening.CHANGED:
            self._list_changed(server, instance, method)
        elif method == "notifications/cancelled":
            for each in self._users(instance):
                each.questions.withdrawn(instance, fields, params)
        elif method == "notifications/message":
            self._logged(instance, fields, params)
        elif method != _ACKNOWLEDGED and len(instance.principals) < 2:
            # nobody can tell whose it is in a process that several people use
            for each in self._users(instance):
                each.say(message.line(fields), None)

    def _users(self, instance: Instance) -> set[Conversation]:
        """The client that a process is there for, or those that have a call at it."""
        if instance.owner:
            return {instance.owner}
        return {each.conversation for each in instance.pending.values() if isinstance(each, Call)}

    def _logged(self, instance: Instance, fields: Fields, params: Fields) -> None:
        """A log message: to the owner, or to whoever asked for logs with a call that is under way."""
        level = message.text(params.get("level"))
        number = eras.LEVELS.index(level) if level in eras.LEVELS else 0
        for waiter in reversed(instance.pending.values()):
            if not isinstance(waiter, Call) or len(instance.principals) > 1:
                continue
            wanted = message.text((waiter.meta or {}).get(eras.LOG_LEVEL)) if waiter.modern else eras.LEVELS[0]
            if wanted in eras.LEVELS and eras.LEVELS.index(wanted) <= number:
                waiter.conversation.say(message.line(fields), waiter.key)
                return
        if instance.owner:
            instance.owner.say(message.line(fields), None)

    def _list_changed(self, server: Server, instance: Instance, method: str) -> None:
        """Only if its lists are still as they were pinned does a server go on; one check at a time."""
        busy = instance in self._changed
        self._changed.setdefault(instance, set()).add(method)
        if instance.ready and not busy:
            self.spawn(self._recheck(server, instance))

    async def _recheck(self, server: Server, instance: Instance) -> None:
        while methods := self._changed.get(instance):
            self._changed[instance] = set()
            try:
                async with asyncio.timeout(server.settings.session.start):
                    await server.compare(instance, server.manifest.era(modern=instance.modern).handshake)
            except (SupervisorError, TimeoutError) as error:
                if instance.ready and server.drift:
                    self.journal.add(server.name, f"({error})".encode())
                    server.unwell(instance, str(error))
                break
            for method in sorted(methods):
                if instance.owner:
                    instance.owner.say(message.notification(method, {}), None)
                else:
                    self.news.changed(method, server)
            await asyncio.sleep(_BREATH)
        self._changed.pop(instance, None)

    # the end of processes

    def _exited(self, ended: Exited) -> None:
        for server in (*self.servers.values(), *self._retired):
            if server.owns(ended.session):
                server.exited(ended)
                return

    def _lost(self) -> None:
        """The monitor is gone, and every process with it."""
        for server in (*self.servers.values(), *self._retired):
            server.lost()

    def _over(self, instance: Instance) -> None:
        """A process has ended: nobody may wait for it any more."""
        self._changed.pop(instance, None)
        self._care.over(instance)
        self.news.over(instance)
        for conversation in list(self.conversations):
            conversation.forget(instance)

    def _refused(self, session: int, said: str) -> None:
        for server in (*self.servers.values(), *self._retired):
            if server.owns(session):
                self.journal.add(server.name, f"({said})".encode())

    def _reached(self, session: int, reached: Reached) -> None:
        for server in (*self.servers.values(), *self._retired):
            if self.audit and (instance := server.by_session.get(session)):
                self.audit.reached(instance, reached)

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
        self.parked.expire(math.inf)
        servers = (*self.servers.values(), *self._retired)
        for each in servers:
            each.retired = "the gateway has ended"
        await asyncio.gather(*(each.stop(each.retired) for each in servers))
        if self.audit:
            await self.audit.close()
        for task in self._tasks:
            task.cancel()
        self.channel.close()
