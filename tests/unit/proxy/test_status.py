"""What is told of a gateway: numbers for the metrics, states for people; and how each call is counted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from supervisor.proxy import message, status
from supervisor.proxy.gateway import Gateway
from supervisor.proxy.journal import Journal
from tests.unit.proxy.stand import Client, Entry, Meter, Stand, pinned, small


@asynccontextmanager
async def running(servers: dict[str, Entry]) -> AsyncIterator[Gateway]:
    stand = Stand(await pinned(servers))
    gateway = Gateway(stand, Meter(), Journal(quiet=True))
    assert await gateway.load() == []
    try:
        yield gateway
    finally:
        await gateway.close()
        await stand.end()


def only_server(gateway: Gateway) -> dict[str, Any]:
    """What is told of it, through JSON."""
    [found] = json.loads(json.dumps(status.status(gateway)))["servers"]
    assert isinstance(found, dict)
    return found


def counted(gateway: Gateway) -> list[tuple[object, ...]]:
    assert isinstance(gateway.meter, Meter)
    return [each for each in gateway.meter.counted if each[0] == "called"]


def test_a_cold_server_is_shown_without_a_process() -> None:
    async def scene() -> None:
        async with running({"a": small("legacy")}) as gateway:
            look = next(status.looks(gateway))
            assert (look.server, look.state, look.ready, look.in_flight, look.sent) == ("a", "COLD", 0, 0, 0)
            told = only_server(gateway)
            assert told["sessions"] == []
            assert told["eras"] == ["legacy"]

    asyncio.run(scene())


def test_a_running_server_is_shown_with_its_process_calls_and_bytes() -> None:
    async def scene() -> None:
        async with running({"a": small("legacy")}) as gateway:
            client = Client(gateway)
            await client.initialize()
            await client.request("tools/call", {"name": "a__echo", "arguments": {}})
            client.send({"jsonrpc": "2.0", "id": 99, "method": "tools/call", "params": {"name": "a__wait"}})
            look = next(status.looks(gateway))
            assert (look.state, look.ready, look.in_flight, look.waiting) == ("READY", 1, 1, 0)
            assert look.sent > 100
            assert look.received > 100
            assert status.status(gateway)["clients"] == 1
            server = only_server(gateway)
            assert (server["calls"], server["in_flight"], server["error"]) == (1, 1, "")
            [session] = server["sessions"]
            assert (session["era"], session["state"], session["user"]) == ("legacy", "READY", "uid:1")
            assert (session["session"], session["in_flight"], session["idle"]) == (1, 1, 0.0)

    asyncio.run(scene())


def test_a_call_that_waits_for_a_start_is_counted_as_waiting() -> None:
    async def scene() -> None:
        async with running({"a": small("legacy")}) as gateway:
            client = Client(gateway)
            await client.initialize()
            client.send({"jsonrpc": "2.0", "id": 99, "method": "tools/call", "params": {"name": "a__echo"}})
            look = next(status.looks(gateway))
            assert (look.starting, look.ready, look.in_flight, look.waiting) == (1, 0, 1, 1)

    asyncio.run(scene())


def test_a_failure_is_shown_with_its_reason() -> None:
    async def scene() -> None:
        async with running({"a": small("legacy")}) as gateway:
            client = Client(gateway)
            await client.initialize()
            answer = await client.request("tools/call", {"name": "a__exit", "arguments": {"status": 7}})
            assert "error" in answer
            while gateway.servers["a"].state == "READY":
                await asyncio.sleep(0)
            told = only_server(gateway)
            assert told["state"] == "DEGRADED"
            assert "exited with status 7" in told["error"]
            assert counted(gateway)[-1] == ("called", "a", "a__exit", "-31001")

    asyncio.run(scene())


def test_tools_are_counted_by_name_everything_else_by_method() -> None:
    async def scene() -> None:
        async with running({"a": small("legacy")}) as gateway:
            client = Client(gateway)
            await client.initialize()
            await client.request("tools/call", {"name": "a__echo", "arguments": {}})
            await client.request("resources/read", {"uri": "mem://a"})
            single = Client(gateway, only="a")
            await single.initialize()
            await single.request("vendor/made-up-by-a-client")
            assert [each[1:] for each in counted(gateway)] == [
                ("a", "a__echo", "ok"),
                ("a", "resources/read", "ok"),
                ("a", "other", "-32601"),
            ]

    asyncio.run(scene())


def test_a_cancelled_call_is_counted_as_cancelled() -> None:
    async def scene() -> None:
        async with running({"a": small("legacy")}) as gateway:
            client = Client(gateway)
            await client.initialize()
            client.send({"jsonrpc": "2.0", "id": 99, "method": "tools/call", "params": {"name": "a__wait"}})
            client.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 99}})
            assert counted(gateway) == [("called", "a", "a__wait", "cancelled")]

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ('{"result":{"content":[]}}', "ok"),
        ('{"result":{"content":[],"isError":true}}', "tool_error"),
        ('{"result":{"isError": true ,"content":[{"type":"text","text":"' + "x" * 5000 + '"}]}}', "tool_error"),
        (
            '{"result":{"content":[{"type":"text","text":"' + "x" * 5000 + '"}],"isError":true,"_meta":{}}}',
            "tool_error",
        ),
        ('{"result":{"content":[],"isError":false}}', "ok"),
        ('{"result":{"structuredContent":{"isError":true}}}', "ok"),
        ('{"result":{"content":[{"type":"text","text":"\\"isError\\":true"}]}}', "ok"),
        ('{"result":{"isError":"yes"}}', "ok"),
        ('{"result":[1,"isError"]}', "ok"),
        ('{"error":{"code":-32602,"message":"x"}}', "-32602"),
        ('{"error":5}', "0"),
        ('{"error":{"code":"x"}}', '"x"'),
    ],
)
def test_the_outcome_is_read_from_the_answer(answer: str, outcome: str) -> None:
    fields = message.fields(answer.encode())
    assert fields is not None
    assert message.outcome(fields) == outcome
