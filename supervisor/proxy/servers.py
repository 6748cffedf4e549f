"""A registered server as the gateway sees it: its state, its running processes, and when it may be tried again.

Runs unprivileged. A process is started by the first call that needs it; who comes meanwhile waits for the same one.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from supervisor import lifecycle
from supervisor.errors import SupervisorError
from supervisor.proxy import envelope, manifests, message
from supervisor.proxy.instance import Hello, Instance
from supervisor.proxy.manifests import Change, Manifest
from supervisor.proxy.message import Fields
from supervisor.proxy.process import Traffic
from supervisor.proxy.settings import Settings

if TYPE_CHECKING:
    from supervisor.proxy.channel import Channel
    from supervisor.proxy.link import Exited
    from supervisor.proxy.roles import Roles

Key = tuple[object, ...]
# seconds: the first pause after a failure, the longest, and how long a call waits for a pause to be over
_FIRST, _LONGEST, _PATIENCE = 0.25, 60.0, 1.0
_DRAIN = 5.0
# users of whom failures are remembered
_MOST_ROWS = 4096
# seconds after which a client that was asked something may lose its process to another call of its principal's
_FORSAKEN = 60.0
# everything that a gateway can pass on to some client: what pinning declares
FULL = message.raw(
    {
        "sampling": {"tools": {}, "context": {}},
        "elicitation": {"form": {}, "url": {}},
        "roots": {"listChanged": True},
    }
)
NOBODY = message.raw({"name": "supervisor", "version": "0.1.0"})


class Unavailable(SupervisorError):
    """A server cannot be used now; `code` is for the JSON-RPC error."""

    def __init__(self, code: int, reason: str) -> None:
        self.code = code
        super().__init__(reason)


class Row:
    """Failures in a row, and when it may be tried again (monotonic time)."""

    __slots__ = ("failures", "last_error", "retry_at")

    def __init__(self) -> None:
        self.failures, self.retry_at, self.last_error = 0, 0.0, ""

    def count(self) -> None:
        """One more; not all who wait may come back at the same moment, but nothing secret hangs on it."""
        self.failures += 1
        pause = min(_LONGEST, _FIRST * 2.0 ** (self.failures - 1))
        self.retry_at = time.monotonic() + pause * random.uniform(0.5, 1.5)  # noqa: S311


_NONE = Row()


class Server:
    """One entry of the registry. `retired` is why it takes no more calls: another has its place.

    `row` is its own: failures of starts and probes, and of processes that users share. Those of a process that is
    one user's count for that user alone, in `rows`.
    """

    def __init__(self, name: str, settings: Settings, manifest: Manifest, channel: Channel) -> None:
        self.name = name
        self.settings = settings
        self.manifest = manifest
        self.state: lifecycle.State = "COLD"
        self.stopped = False
        self.profile = ""
        self.row = Row()
        self.rows: OrderedDict[str, Row] = OrderedDict()
        self.last_error = ""
        self.retired = ""
        self.identity: tuple[str, str, str] = ("", "", "")
        self.policy = self.held = ""
        self.roles: Roles | None = None
        self.drift: list[Change] = []
        self.makes_tasks = any(_makes_tasks(each.handshake) for each in manifest.eras.values())
        self.calls = 0
        self.traffic = Traffic()
        self.instances: dict[Key, Instance] = {}
        self.load: dict[str, int] = {}
        self.notified: Callable[[Server, Instance, str, Fields], None] = lambda *_: None
        self.stderr: Callable[[str, bytes, bool], None] = lambda *_: None
        self.started: Callable[[Server, Instance, float], None] = lambda *_: None
        self.ended: Callable[[Instance], None] = lambda _: None
        # by the era of a client: whether it gets a process of the modern era
        self.modern = {era: self.speaks(modern=era) for era in (False, True)}
        self._channel = channel
        self._tasks: set[asyncio.Task[None]] = set()
        self.by_session: dict[int, Instance] = {}
        self._unwell: set[Instance] = set()
        # those that have been ready
        self._served: set[Instance] = set()

    def speaks(self, *, modern: bool) -> bool:
        """Whether a client of that era gets a process of the modern era."""
        return ("modern" in self.manifest.eras) if modern else ("legacy" not in self.manifest.eras)

    def instance(self, key: Key, principal: str, *, modern: bool, hello: Hello) -> Instance:
        """The process of that key, started if there is none; Unavailable with the reason."""
        found = self.instances.get(key)
        if found is not None and usable(found):
            return found
        self._admit(principal)
        made = Instance(self.name, self._channel, modern=modern, hello=hello)
        made.notified = lambda instance, method, fields: self.notified(self, instance, method, fields)
        made.stderr = lambda line, loud: self.stderr(self.name, line, loud)
        made.unwell = lambda reason: self.unwell(made, reason, crashed=True)
        made.principal = principal
        made.traffic = self.traffic
        made.serial = self.settings.audit.attribution == "exact"
        self.instances[key] = made
        task = asyncio.get_running_loop().create_task(self._live(key, made))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return made

    @property
    def waiting(self) -> int:
        """Calls that wait for a process to be ready."""
        return sum(len(each.waiting) for each in self.instances.values())

    def _admit(self, principal: str) -> None:
        if self.held:
            self._ask()
            raise Unavailable(message.NOT_ALLOWED, f'server "{self.name}": {self.held}')
        if self.stopped:
            said = f"it was stopped by the operator; supervisor start {self.name}"
            raise Unavailable(message.DEGRADED, f'server "{self.name}": {said}')
        if self.retired:
            raise Unavailable(message.DEGRADED, f'server "{self.name}": {self.retired}')
        if self.state == "DEAD":
            said = f"it failed {self.row.failures} times in a row, at last: {self.last_error}"
            raise Unavailable(message.DEGRADED, f'server "{self.name}": {said}; supervisor start {self.name}')
        if self.drift:
            raise Unavailable(message.DEGRADED, f'server "{self.name}": {manifests.tell(self.name, self.drift)}')
        own = self.rows.get(principal, _NONE)
        if own.failures >= self.settings.restart.limit:
            said = f"it failed {own.failures} times in a row for {principal}, at last: {own.last_error}"
            raise Unavailable(message.DEGRADED, f'server "{self.name}": {said}; supervisor start {self.name}')
        pause = self._pause(principal)
        if pause > _PATIENCE:
            said = own.last_error if own.retry_at > self.row.retry_at else self.last_error
            said = f"it is tried again in {pause:.0f} s; it failed: {said}"
            raise Unavailable(message.DEGRADED, f'server "{self.name}": {said}')
        self._make_room(principal)

    def _ask(self) -> None:
        """Let whoever approves servers know that this one is wanted."""
        task = asyncio.get_running_loop().create_task(self._asked())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _asked(self) -> None:
        with contextlib.suppress(SupervisorError):
            await self._channel.ask("ask", server=self.name)

    def _pause(self, principal: str) -> float:
        """Seconds until a process may be started for that user."""
        due = max(self.row.retry_at, self.rows.get(principal, _NONE).retry_at)
        return max(0.0, due - time.monotonic())

    def _make_room(self, principal: str) -> None:
        """Of one principal's processes, the one that was idle the longest ends for one more.

        If none is, one whose client was asked something long ago and has not come back.
        """
        most = self.settings.quota.sessions
        own = [each for each in self.instances.values() if each.principal == principal and not each.ending]
        if len(own) < most:
            return
        oldest = time.monotonic() - _FORSAKEN
        free = [each for each in own if each.ready and not each.holders]
        idle = [each for each in free if not each.busy] or [each for each in free if each.forsaken(oldest)]
        if not idle:
            said = f"{principal} has {most} processes of it at work (quota.sessions, {self.settings.origin})"
            raise Unavailable(message.BUSY, f'server "{self.name}": {said}')
        min(idle, key=lambda each: each.used).end("idle, and another client needed its place")

    async def _live(self, key: Key, instance: Instance) -> None:
        """One process, from its start to its end."""
        began = time.monotonic()
        over: asyncio.Task[str] | None = None
        try:
            await asyncio.sleep(self._pause(instance.principal))
            if not instance.ending:
                began = time.monotonic()
                opened = await instance.open()
                # before anything else is waited for: it may be over already
                self.by_session[opened.session] = instance
                over = asyncio.create_task(instance.over())
                await instance.connect(opened)
                async with asyncio.timeout(self.settings.session.start):
                    await self._check(instance)
                self._ready(instance, time.monotonic() - began)
        except TimeoutError:
            seconds = self.settings.session.start
            self._failed(key, instance, f"it did not answer its handshake within {seconds:g} s (session.start)")
        except SupervisorError as error:
            self._failed(key, instance, str(error))
        reason = await over if over else instance.ending
        self._ended(key, instance, reason)

    async def _check(self, instance: Instance) -> None:
        handshake = await instance.shake()
        await self.compare(instance, handshake)
        if instance.touched is not None:
            # what it opened to start is no call's
            await instance.touched.since()

    async def compare(self, instance: Instance, handshake: msgspec.Raw) -> None:
        """Compare what the process lists with what was pinned; Unavailable, and no more calls, if it differs."""
        pinned = self.manifest.era(modern=instance.modern)
        found = manifests.changes(pinned, await instance.lists(handshake))
        if bytes(instance.hello.capabilities) != bytes(FULL):
            # some tools are offered to clients that can be asked something only
            found = [each for each in found if each.how != "removed"]
        if found:
            self.drift = found
            raise Unavailable(message.DEGRADED, manifests.tell(self.name, found))

    def _ready(self, instance: Instance, seconds: float) -> None:
        if not usable(instance):
            return
        if self.state == "DEAD":
            instance.end("others of this server have failed too often")
            return
        if self.state != "READY":
            self.state = lifecycle.after(self.state, "opened")
        self.row.retry_at = 0.0
        self._served.add(instance)
        instance.start()
        self.started(self, instance, seconds)

    def _failed(self, key: Key, instance: Instance, reason: str) -> None:
        """It did not come up."""
        if instance.ending and instance not in self._unwell:
            reason = instance.ending  # nobody wants it any more
        else:
            reason = instance.ending or reason
            self._fault("failed", reason)
        self._forget(key, instance)
        instance.end(reason)
        code = message.DEGRADED if self.drift else envelope.SERVER_SILENT
        instance.lose(code, f'server "{self.name}": {reason}')

    def _ended(self, key: Key, instance: Instance, reason: str) -> None:
        self._forget(key, instance)
        self._unwell.discard(instance)
        if instance.opened:
            self.by_session.pop(instance.opened.session, None)
        instance.lose(envelope.SERVER_ENDED, f'server "{self.name}": {reason}')
        self.ended(instance)
        was_ready = instance in self._served
        self._served.discard(instance)
        if not instance.ending and was_ready:
            self._crashed(instance, "exited", reason)
        elif not instance.ending:
            self._fault("exited", reason)
        elif self.state == "READY" and not self.instances:
            self.state = lifecycle.after(self.state, "idle")

    def _fault(self, event: lifecycle.Event, reason: str) -> None:
        """Something is wrong with a process. Of those that run, only the first counts: the rest share its fate."""
        self.last_error = reason
        if self.state == "DEAD" or (self.state == "DEGRADED" and event != "failed"):
            return
        if self.state != "READY":
            event = "failed"
        elif event == "failed":
            event = "unwell"
        self.state = lifecycle.after(self.state, event)
        self.row.count()
        if self.row.failures >= self.settings.restart.limit:
            self.state = lifecycle.after(self.state, "exhausted")

    def _crashed(self, instance: Instance, event: lifecycle.Event, reason: str) -> None:
        """A process that served calls is of no use any more; if it was one user's, others are not to blame."""
        if self.settings.session.share == "server":
            self._fault(event, reason)
            return
        row = self.rows.setdefault(instance.principal, Row())
        self.rows.move_to_end(instance.principal)
        if len(self.rows) > _MOST_ROWS:
            self.rows.popitem(last=False)
        self.last_error = row.last_error = reason
        row.count()
        if self.state == "READY" and not any(
            each.ready for each in self.instances.values() if each is not instance
        ):
            self.state = lifecycle.after(self.state, event)

    def _forget(self, key: Key, instance: Instance) -> None:
        if self.instances.get(key) is instance:
            del self.instances[key]

    def exited(self, ended: Exited) -> None:
        """The monitor told of the end of a session of this server."""
        instance = self.by_session.get(ended.session)
        if instance and not instance.ended.done():
            instance.ready = False
            instance.ended.set_result(ended)

    def owns(self, session: int) -> bool:
        """Whether a session is one of this server's."""
        return session in self.by_session

    def lost(self) -> None:
        """The monitor is gone, and every session with it."""
        for instance in self.by_session.values():
            if not instance.ended.done():
                instance.ready = False
                instance.ended.set_result(None)

    def unwell(self, instance: Instance, reason: str, *, crashed: bool = False) -> None:
        """It runs and is of no use: end it, and count that as a failure; `crashed`: by what it did for its user."""
        if instance.ending:
            return
        self._unwell.add(instance)
        if instance.ready and crashed:
            self._crashed(instance, "unwell", reason)
        elif instance.ready:
            self._fault("unwell", reason)
        instance.end(reason)

    def worked(self, principal: str) -> None:
        """A call was answered: failures in a row are counted from here."""
        self.rows.pop(principal, None)
        if self.state == "READY":
            self.row.failures = 0

    def revive(self) -> None:
        """An operator started it again."""
        if self.state == "DEAD":
            self.state = lifecycle.after(self.state, "started")
            if any(each.ready for each in self.instances.values()):
                self.state = lifecycle.after(self.state, "opened")
        self.row = Row()
        self.rows.clear()

    async def stop(self, reason: str) -> None:
        """Let the calls in flight come to their end, within a bound, and end every process."""
        deadline = time.monotonic() + _DRAIN
        while any(_wanted(each) for each in self.instances.values()) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        for instance in list(self.instances.values()):
            instance.end(reason)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_DRAIN)

    async def over(self) -> None:
        """Wait until none of its processes is left."""
        while self._tasks:
            await asyncio.wait(self._tasks)


def usable(instance: Instance) -> bool:
    """Whether a process can be given calls: it has not ended, and nobody has told it to."""
    return not instance.ending and not instance.gone and not instance.ended.done()


def _wanted(instance: Instance) -> bool:
    """Whether somebody waits for an answer, and not for nothing but its start."""
    return bool(instance.waiting) or (instance.ready and instance.busy)


def _makes_tasks(handshake: msgspec.Raw) -> bool:
    table = message.fields(handshake) or {}
    capabilities = message.fields(table.get("capabilities", message.EMPTY)) or {}
    extensions = message.fields(capabilities.get("extensions", message.EMPTY)) or {}
    return "tasks" in capabilities or "io.modelcontextprotocol/tasks" in extensions
