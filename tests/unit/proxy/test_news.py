"""Subscriptions in all four combinations of eras: heard of by who asked, under the name that was asked for."""

from __future__ import annotations

import asyncio

import pytest

from supervisor.proxy import listening, message
from tests.unit.proxy.puppet import LISTED, Json, Puppet
from tests.unit.proxy.scene import scene
from tests.unit.proxy.stand import Client, World, code, modern, puppet, world

UPDATED = "notifications/resources/updated"
TAG = "io.modelcontextprotocol/subscriptionId"


def note(method: str, **params: object) -> Json:
    return {"jsonrpc": "2.0", "method": method, "params": params}


async def subscribed(it: World, client: Client, uri: str = "mem://a") -> Puppet:
    """A legacy client's subscription, taken by its server, whatever its era."""
    number = client.ask("resources/subscribe", {"uri": uri})
    server = await it.greeted()
    asked = await server.next()
    if asked["method"] == "resources/subscribe":
        server.answer(asked, {})
    assert (await client.answer(number))["result"] == {}
    return server


async def listening_to(it: World, client: Client, **wanted: object) -> tuple[int, Puppet]:
    """A modern client's, acknowledged."""
    number = client.ask("subscriptions/listen", modern({"notifications": wanted}))
    server = await it.greeted()
    asked = await server.next()
    if asked["method"] == "resources/subscribe":
        server.answer(asked, {})
    acknowledged = await client.next()
    assert acknowledged["method"] == "notifications/subscriptions/acknowledged"
    assert acknowledged["params"] == {"notifications": wanted, "_meta": {TAG: number}}
    return number, server


@pytest.mark.parametrize("era", ["legacy", "modern"])
@scene
async def test_a_legacy_client_hears_of_what_it_subscribed_to(era: str) -> None:
    async with world({"p": puppet(era)}) as it:
        client = await it.legacy()
        server = await subscribed(it, client)
        for uri in ("mem://a", "mem://a/part"):
            server.send(note(UPDATED, uri=uri))
            assert await client.next() == note(UPDATED, uri=uri)
        number = client.ask("resources/unsubscribe", {"uri": "mem://a"})
        asked = await server.next()
        if era == "legacy":
            assert (asked["method"], asked["params"]) == ("resources/unsubscribe", {"uri": "mem://a"})
            server.answer(asked, {})
        else:
            assert asked["method"] == "notifications/cancelled"
        assert (await client.answer(number))["result"] == {}
        assert all(not each.holders for each in it.gateway.servers["p"].instances.values())


@pytest.mark.parametrize("era", ["legacy", "modern"])
@scene
async def test_a_modern_client_hears_of_what_it_listens_to_under_its_own_id(era: str) -> None:
    async with world({"p": puppet(era)}) as it:
        client = it.client()
        number, server = await listening_to(it, client, resourceSubscriptions=["mem://a"])
        for uri in ("mem://other", "mem://a", "mem://a/part"):
            server.send(note(UPDATED, uri=uri))
        for _ in range(2):
            assert await client.next() == note(UPDATED, uri="mem://a", _meta={TAG: number})
        client.send(note("notifications/cancelled", requestId=number))
        gone = await server.next()
        assert gone["method"] == ("resources/unsubscribe" if era == "legacy" else "notifications/cancelled")
        assert await client.next() == {}
        assert client.answered == {b"%d" % number: 1}
        assert all(not each.holders for each in it.gateway.servers["p"].instances.values())


@scene
async def test_colliding_resources_are_told_under_the_name_that_was_asked_for() -> None:
    async with world({"p": puppet(), "q": puppet()}) as it:
        client, other = await it.legacy(), it.client()
        server = await subscribed(it, client, "supervisor://q/mem://a")
        server.send(note(UPDATED, uri="mem://a", x=1.5))
        assert await client.next() == note(UPDATED, uri="supervisor://q/mem://a", x=1.5)
        number, server = await listening_to(it, other, resourceSubscriptions=["supervisor://p/mem://a"])
        server.send(note(UPDATED, uri="mem://a"))
        expected = note(UPDATED, uri="supervisor://p/mem://a", _meta={TAG: number})
        assert await other.next() == expected
        assert client.waiting() == 0


@scene
async def test_of_a_shared_process_each_hears_what_it_asked_for_and_the_server_is_asked_once() -> None:
    async with world({"p": puppet(session={"share": "server"})}) as it:
        one, other, third = await it.legacy(), await it.legacy(name="uid:2"), await it.legacy(name="uid:3")
        server = await subscribed(it, one)
        assert (await other.request("resources/subscribe", {"uri": "mem://a"}))["result"] == {}
        number = third.ask("resources/subscribe", {"uri": "mem://t/1"})
        server.answer(await server.next(), {})
        await third.answer(number)
        server.send(note(UPDATED, uri="mem://a"))
        assert await one.next() == await other.next() == note(UPDATED, uri="mem://a")
        assert third.waiting() == 0
        one.talk.close()
        assert (await other.request("ping"))["result"] == {}
        other.talk.close()
        asked = await server.next()
        assert (asked["method"], asked["params"]) == ("resources/unsubscribe", {"uri": "mem://a"})


@scene
async def test_who_subscribes_while_the_server_is_asked_gets_the_same_answer() -> None:
    async with world({"p": puppet(session={"share": "server"})}) as it:
        one, other = await it.legacy(), await it.legacy(name="uid:2")
        numbers = [client.ask("resources/subscribe", {"uri": "mem://a"}) for client in (one, other)]
        server = await it.greeted()
        asked = await server.next()
        await asyncio.sleep(0.01)
        error = {"code": -32099, "message": "no", "data": {"x": [1.5]}}
        server.send({"jsonrpc": "2.0", "id": asked["id"], "error": error})
        assert [(await c.answer(n))["error"] for c, n in zip((one, other), numbers, strict=True)] == [error, error]
        assert all(not each.holders for each in it.gateway.servers["p"].instances.values())


@scene
async def test_the_acknowledgement_comes_first() -> None:
    async with world({"p": puppet()}) as it:
        client = it.client()
        wanted = {"resourceSubscriptions": ["mem://a", "mem://t/2"], "toolsListChanged": True}
        number = client.ask("subscriptions/listen", modern({"notifications": wanted}))
        server = await it.greeted()
        server.answer(await server.next(), {})
        second = await server.next()
        for _ in range(3):
            server.send(note(UPDATED, uri="mem://a"))
        await asyncio.sleep(0.01)
        assert client.waiting() == 0
        server.answer(second, {})
        assert (await client.next())["method"] == "notifications/subscriptions/acknowledged"
        assert await client.next() == note(UPDATED, uri="mem://a", _meta={TAG: number})
        assert client.waiting() == 0


@scene
async def test_what_cannot_be_heard_of_is_not_acknowledged() -> None:
    async with world({"p": puppet(resources={"deny": [["mem://t/9", "f:1"]]}), "q": puppet()}) as it:
        client = it.client()
        uris = ["no://where", "supervisor://p/mem://t/9", "supervisor://p/mem://t/1", "supervisor://p/mem://a"]
        client.ask("subscriptions/listen", modern({"notifications": {"resourceSubscriptions": uris}}))
        server = await it.greeted()
        asked = await server.next()
        assert asked["params"] == {"uri": "mem://t/1"}
        server.send({"jsonrpc": "2.0", "id": asked["id"], "error": {"code": 1, "message": "no"}})
        server.answer(await server.next(), {})
        told = (await client.next())["params"]["notifications"]
        assert told == {"resourceSubscriptions": ["supervisor://p/mem://a"]}


@pytest.mark.parametrize("when", ["starting", "asking"])
@scene
async def test_a_listener_that_leaves_before_it_is_heard_leaves_nothing(when: str) -> None:
    async with world({"p": puppet()}) as it:
        client = it.client()
        wanted = {"resourceSubscriptions": ["mem://a", "mem://t/1"]}
        number = client.ask("subscriptions/listen", modern({"notifications": wanted}))
        server = await it.puppet()
        if when == "asking":
            await server.greet()
            asked = await server.next()
        client.send(note("notifications/cancelled", requestId=number))
        assert await client.next() == {}
        if when == "asking":
            server.answer(asked, {})
        else:
            await server.greet()
            server.answer(await server.next(), {})
        assert (await server.next())["method"] == "resources/unsubscribe"
        assert client.waiting() == 0
        assert all(not each.holders for each in it.gateway.servers["p"].instances.values())


@scene
async def test_a_server_that_never_answers_does_not_hold_the_acknowledgement_for_ever() -> None:
    async with world({"p": puppet(session={"answer": 0.02})}) as it:
        client = it.client()
        wanted = {"resourceSubscriptions": ["mem://a"]}
        client.ask("subscriptions/listen", modern({"notifications": wanted}))
        await it.greeted()
        assert (await client.next())["params"]["notifications"] == {"resourceSubscriptions": []}


@pytest.mark.parametrize("era", ["legacy", "modern"])
@scene
async def test_a_stream_ends_with_the_process_that_it_rests_on(era: str) -> None:
    async with world({"p": puppet(era)}) as it:
        client = it.client()
        number, server = await listening_to(it, client, resourceSubscriptions=["mem://a"])
        server.exit(1)
        answer = await client.answer(number)
        assert answer["result"] == {"resultType": "complete", "_meta": {TAG: number}}
        assert client.talk.calls == {}
        assert it.gateway.news._of == {}


@pytest.mark.parametrize("how", ["result", "error"])
@scene
async def test_a_stream_ends_with_the_one_that_it_rests_on(how: str) -> None:
    async with world({"p": puppet("modern")}) as it:
        client = it.client()
        number = client.ask(
            "subscriptions/listen", modern({"notifications": {"resourceSubscriptions": ["mem://a"]}})
        )
        server = await it.greeted()
        asked = await server.next()
        assert (await client.next())["method"] == "notifications/subscriptions/acknowledged"
        server.send({"jsonrpc": "2.0", "id": asked["id"], how: {"code": -32601, "message": "no"}})
        assert "result" in await client.answer(number)
        assert all(not each.holders for each in it.gateway.servers["p"].instances.values())
        assert not server.killed


@scene
async def test_the_end_of_the_gateway_ends_every_stream() -> None:
    async with world({"p": puppet()}) as it:
        client = it.client()
        number = client.ask("subscriptions/listen", modern({"notifications": {"toolsListChanged": True}}))
        assert (await client.next())["method"] == "notifications/subscriptions/acknowledged"
        await it.gateway.close()
        assert "result" in await client.answer(number)


@scene
async def test_changed_lists_are_told_to_those_who_asked() -> None:
    async with world({"p": puppet("modern")}) as it:
        tools, prompts, old = it.client(), it.client(), await it.legacy()
        for client, kind in ((tools, "toolsListChanged"), (prompts, "promptsListChanged")):
            client.ask("subscriptions/listen", modern({"notifications": {kind: True}}))
            assert (await client.next())["params"]["notifications"] == {kind: True}
        tools.ask("tools/call", modern({"name": "p__one"}))
        server = await it.greeted()
        assert {(await server.next())["method"] for _ in range(2)} == {"tools/call", "subscriptions/listen"}
        server.send(note("notifications/tools/list_changed"))
        for _ in LISTED:
            asked = await server.next()
            server.answer(asked, LISTED[asked["method"]])
        assert (await tools.next())["method"] == "notifications/tools/list_changed"
        assert await old.next() == note("notifications/tools/list_changed")
        assert prompts.waiting() == 0


@scene
async def test_what_may_be_subscribed_to_in_one_process_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "MOST_OF_ONE_PROCESS", 2)
    async with world({"p": puppet("modern")}) as it:
        client = await it.legacy()
        await subscribed(it, client)
        answers = [await client.request("resources/subscribe", {"uri": f"mem://t/{n}"}) for n in range(2)]
        assert answers[0]["result"] == {}
        assert "2 resources of this server" in answers[1]["error"]["message"]
        assert (await client.request("resources/subscribe", {"uri": "mem://a"}))["result"] == {}


@scene
async def test_a_subscription_to_a_server_that_dies_is_answered() -> None:
    async with world({"p": puppet("modern")}) as it:
        client = await it.legacy()
        number = client.ask("resources/subscribe", {"uri": "mem://a"})
        (await it.puppet()).exit(5)
        answer = await client.answer(number)
        assert "exited with status 5" in answer["error"]["message"]
        assert client.answered[b"%d" % number] == 1
        assert code(answer) != message.NOT_ALLOWED
        assert it.gateway.servers["p"].load == {}
