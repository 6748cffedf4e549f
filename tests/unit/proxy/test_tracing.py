"""Calls as spans: what servers see of a trace, what clients' baggage comes to, and what a span says of its call."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from supervisor.proxy.gateway import Gateway
from supervisor.proxy.journal import Journal
from supervisor.proxy.tracing import Tracing
from supervisor.telemetry import traces
from tests.unit.proxy.scene import scene
from tests.unit.proxy.stand import MODERN, Client, Meter, Stand, pinned, small

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
CARRIED = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "a=b", "baggage": "user=ada", "com.example/k": [1]}
Json = dict[str, Any]


class Traced:
    """A gateway with a tracer, or without one; `shipped` is what that handed on."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.shipped: list[bytes] = []

    def trace(self) -> None:
        self.gateway.tracing = Tracing(traces.Tracer(self.shipped.append, traces.sampler({})))

    @property
    def spans(self) -> list[Json]:
        return [json.loads(each) for each in self.shipped]


@asynccontextmanager
async def running(*words: str) -> AsyncIterator[Traced]:
    stand = Stand(await pinned({"a": small(*words)}))
    gateway = Gateway(stand, Meter(), Journal(quiet=True))
    assert await gateway.load() == []
    try:
        yield Traced(gateway)
    finally:
        await gateway.close()
        await stand.end()


async def seen(client: Client, meta: Json | None) -> Json:
    """The `_meta` that the server got with a request that has this one."""
    params: Json = {"uri": "mem://a"} | ({} if meta is None else {"_meta": meta})
    answer: Json = await client.request("resources/read", params)
    found = answer["result"]["params"].get("_meta", {})
    assert isinstance(found, dict)
    return found


@scene
async def test_without_a_tracer_everything_passes_as_it_is() -> None:
    async with running("legacy") as at:
        client = Client(at.gateway)
        await client.initialize()
        assert await seen(client, CARRIED) == CARRIED
        assert await seen(client, None) == {}
        client.talk.close()


@scene
async def test_a_server_gets_our_span_as_its_parent_and_no_baggage() -> None:
    for word, modern in (("legacy", False), ("modern", True), ("legacy", True), ("modern", False)):
        async with running(word) as at:
            at.trace()
            client = Client(at.gateway)
            await client.initialize()
            meta = await seen(client, CARRIED | (MODERN if modern else {}))
            [span] = at.spans
            assert meta["traceparent"] == f"00-{TRACE}-{span['ids'][1]}-01"
            assert meta["tracestate"] == "a=b"
            assert meta["com.example/k"] == [1]
            assert "baggage" not in meta
            assert (span["trace"], span["parent"]) == (TRACE, SPAN)
            client.talk.close()


@scene
async def test_a_client_that_says_nothing_or_nonsense_begins_a_trace() -> None:
    async with running("legacy") as at:
        at.trace()
        client = Client(at.gateway)
        await client.initialize()
        for meta in (None, {"traceparent": "nonsense", "tracestate": "a=b"}, {"traceparent": 5}):
            got = await seen(client, meta)
            span = at.spans[-1]
            assert (got["traceparent"], span["parent"]) == (f"00-{span['trace']}-{span['ids'][1]}-01", "")
            assert "tracestate" not in got
        client.talk.close()


@scene
async def test_a_progress_token_and_a_span_go_together() -> None:
    async with running("legacy") as at:
        at.trace()
        client = Client(at.gateway)
        await client.initialize()
        params = {"name": "a__progress", "_meta": {"progressToken": "p"} | CARRIED}
        client.send({"jsonrpc": "2.0", "id": 50, "method": "tools/call", "params": params})
        told = await client.next()
        assert told["params"] == {"progressToken": "p", "progress": 1, "x": 1}
        assert (await client.next())["id"] == 50
        client.talk.close()


@scene
async def test_a_span_says_what_was_called_by_whom_and_how_it_went() -> None:
    async with running("legacy") as at:
        at.trace()
        client = Client(at.gateway, name="ci")
        await client.initialize()
        await client.request("tools/call", {"name": "a__echo", "arguments": {"secret": "hunter2"}})
        await client.request("prompts/get", {"name": "a__hello"})
        await client.request("resources/read", {"uri": "mem://a"})
        call, prompt, read = at.spans
        assert call["name"] == "tools/call a__echo"
        about = {"mcp.method.name": "tools/call", "gen_ai.operation.name": "execute_tool"}
        assert call["server"] == about | {
            "gen_ai.tool.name": "a__echo",
            "jsonrpc.request.id": "2",
            "mcp.protocol.version": "2025-11-25",
            "enduser.id": "ci",
        }
        assert call["client"] == about | {
            "gen_ai.tool.name": "echo",
            "jsonrpc.request.id": call["client"]["jsonrpc.request.id"],
            "mcp.protocol.version": "2025-11-25",
            "network.transport": "pipe",
            "supervisor.server": "a",
            "supervisor.session": 1,
        }
        assert (prompt["name"], prompt["client"]["gen_ai.prompt.name"]) == ("prompts/get a__hello", "hello")
        assert (read["name"], read["server"]["mcp.resource.uri"]) == ("resources/read", "mem://a")
        assert b"hunter2" not in b"".join(at.shipped)
        client.talk.close()


@scene
async def test_a_call_that_fails_or_is_cancelled_has_a_span_that_says_so() -> None:
    async with running("legacy") as at:
        at.trace()
        client = Client(at.gateway)
        await client.initialize()
        await client.request("tools/call", {"name": "a__echo", "arguments": {}})
        client.send({"jsonrpc": "2.0", "id": 9, "method": "tools/call", "params": {"name": "a__wait"}})
        await asyncio.sleep(0)
        client.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 9}})
        await client.request("tools/call", {"name": "a__exit", "arguments": {}})
        _, cancelled, lost = at.spans
        assert cancelled["server"]["error.type"] == cancelled["client"]["error.type"] == "cancelled"
        assert lost["server"]["rpc.response.status_code"] == "-31001"
        client.talk.close()


@scene
async def test_a_trace_that_is_not_sampled_is_carried_on_and_not_recorded() -> None:
    async with running("legacy") as at:
        at.trace()
        client = Client(at.gateway)
        await client.initialize()
        meta = await seen(client, {"traceparent": f"00-{TRACE}-{SPAN}-00"})
        assert meta["traceparent"].startswith(f"00-{TRACE}-")
        assert meta["traceparent"].endswith("-00")
        assert SPAN not in meta["traceparent"]
        assert at.shipped == []
        client.talk.close()


@scene
async def test_every_part_of_a_call_that_waits_for_its_client_is_in_the_trace() -> None:
    """A legacy server asks a modern client: the later part is linked to the one before."""
    other = "c" * 32
    for says, trace in (({}, TRACE), ({"traceparent": f"00-{other}-{SPAN}-01"}, other)):
        async with running("legacy") as at:
            at.trace()
            client, able = (
                Client(at.gateway),
                MODERN | {"io.modelcontextprotocol/clientCapabilities": {"roots": {}}},
            )
            asked = await client.request("tools/call", {"name": "a__ask", "_meta": able | CARRIED})
            result = asked["result"]
            answers: Json = {name: {"roots": []} for name in result["inputRequests"]}
            retry = {"name": "a__ask", "requestState": result["requestState"], "inputResponses": answers}
            assert "result" in await client.request("tools/call", retry | {"_meta": able | says})
            first, second = at.spans
            assert (first["trace"], first["earlier"]) == (TRACE, [])
            assert (second["trace"], second["earlier"]) == (trace, [TRACE, first["ids"][0]])
            assert second["parent"] == (SPAN if says else first["ids"][0])
            assert second["name"] == first["name"] == "tools/call a__ask"
            assert second["client"]["gen_ai.tool.name"] == "ask"
            client.talk.close()
