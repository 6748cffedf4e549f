"""What is done once a second: calls that nobody answers, processes that nobody uses, processes that do not live."""

from __future__ import annotations

import asyncio
import time

import pytest

from supervisor.proxy import care, envelope
from tests.unit.proxy.puppet import Json, Puppet
from tests.unit.proxy.scene import scene
from tests.unit.proxy.stand import Client, World, code, modern, puppet, said, world

CALL = {"name": "p__one"}


def later(it: World, seconds: float) -> None:
    it.gateway._care.look(time.monotonic() + seconds)


async def under_way(it: World, client: Client, params: Json | None = None) -> tuple[int, Puppet, Json]:
    number = client.ask("tools/call", params or CALL)
    server = await it.greeted()
    return number, server, await server.until("tools/call")


async def answered(it: World, client: Client) -> Puppet:
    number, server, asked = await under_way(it, client)
    server.answer(asked, {})
    await client.answer(number)
    return server


@scene
async def test_a_call_without_any_message_is_given_up_and_its_server_told() -> None:
    async with world({"p": puppet(session={"answer": 60})}) as it:
        client = await it.legacy()
        number, server, asked = await under_way(it, client)
        later(it, 59)
        assert client.waiting() == 0
        later(it, 61)
        answer = await client.answer(number)
        assert (code(answer), "session.answer" in said(answer)) == (envelope.SERVER_SILENT, True)
        told = await server.next()
        assert (told["method"], told["params"]["requestId"]) == ("notifications/cancelled", asked["id"])
        server.answer(asked, {"late": 1})
        assert (await client.request("ping"))["result"] == {}
        assert client.answered[b"%d" % number] == 1


@scene
async def test_progress_is_a_message() -> None:
    async with world({"p": puppet(session={"answer": 60})}) as it:
        client = await it.legacy()
        number, server, asked = await under_way(it, client)
        call = client.talk.calls[b"%d" % number]
        call.touched -= 59
        body = {"progressToken": asked["id"], "progress": 1}
        server.send({"jsonrpc": "2.0", "method": "notifications/progress", "params": body})
        server.send({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info"}})
        await client.next()
        later(it, 30)
        assert number in [int(key) for key in client.talk.calls]


@pytest.mark.parametrize("era", ["legacy", "modern"])
@scene
async def test_the_time_that_a_person_takes_is_not_the_server_s(era: str) -> None:
    rules = {"answer": 60, "idle": 10_000}
    async with world({"p": puppet(era, session=rules, health={"interval": 10_000})}) as it:
        client = await it.legacy(roots={})
        number, server, asked = await under_way(it, client)
        wanted = {"q": {"method": "roots/list", "params": {}}}
        if era == "modern":
            server.answer(asked, {"resultType": "input_required", "inputRequests": wanted})
        else:
            server.send({"jsonrpc": "2.0", "id": "q", "method": "roots/list", "params": {}})
        question = await client.next()
        later(it, 1000)
        assert client.waiting() == 0
        client.send({"jsonrpc": "2.0", "id": question["id"], "result": {"roots": []}})
        if era == "modern":
            await server.until("tools/call")
        later(it, 59)
        assert client.waiting() == 0
        later(it, 61)
        assert code(await client.answer(number)) == envelope.SERVER_SILENT


@scene
async def test_a_process_that_nobody_uses_is_ended_and_started_again_when_it_is_needed() -> None:
    async with world({"p": puppet(session={"idle": 60}, health={"interval": 1000})}) as it:
        client = await it.legacy()
        server = await answered(it, client)
        later(it, 59)
        assert not server.killed
        later(it, 61)
        await it.until(lambda: server.killed and not it.gateway.servers["p"].instances)
        assert it.gateway.servers["p"].state == "COLD"
        await answered(it, client)


@scene
async def test_a_process_with_a_call_or_a_subscription_is_in_use() -> None:
    async with world({"p": puppet(session={"idle": 60}, health={"interval": 1000})}) as it:
        client = await it.legacy()
        _, server, _ = await under_way(it, client)
        later(it, 100)
        assert not server.killed
        other = await it.legacy(name="uid:2")
        number = other.ask("resources/subscribe", {"uri": "mem://a"})
        second = await it.greeted()
        second.answer(await second.next(), {})
        await other.answer(number)
        later(it, 100)
        assert not second.killed


@pytest.mark.parametrize(("era", "method"), [("legacy", "ping"), ("modern", "server/discover")])
@scene
async def test_a_process_that_is_silent_again_and_again_is_ended_as_unwell(era: str, method: str) -> None:
    rules = {"interval": 0.02, "failures": 3}
    async with world({"p": puppet(era, session={"idle": 1000}, health=rules)}) as it:
        client = await it.legacy()
        server = await answered(it, client)
        instance = next(iter(it.gateway.servers["p"].instances.values()))
        for _ in range(3):
            later(it, 1)
            assert (await server.next())["method"] == method
            await it.until(lambda: not instance.pending)
        await it.until(lambda: server.killed and not it.gateway.servers["p"].instances)
        assert it.gateway.servers["p"].state == "DEGRADED"
        assert "did not answer 3 times in a row (health.failures)" in it.gateway.servers["p"].last_error
        assert it.gateway._care._silences == {}


@pytest.mark.parametrize("answer", ["result", "error"])
@scene
async def test_any_answer_is_a_sign_of_life_and_no_use(answer: str) -> None:
    async with world({"p": puppet(session={"idle": 60}, health={"interval": 5, "failures": 1})}) as it:
        client = await it.legacy()
        server = await answered(it, client)
        instance = next(iter(it.gateway.servers["p"].instances.values()))
        used = instance.used
        later(it, 10)
        asked = await server.next()
        server.send({"jsonrpc": "2.0", "id": asked["id"], answer: {"code": 1, "message": ""}})
        await it.until(lambda: not instance.pending)
        assert instance.used == used
        later(it, 61)
        await it.until(lambda: server.killed)
        assert it.gateway.servers["p"].row.failures == 0


@scene
async def test_a_process_whose_client_does_not_read_is_not_asked_whether_it_lives() -> None:
    async with world({"p": puppet(health={"interval": 5})}) as it:
        client = await it.legacy()
        server = await answered(it, client)
        client.room = False
        client.ask("tools/list")
        later(it, 10)
        client.room = True
        client.on_writable()
        client.ask("tools/call", CALL)
        assert (await server.next())["method"] == "tools/call"


@scene
async def test_a_subscribed_process_is_asked_whether_it_lives() -> None:
    async with world({"p": puppet(health={"interval": 5})}) as it:
        client = await it.legacy()
        number = client.ask("resources/subscribe", {"uri": "mem://a"})
        server = await it.greeted()
        server.answer(await server.next(), {})
        await client.answer(number)
        later(it, 10)
        asked = await server.next()
        assert asked["method"] == "ping"
        server.answer(asked, {})


@scene
async def test_it_is_done_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(care, "TICK", 0.001)
    async with world({"p": puppet(session={"answer": 0.01})}) as it:
        it.gateway.start()
        asked = asyncio.create_task(it.client().request("tools/call", modern(CALL)))
        await it.greeted()
        assert code(await asked) == envelope.SERVER_SILENT
