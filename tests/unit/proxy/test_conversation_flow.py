"""Cancelling, leaving and not reading, at every stage of a call: one answer or none, and nothing left behind."""

from __future__ import annotations

import asyncio
import json

import pytest

from supervisor.proxy import conversation, envelope, message
from tests.unit.proxy.puppet import Puppet
from tests.unit.proxy.scene import scene
from tests.unit.proxy.stand import Client, World, code, modern, puppet, said, world

CALL = {"name": "p__one"}
STAGES = ["held", "started", "greeting", "under way"]


async def reach(it: World, stage: str) -> Puppet | None:
    """Bring a call so far; its process, if there is one."""
    if stage == "held":
        return None
    server = await it.puppet()
    if stage == "greeting":
        await server.next()
    if stage == "under way":
        await server.greet()
        await server.until("tools/call")
    return server


def nothing_left(it: World, client: Client) -> None:
    assert client.talk.calls == {}
    assert all(each.load == {} for each in it.gateway.servers.values())
    assert all(not each.busy for server in it.gateway.servers.values() for each in server.instances.values())


@pytest.mark.parametrize("stage", STAGES)
@scene
async def test_a_cancelled_call_gets_no_answer_and_its_server_is_told(stage: str) -> None:
    async with world({"p": puppet()}) as it:
        client = await it.legacy()
        if stage == "held":
            it.stand.held.clear()
        number = client.ask("tools/call", CALL)
        server = await reach(it, stage)
        params = {"requestId": number, "reason": "changed my mind", "x": 1}
        client.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})
        client.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})
        assert await client.next() == {}
        assert client.answered[b"%d" % number] == 1
        if stage == "under way" and server:
            told = await server.next()
            assert told == {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": told["params"]}
            assert told["params"] == params | {"requestId": told["params"]["requestId"]}
            server.send({"jsonrpc": "2.0", "id": told["params"]["requestId"], "result": {}})
            nothing_left(it, client)
        it.stand.held.set()
        assert (await client.request("ping"))["result"] == {}
        assert client.waiting() == 0


@pytest.mark.parametrize("stage", STAGES)
@scene
async def test_a_client_that_leaves_takes_what_was_its_alone_with_it(stage: str) -> None:
    async with world({"p": puppet()}) as it:
        client = await it.legacy()
        if stage == "held":
            it.stand.held.clear()
        number = client.ask("tools/call", CALL)
        server = await reach(it, stage)
        client.talk.close()
        assert client.answered[b"%d" % number] == 1
        assert client.lines[-1] == b""
        it.stand.held.set()
        await it.until(lambda: not it.gateway.servers["p"].instances and not it.stand.living)
        assert server is None or server.killed
        assert it.gateway.servers["p"].state == "COLD"
        nothing_left(it, client)
        assert it.gateway.conversations == set()


@scene
async def test_a_client_that_reconnects_in_the_middle_of_a_call_starts_anew() -> None:
    async with world({"p": puppet()}) as it:
        first = await it.legacy()
        first.ask("tools/call", CALL)
        old = await it.greeted()
        await old.until("tools/call")
        first.talk.close()
        again = await it.legacy()
        number = again.ask("tools/call", CALL)
        server = await it.greeted()
        server.answer(await server.until("tools/call"), {"n": 2})
        assert (await again.answer(number))["result"] == {"n": 2}
        await it.until(lambda: old.killed)
        assert [json.loads(line) for line in first.lines[1:] if line] == []


@scene
async def test_a_shared_process_lives_on_when_a_client_of_it_leaves() -> None:
    async with world({"p": puppet("modern")}) as it:
        one, other = it.client(), it.client()
        one.ask("tools/call", modern(CALL))
        number = other.ask("tools/call", modern(CALL))
        server = await it.greeted()
        asked = [await server.next(), await server.next()]
        one.talk.close()
        assert (await server.until("notifications/cancelled"))["params"]["requestId"] == asked[0]["id"]
        server.answer(asked[1], {})
        assert "result" in await other.answer(number)
        assert not server.killed


@pytest.mark.parametrize("how", ["cancelled", "answered", "left"])
@scene
async def test_a_process_for_one_call_ends_with_it(how: str) -> None:
    async with world({"p": puppet("modern", session={"share": "call"})}) as it:
        client = it.client()
        number = client.ask("tools/call", modern(CALL))
        server = await it.greeted()
        asked = await server.next()
        if how == "cancelled":
            body = {"requestId": number}
            client.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": body})
        elif how == "left":
            client.talk.close()
        else:
            server.answer(asked, {})
        await it.until(lambda: not it.gateway.servers["p"].instances)
        assert server.killed
        assert client.answered == {b"%d" % number: 1}


@scene
async def test_a_client_that_does_not_read_is_not_read_and_its_own_server_waits() -> None:
    async with world({"p": puppet()}) as it:
        client = await it.legacy()
        heard: list[bool] = []
        client.talk.blocked = heard.append
        number = client.ask("tools/call", CALL)
        server = await it.greeted()
        asked = await server.next()
        client.room = False
        note = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "x" * 100}}
        pouring = asyncio.create_task(server.pour((json.dumps(note).encode() + b"\n") * 20_000))
        await it.until(lambda: heard)
        await asyncio.sleep(0.05)
        assert heard == [True]
        assert not pouring.done()
        assert client.waiting() < 10_000
        client.room = True
        client.on_writable()
        assert heard == [True, False]
        await pouring
        server.answer(asked, {})
        assert "result" in await client.answer(number)
        assert len(client.lines) == 20_002


@scene
async def test_a_process_that_starts_for_a_client_that_does_not_read_waits_from_the_first() -> None:
    async with world({"p": puppet()}) as it:
        client = await it.legacy()
        client.room = False
        client.ask("tools/list")
        client.ask("tools/call", CALL)
        server = await it.puppet()
        await server.next()
        assert next(iter(it.gateway.servers["p"].instances.values())).held
        client.room = True
        client.on_writable()
        await server.pour(b"")


@scene
async def test_nobody_waits_for_long_for_a_client_that_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "PATIENCE", 0.0)
    async with world({"p": puppet("modern", session={"share": "server"})}) as it:
        slow, other = it.client(name="uid:1"), it.client(name="uid:2")
        stuck = slow.ask("tools/call", modern(CALL))
        number = other.ask("tools/call", modern(CALL))
        server = await it.greeted()
        asked = [await server.next(), await server.next()]
        slow.room = False
        slow.ask("server/discover", modern())
        server.answer(asked[1], {})
        await asyncio.sleep(0.02)
        assert other.waiting() == 0
        for each in list(it.gateway.conversations):
            each.look(1e9)
        assert "result" in await other.answer(number)
        assert code(await slow.answer(stuck)) == message.BUSY
        answer = await slow.request("tools/call", modern(CALL))
        assert "does not read" in said(answer)
        assert slow.answered[b"%d" % stuck] == 1
        slow.room = True
        slow.on_writable()
        slow.ask("tools/call", modern(CALL))
        await server.until("tools/call")


@scene
async def test_every_client_of_a_process_that_does_not_read_is_held_back() -> None:
    async with world({"p": puppet("modern")}) as it:
        one, other = it.client(), it.client()
        heard: dict[str, list[bool]] = {"one": [], "other": []}
        one.talk.blocked, other.talk.blocked = heard["one"].append, heard["other"].append
        one.ask("tools/call", modern(CALL))
        server = await it.greeted()
        await server.next()
        server.pause(paused=True)
        large = modern({"name": "p__one", "arguments": {"x": "y" * 300_000}})
        other.ask("tools/call", large)
        await it.until(lambda: heard["other"])
        assert heard == {"one": [True], "other": [True]}
        # who comes now is held back at once
        late = it.client()
        late.talk.blocked = heard.setdefault("late", []).append
        late.ask("tools/call", large)
        assert heard["late"] == [True]
        server.pause(paused=False)
        await it.until(lambda: all(each == [True, False] for each in heard.values()))


@scene
async def test_the_end_of_a_full_process_sets_its_clients_free() -> None:
    async with world({"p": puppet()}) as it:
        client = await it.legacy()
        heard: list[bool] = []
        client.talk.blocked = heard.append
        client.ask("tools/call", CALL)
        server = await it.greeted()
        await server.next()
        server.pause(paused=True)
        number = client.ask("tools/call", {"name": "p__one", "arguments": {"x": "y" * 300_000}})
        await it.until(lambda: heard)
        assert heard == [True]
        server.exit(1)
        assert code(await client.answer(number)) == envelope.SERVER_ENDED
        await it.until(lambda: heard[-1] is False)
