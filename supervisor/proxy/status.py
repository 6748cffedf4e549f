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
            received=server.common.received,
            sent=server.common.sent,
        )


def status(gateway: Gateway) -> dict[str, object]:
    """Everything, as a table for JSON; times in seconds."""
    now = time.monotonic()
    return {
        "pid": os.getpid(),
        "clients": len(gateway.conversations),
        "servers": [_server(server, now) for server in gateway.servers.values()],
    }


def _server(server: Server, now: float) -> dict[str, object]:
    return {
        "name": server.name,
        "state": "STOPPED" if server.stopped else server.state,
        "calls": server.calls,
        "in_flight": sum(server.load.values()),
        "waiting": server.waiting,
        "failures": server.row.failures,
        "failures_of": {name: row.failures for name, row in server.rows.items()},
        "error": server.last_error,
        "changed": [f"{each.kind[:-1]} {each.name} {each.how}" for each in server.drift],
        "pinned": server.manifest.pinned,
        "eras": sorted(server.manifest.eras),
        "profile": server.profile,
        "sessions": [_session(each, now) for each in server.instances.values()],
    }


def _session(instance: Instance, now: float) -> dict[str, object]:
    return {
        "session": instance.opened.session if instance.opened else 0,
        "pid": instance.opened.pid if instance.opened else 0,
        "user": instance.principal,
        "era": "modern" if instance.modern else "legacy",
        "state": "ENDING" if instance.ending else "READY" if instance.ready else "STARTING",
        "calls": instance.requests,
        "in_flight": sum(each.is_work for each in instance.pending.values()),
        "idle": 0.0 if instance.busy else round(now - instance.used, 1),
    }
