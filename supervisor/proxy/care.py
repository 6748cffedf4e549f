"""What is done once a second: calls that nobody answers, processes that nobody uses, processes that do not live.

Runs unprivileged.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from supervisor.errors import SupervisorError
from supervisor.proxy.calls import Call
from supervisor.proxy.instance import Instance
from supervisor.proxy.servers import Server

if TYPE_CHECKING:
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
            now = time.monotonic()
            for server in list(self._gateway.servers.values()):
                for instance in list(server.instances.values()):
                    if instance.ready and not instance.ending:
                        self._look(server, instance, now)
            self._gateway.parked.expire(now)

    def over(self, instance: Instance) -> None:
        """A process has ended."""
        self._silences.pop(instance, None)

    def _look(self, server: Server, instance: Instance, now: float) -> None:
        rules = server.settings.session
        for waiter in list(instance.pending.values()):
            if isinstance(waiter, Call) and not waiter.state and now - waiter.touched > rules.answer:
                waiter.conversation.timed_out(waiter, rules.answer)
        if instance.busy or instance.holders:
            return
        count, since = self._silences.get(instance, (0, instance.used))
        if now - instance.used > rules.idle:
            instance.end("idle")
        elif now - max(since, instance.used) > server.settings.health.interval:
            self._silences[instance] = (count, now)
            self._gateway.spawn(self._probe(server, instance))

    async def _probe(self, server: Server, instance: Instance) -> None:
        """Ask an idle process whether it lives: by ping, or by its discovery where the era has no ping."""
        used, health = instance.used, server.settings.health
        try:
            async with asyncio.timeout(min(_PATIENCE, health.interval)):
                await instance.ask("server/discover" if instance.modern else "ping", {})
        except TimeoutError:
            count = self._silences.get(instance, (0, 0.0))[0] + 1
            self._silences[instance] = (count, time.monotonic())
            if count >= health.failures:
                server.unwell(instance, f"it did not answer {count} times in a row (health.failures)")
        except SupervisorError:
            return  # an answer, or the end
        else:
            self._silences[instance] = (0, time.monotonic())
            instance.used = used  # this was no use of it
