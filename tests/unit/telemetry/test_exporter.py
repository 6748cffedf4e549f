"""What the exporter makes of the gateway's messages: OpenTelemetry's spans, with the ids that were given out."""

from __future__ import annotations

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from supervisor import wire
from supervisor.telemetry.exporter import Exporter

TRACE, ABOVE, SERVER, CLIENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", "1" * 16, "2" * 16
MESSAGE: wire.Message = {
    "name": "tools/call files__read",
    "trace": TRACE,
    "parent": ABOVE,
    "earlier": [],
    "state": "a=b",
    "ids": [SERVER, CLIENT],
    "times": [1000.0, 1000.5, 1002.0],
    "server": {"mcp.method.name": "tools/call", "gen_ai.tool.name": "files__read"},
    "client": {"mcp.method.name": "tools/call", "supervisor.session": 7, "odd": [1]},
}


def made(*messages: wire.Message) -> list[ReadableSpan]:
    kept = InMemorySpanExporter()
    exporter = Exporter(kept)
    for each in messages:
        exporter.add(each)
    exporter.close()
    return list(kept.get_finished_spans())


def ids(span: ReadableSpan) -> tuple[str, str, str]:
    """Trace, span and parent, as they are written."""
    assert span.context is not None
    parent = f"{span.parent.span_id:016x}" if span.parent else ""
    return f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}", parent


def test_a_call_is_two_spans_one_below_the_other_and_both_below_the_client_s() -> None:
    server, client = made(MESSAGE)
    assert ids(server) == (TRACE, SERVER, ABOVE)
    assert ids(client) == (TRACE, CLIENT, SERVER)
    assert (server.kind, client.kind) == (SpanKind.SERVER, SpanKind.CLIENT)
    assert {server.name, client.name} == {"tools/call files__read"}
    assert (server.start_time, server.end_time) == (1_000_000_000_000, 1_002_000_000_000)
    assert client.start_time == 1_000_500_000_000
    assert server.context is not None
    assert server.context.trace_state.get("a") == "b"
    assert server.resource.attributes["service.name"] == "supervisor"
    assert dict(server.attributes or {}) == MESSAGE["server"]
    assert dict(client.attributes or {}) == {"mcp.method.name": "tools/call", "supervisor.session": 7}
    assert {server.status.status_code, client.status.status_code} == {StatusCode.UNSET}


def test_without_a_parent_the_trace_is_the_one_that_the_gateway_began() -> None:
    server, client = made(MESSAGE | {"parent": "", "state": ""})
    assert ids(server) == (TRACE, SERVER, "")
    assert ids(client) == (TRACE, CLIENT, SERVER)


def test_a_failure_is_one() -> None:
    spans = made(MESSAGE | {"server": {"error.type": "-32602"}, "client": {"error.type": "-32602"}})
    assert {each.status.status_code for each in spans} == {StatusCode.ERROR}


def test_many_calls_keep_their_own_ids() -> None:
    given = [(f"{number:032x}", f"{number:016x}") for number in range(1, 200)]
    messages = [MESSAGE | {"trace": trace, "ids": [server, CLIENT]} for trace, server in given]
    assert [ids(each)[:2] for each in made(*messages) if each.kind is SpanKind.SERVER] == given


def test_the_later_part_of_a_call_is_linked_to_the_part_before() -> None:
    server, client = made(MESSAGE | {"earlier": ["a" * 32, "b" * 16]})
    links = [(f"{each.context.trace_id:x}", f"{each.context.span_id:x}") for each in server.links]
    assert (links, list(client.links)) == ([("a" * 32, "b" * 16)], [])
