"""How a gateway and its servers are, at this moment: for whoever types `supervisor ps`, and for the metrics.

Runs unprivileged. Reads, changes nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from supervisor.telemetry.look import Look

if TYPE_CHECKING:
    from supervisor.proxy.gateway import Gateway
    from supervisor.proxy.instance import Instance
    from supervisor.proxy.servers import Server


def looks(gateway: Gateway) -> Iterator[Look]:
    """Every server, in numbers."""
    for server in gateway.servers.values():
        processes = list(server.instances.values())
        ending = sum(bool(each.ending) for each in processes)
        ready = sum(each.ready and not each.ending for each in processes)
        yield Look(
            server.name,
            server.state,
            starting=len(processes) - ready - ending,
            ready=ready,
            ending=ending,
            in_flight=sum(server.load.values()),
            waiting=server.waiting,
            received=server.traffic.received,
            sent=server.traffic.sent,
        )


def status(gateway: Gateway) -> dict[str, object]:
    """Everything, as JSON takes it; times in seconds."""
    now = time.monotonic()
    return {
        "pid": os.getpid(),
        "clients": len(gateway.conversations),
        "stopping": gateway.stopping,
        "servers": {name: _server(server, now) for name, server in gateway.servers.items()},
    }


def _server(server: Server, now: float) -> dict[str, object]:
    return {
        "state": server.state,
        "stopped": server.stopped,
        "eras": sorted(server.manifest.eras),
        "pinned": server.manifest.pinned,
        "drift": [f"{each.kind} {each.name} {each.how}" for each in server.drift],
        "calls": server.calls,
        "in_flight": sum(server.load.values()),
        "waiting": server.waiting,
        "failures": server.failures,
        "last_error": server.last_error,
        "processes": [_process(each, now) for each in server.instances.values()],
    }


def _process(instance: Instance, now: float) -> dict[str, object]:
    state = "ending" if instance.ending else "ready" if instance.ready else "starting"
    return {
        "session": instance.opened.session if instance.opened else None,
        "era": "modern" if instance.modern else "legacy",
        "state": state,
        "principal": instance.principal,
        "requests": instance.requests,
        "in_flight": sum(each.is_work for each in instance.pending.values()),
        "idle": 0.0 if instance.busy else round(now - instance.used, 3),
    }
