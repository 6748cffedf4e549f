"""`serve --traces` and `--log json`, seen from outside: by a collector, and by a reader of logs."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span

from supervisor import wire
from tests.escape.arena import CHECKOUT
from tests.integration.caller import SECONDS, Caller
from tests.integration.gateway import Entry, Gateway
from tests.integration.raw_http import META, MODERN, Message, post
from tests.unit.proxy.stand import SERVER

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
# says on standard error that it runs, and is the small server then
LOUD = "import sys; print('awake', file=sys.stderr, flush=True); exec(compile(sys.argv.pop(1), 'small', 'exec'))"
SMALL = Entry("small", ("/usr/bin/python3", "-S", "-c", LOUD, SERVER.read_text(encoding="utf-8"), "legacy"))


class Collector:
    """What was exported, and where to."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.paths: set[str] = set()
        self.exported: list[ResourceSpans] = []

    @property
    def spans(self) -> list[Span]:
        return [span for each in self.exported for scope in each.scope_spans for span in scope.spans]


@pytest.fixture
def collector() -> Iterator[Collector]:
    class Page(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            made.paths.add(self.path)
            made.exported.extend(ExportTraceServiceRequest.FromString(body).resource_spans)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Not a word."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        made = Collector(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield made
        server.shutdown()
        thread.join()


@contextmanager
def running(caller: Caller, *words: str, env: Mapping[str, str] | None = None) -> Iterator[Gateway]:
    made = Gateway(caller, [SMALL])
    made.write()
    made.pin()
    try:
        made.start(*words, env=env)
        yield made
    finally:
        made.close()


def call(gateway: Gateway, tool: str, **meta: object) -> Message:
    """A modern call of a tool."""
    params = {"name": tool, "arguments": {}, "_meta": META | meta}
    headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/call", "Mcp-Name": tool}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    return post(gateway.port, "/mcp", body, headers).response(1)


def about(span: Span) -> dict[str, str | int]:
    return {each.key: each.value.string_value or each.value.int_value for each in span.attributes}


def test_a_call_is_part_of_its_client_s_trace(caller: Caller, collector: Collector) -> None:
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_SERVICE_NAME": "mine"}
    with running(caller, "--traces", env=env) as gateway:
        assert "result" in call(gateway, "small__echo", traceparent=f"00-{TRACE}-{SPAN}-01", baggage="a=b")
        assert "result" in call(gateway, "small__echo", traceparent=f"00-{TRACE}-{SPAN}-00")
    # what was not sent yet is sent when the gateway ends
    server, client = collector.spans
    assert (server.kind, client.kind) == (Span.SPAN_KIND_SERVER, Span.SPAN_KIND_CLIENT)
    assert {server.trace_id.hex(), client.trace_id.hex()} == {TRACE}
    assert (server.parent_span_id.hex(), client.parent_span_id) == (SPAN, server.span_id)
    assert {server.name, client.name} == {"tools/call small__echo"}
    assert (about(server)["gen_ai.tool.name"], about(client)["gen_ai.tool.name"]) == ("small__echo", "echo")
    assert about(client)["supervisor.server"] == "small"
    assert server.start_time_unix_nano <= client.start_time_unix_nano < client.end_time_unix_nano
    assert abs(time.time() - server.end_time_unix_nano / 1e9) < 60
    [resource] = {each.resource.SerializeToString() for each in collector.exported}
    assert b"service.name" in resource
    assert b"mine" in resource
    assert collector.paths == {"/v1/traces"}


def test_a_collector_that_is_not_there_holds_no_call_up(caller: Caller) -> None:
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
    with running(caller, "--traces", env=env) as gateway:
        for _ in range(20):
            assert "result" in call(gateway, "small__echo")


def test_a_sampler_that_is_not_known_is_an_error(caller: Caller) -> None:
    made = Gateway(caller, [SMALL])
    made.write()
    process = caller.process(made.command("--traces"), env={"OTEL_TRACES_SAMPLER": "mine"})
    done = caller.arena.finish(process, seconds=SECONDS)
    assert done.returncode == 2
    assert done.stderr.startswith("supervisor: OTEL_TRACES_SAMPLER=mine: one of always_on")


def test_without_opentelemetry_it_is_told_what_to_install() -> None:
    ours, theirs = wire.pair()
    with ours, theirs:
        program = (
            f"import os, sys; os.dup2({theirs.fileno()}, 3); sys.modules['opentelemetry.sdk.trace'] = None\n"
            "from supervisor.cli.traces import exporter; exporter(os.getcwd())"
        )
        theirs.set_inheritable(True)
        subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, pass_fds=[theirs.fileno()], check=True)
        received = wire.receive(ours)
    assert received is not None
    assert received[0]["event"] == "failed"
    assert "pip install 'mcp-sandbox-supervisor[otel]'" in str(received[0]["message"])


def test_every_line_of_the_log_is_a_record_that_says_who_spoke(caller: Caller) -> None:
    with running(caller, "--log", "json") as gateway:
        assert "result" in call(gateway, "small__echo")
    records: list[Message] = [json.loads(line) for line in gateway.said().splitlines()]
    assert all(str(each.pop("time")).endswith("Z") for each in records)
    assert {"source": "supervisor", "message": f"listening on 127.0.0.1:{gateway.port}"} in records
    assert {"source": "server", "server": "small", "message": "awake"} in records
    assert {each["source"] for each in records} == {"supervisor", "server"}


def test_the_last_words_arrive_also_when_the_gateway_is_killed(caller: Caller) -> None:
    with running(caller, "--log", "json") as gateway:
        assert "result" in call(gateway, "small__echo")
        gateway.process.send_signal(signal.SIGKILL)
        gateway.process.wait(SECONDS)
    assert "awake" in [json.loads(line)["message"] for line in gateway.said().splitlines()]


def test_an_error_is_a_record_as_well_and_the_status_stays(caller: Caller) -> None:
    done = caller.finish(caller.command("serve", "--config", "/no/such/servers.toml", "--log", "json"))
    assert done.returncode == 2
    [record] = [json.loads(line) for line in done.stderr.splitlines()]
    assert (record["source"], record["message"]) == (
        "supervisor",
        "/no/such/servers.toml: there is no registry yet; supervisor add makes one",
    )


def test_a_daemon_s_log_is_records_as_well(caller: Caller) -> None:
    config = caller.project / "servers.toml"
    config.write_text("typo = 1\n", encoding="utf-8")
    done = caller.finish(
        caller.command("daemon", "--config", config, "--runtime-dir", caller.project / "run", "--log", "json")
    )
    assert done.returncode != 0
    records = [json.loads(line) for line in done.stderr.splitlines()]
    assert records
    assert {each["source"] for each in records} == {"supervisor"}
