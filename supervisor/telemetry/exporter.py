"""The exporter: the gateway's spans as OpenTelemetry has them, to a collector. A process of its own (extra `otel`).

Runs unprivileged; it alone meets the collector, so that the gateway makes no connection. The environment says where
that is: OTEL_EXPORTER_OTLP_ENDPOINT and its sisters. A message is one call; it makes two spans of it.
"""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401 - there is no importing once privileges are gone
import os
import socket
from typing import NamedTuple

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from supervisor import wire

VERSION = "0.1.0"
_Attributes = dict[str, str | int | float | bool]


class Given(IdGenerator):
    """Ids that were given out already, when the call began."""

    def __init__(self) -> None:
        self.trace = self.span = 0

    def generate_trace_id(self) -> int:
        """OpenTelemetry's."""
        return self.trace

    def generate_span_id(self) -> int:
        """OpenTelemetry's."""
        return self.span


class Part(NamedTuple):
    """One span: its id, kind, times (seconds since 1970) and attributes."""

    span: int
    kind: SpanKind
    began: float
    ended: float
    attributes: _Attributes


class Exporter:
    """Makes spans of messages and sends them off in batches."""

    def __init__(self, to: SpanExporter) -> None:
        self._ids = Given()
        about = {"service.name": os.environ.get("OTEL_SERVICE_NAME") or "supervisor", "service.version": VERSION}
        # what a span is sampled by was decided when its call began
        self._provider = TracerProvider(ALWAYS_ON, Resource.create(about), id_generator=self._ids)
        self._provider.add_span_processor(BatchSpanProcessor(to))
        self._tracer = self._provider.get_tracer("supervisor", VERSION)

    def add(self, message: wire.Message) -> None:
        """One call."""
        trace, above = int(str(message["trace"]), 16), int(str(message["parent"]) or "0", 16)
        state = TraceState.from_header([str(message["state"])]) if message["state"] else TraceState()
        ids, times = _list(message["ids"]), [float(str(each)) for each in _list(message["times"])]
        server, client = int(str(ids[0]), 16), int(str(ids[1]), 16)
        parts = (
            Part(server, SpanKind.SERVER, times[0], times[2], _attributes(message["server"])),
            Part(client, SpanKind.CLIENT, times[1], times[2], _attributes(message["client"])),
        )
        before = [int(str(each), 16) for each in _list(message["earlier"])]
        for part, parent in zip(parts, (above, server), strict=True):
            remote = part.kind is SpanKind.SERVER
            linked = [Link(SpanContext(before[0], before[1], is_remote=False))] if before and remote else []
            context = SpanContext(trace, parent, is_remote=remote, trace_flags=TraceFlags(1), trace_state=state)
            self._ids.trace, self._ids.span = trace, part.span
            span = self._tracer.start_span(
                str(message["name"]),
                set_span_in_context(NonRecordingSpan(context)) if parent else None,
                part.kind,
                part.attributes,
                linked,
                start_time=int(part.began * 1e9),
            )
            if "error.type" in part.attributes:
                span.set_status(Status(StatusCode.ERROR))
            span.end(int(part.ended * 1e9))

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _attributes(value: object) -> _Attributes:
    table = value if isinstance(value, dict) else {}
    return {str(name): each for name, each in table.items() if isinstance(each, str | int | float | bool)}


def sink() -> SpanExporter:
    """Where the environment says that spans go; made before privileges are given up, since it imports."""
    return OTLPSpanExporter()


def serve(sock: socket.socket, to: SpanExporter) -> None:
    """Until the gateway hangs up, and what there is has been sent."""
    exporter = Exporter(to)
    with sock:
        wire.send(sock, {"event": "ready"})
        while received := wire.hear(sock):
            exporter.add(received[0])
    exporter.close()
