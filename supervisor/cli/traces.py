"""`serve --traces`: the exporter is started, and what the gateway hands it.

Runs as whoever typed it, before any privilege is given up; `exporter` is the exporter's own beginning.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from supervisor import wire
from supervisor.cli import child
from supervisor.errors import FAILED

if TYPE_CHECKING:
    from supervisor.telemetry.traces import Tracer

_CODE = """import sys; sys.path.insert(0, sys.argv[1])
from supervisor.cli.traces import exporter; exporter(sys.argv[1])"""


class Exporter:
    """A running exporter, and the tracer that hands it spans."""

    def __init__(self) -> None:
        from supervisor.telemetry import traces

        chosen = traces.sampler(os.environ)
        self._child = child.start("the exporter of traces", _CODE, env=traces.passed_on(os.environ))
        # a span that the exporter has no room for is lost; no call waits for it
        self._child.socket.setblocking(False)
        self.tracer: Tracer = traces.Tracer(self._ship, chosen)

    def _ship(self, data: bytes) -> None:
        self._child.socket.send(data)

    def close(self) -> None:
        """Hang up, and wait until it has sent what it had."""
        self._child.close()


def exporter(root: str) -> None:
    """The exporter's process, its socket as descriptor 3."""
    import socket

    from supervisor import outward

    sock = socket.socket(fileno=3)
    try:
        from supervisor.telemetry import exporter as process
    except ImportError as error:
        said = f"serve --traces needs OpenTelemetry ({error}): pip install 'mcp-sandbox-supervisor[otel]'"
        wire.send(sock, {"event": "failed", "status": FAILED, "message": said})
        return
    sink = process.sink()
    try:
        outward.drop(root)
    except OSError as error:
        said = f"the exporter of traces: {error.strerror or error}"
        wire.send(sock, {"event": "failed", "status": FAILED, "message": said})
        return
    process.serve(sock, sink)
