"""What is done once a second: calls that nobody answers, processes that nobody uses, processes that do not live.

Runs unprivileged.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from supervisor.errors import SessionLost, SupervisorError
from supervisor.proxy.calls import Call
from supervisor.proxy.instance import Instance
from supervisor.proxy.servers import Server

if TYPE_CHECKING:
    from supervisor.proxy.conversation import Conversation
    from supervisor.proxy.gateway import Gateway

TICK = 1.0
_PATIENCE = 10.0


class Care:
    """The silences of each process: how many in a row, and since when it was asked last."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._silences: dict[Instance, tuple[int, float]] = {}

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(TICK)
            self.look(time.monotonic())

    def look(self, now: float) -> None:
        """Once over everything."""
        for conversation in list(self._gateway.conversations):
            conversation.look(now)
            for call in list(conversation.calls.values()):
                self._call(conversation, call, now)
        for server in list(self._gateway.servers.values()):
            for instance in list(server.instances.values()):
                if instance.ready and not instance.ending:
                    self._process(server, instance, now)
        self._gateway.parked.expire(now)

    def over(self, instance: Instance) -> None:
        """A process has ended."""
        self._silences.pop(instance, None)

    def _call(self, conversation: Conversation, call: Call, now: float) -> None:
        # one that waits for its process is bounded by session.start
        if call.server is None or (call.instance and call in call.instance.waiting):
            call.touched = now
        if call.server is None or now - call.touched <= call.server.settings.session.answer:
            return
        if not conversation.questions.open_about(call.key):
            conversation.timed_out(call, call.server.settings.session.answer)

    def _process(self, server: Server, instance: Instance, now: float) -> None:
        if instance.busy or instance.held:
            return
        rules = server.settings
        count, since = self._silences.get(instance, (0, instance.used))
        if now - instance.used > rules.session.idle and not instance.holders:
            instance.end("idle")
        elif now - max(since, instance.used) > rules.health.interval:
            self._silences[instance] = (count, now)
            self._gateway.spawn(self._probe(server, instance))

    async def _probe(self, server: Server, instance: Instance) -> None:
        """Ask an idle process whether it lives: by ping, or by its discovery where the era has no ping."""
        health = server.settings.health
        try:
            async with asyncio.timeout(min(_PATIENCE, health.interval)):
                await instance.ask("server/discover" if instance.modern else "ping", {})
        except TimeoutError:
            count = self._silences.get(instance, (0, 0.0))[0] + 1
            if instance.ready:
                self._silences[instance] = (count, time.monotonic())
            if count >= health.failures:
                server.unwell(instance, f"it did not answer {count} times in a row (health.failures)")
        except SessionLost:
            return
        except SupervisorError:
            self._silences[instance] = (0, time.monotonic())  # an error is an answer
        else:
            self._silences[instance] = (0, time.monotonic())
