"""Whose question it is that a legacy server asks: never another call's, and never another user's."""

from __future__ import annotations

import pytest

from supervisor.proxy import asking, message, parked, servers
from tests.unit.proxy.puppet import Json, Puppet
from tests.unit.proxy.scene import scene
from tests.unit.proxy.stand import Client, World, code, modern, puppet, said, world

CALL = {"name": "p__one"}
ABLE: dict[str, object] = {"roots": {}, "elicitation": {}}
KINDS = ["roots/list", "elicitation/create"]
DONE = {"done": 1}


def question(name: str, method: str = "elicitation/create") -> Json:
    return {"jsonrpc": "2.0", "id": name, "method": method, "params": {"n": name}}


async def called(it: World, client: Client) -> tuple[int, Puppet, Json]:
    """A call that has reached a process of its own."""
    number = client.ask("tools/call", modern(CALL, **ABLE))
    server = await it.greeted()
    return number, server, await server.until("tools/call")


def retry(result: Json) -> dict[str, object]:
    answers = {name: {"yes": 1} for name in result["inputRequests"]}
    return modern(CALL | {"requestState": result["requestState"], "inputResponses": answers}, **ABLE)


def give_up(it: World, client: Client, number: int, how: str) -> None:
    if how == "cancelled":
        told = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": number}}
        client.send(told)
    elif how == "left":
        client.talk.close()
    else:
        it.gateway.parked.expire(1e12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["cancelled", "left", "did not come back"])
@scene
async def test_what_a_call_that_was_given_up_has_asked_reaches_no_other_call(how: str, kind: str) -> None:
    async with world({"p": puppet()}) as it:
        client, other = it.client(), it.client()
        number, server, _ = await called(it, client)
        if how == "did not come back":
            server.send(question("first", kind))
            assert (await client.answer(number))["result"]["resultType"] == "input_required"
        give_up(it, client, number, how)
        await server.until("notifications/cancelled")
        if how == "did not come back":
            answer = await server.next()
            assert (answer["id"], code(answer)) == ("first", message.INVALID_PARAMS)
        number = other.ask("tools/call", modern(CALL, **ABLE))
        if how == "did not come back":
            # it does ask: its process is another's no more
            next_one = await it.greeted()
            assert server.killed
        else:
            next_one = server
            server.send(question("late", kind))
        asked = await next_one.until("tools/call")
        if next_one is server:
            assert "a call was given up here" in said(await server.next())
        next_one.answer(asked, DONE)
        assert (await other.answer(number))["result"]["done"] == 1
        assert [each for each in other.lines if b"input_required" in each] == []


@scene
async def test_a_process_that_may_still_ask_about_a_call_that_was_given_up_ends_with_its_last_call() -> None:
    async with world({"p": puppet()}) as it:
        client = it.client()
        number, server, _ = await called(it, client)
        give_up(it, client, number, "cancelled")
        second = client.ask("tools/call", modern(CALL, **ABLE))
        asked = await server.until("tools/call")
        server.send(question("late"))
        assert "a call was given up" in said(await server.next())
        third = client.ask("tools/call", modern(CALL, **ABLE))
        fresh = await it.greeted()
        server.answer(asked, DONE)
        assert "result" in await client.answer(second)
        await it.until(lambda: server.killed)
        fresh.answer(await fresh.until("tools/call"), DONE)
        assert "result" in await client.answer(third)
        assert it.gateway.servers["p"].state == "READY"


@scene
async def test_calls_at_the_same_time_share_a_process_until_it_asks_and_never_again() -> None:
    async with world({"p": puppet()}) as it:
        client = it.client()
        first, server, one = await called(it, client)
        second = client.ask("tools/call", modern(CALL, **ABLE))
        await server.until("tools/call")
        server.send(question("whose"))
        server.answer(one, DONE)
        assert "result" in await client.answer(first)
        # only one is left that can have asked
        result = (await client.answer(second))["result"]
        assert [each["params"] for each in result["inputRequests"].values()] == [{"n": "whose"}]
        third, other, asked = await called(it, client)
        fourth, another, _ = await called(it, client)
        other.send(question("third"))
        another.send(question("fourth"))
        found = [(await client.answer(number))["result"] for number in (third, fourth)]
        asked_for = [[each["params"]["n"] for each in result["inputRequests"].values()] for result in found]
        assert asked_for == [["third"], ["fourth"]]
        again = client.ask("tools/call", retry(found[0]))
        assert (await other.next())["result"] == {"yes": 1}
        other.answer(asked, DONE)
        assert (await client.answer(again))["result"]["done"] == 1
        # what is free again is used again
        fifth = client.ask("tools/call", modern(CALL, **ABLE))
        other.answer(await other.until("tools/call"), DONE)
        assert "result" in await client.answer(fifth)
        assert len(it.stand.opened) == 3


@scene
async def test_a_question_that_several_calls_may_have_asked_is_refused_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asking, "_PATIENCE", 0.05)
    async with world({"p": puppet()}) as it:
        client = it.client()
        numbers = [client.ask("tools/call", modern(CALL, **ABLE)) for _ in range(2)]
        server = await it.greeted()
        asked = [await server.until("tools/call") for _ in numbers]
        server.send(question("whose"))
        answer = await server.next()
        assert (answer["id"], "nobody can tell" in said(answer)) == ("whose", True)
        for number, each in zip(numbers, asked, strict=True):
            server.answer(each, DONE)
            assert (await client.answer(number))["result"]["done"] == 1


@pytest.mark.parametrize("share", ["principal", "server"])
@scene
async def test_no_question_crosses_from_one_user_to_another(share: str) -> None:
    async with world({"p": puppet(session={"share": share})}) as it:
        one, other = it.client(), it.client(name="uid:2")
        number, server, _ = await called(it, one)
        give_up(it, one, number, "cancelled")
        second = other.ask("tools/call", modern(CALL, **ABLE))
        theirs = server if share == "server" else await it.greeted()
        asked = await theirs.until("tools/call")
        server.send(question("late"))
        answer = await server.until_answer("late")
        assert code(answer) == message.METHOD_NOT_FOUND
        theirs.answer(asked, DONE)
        assert (await other.answer(second))["result"]["done"] == 1
        assert [each for each in other.lines if b"input_required" in each] == []


@scene
async def test_clients_that_cannot_be_asked_share_a_process_whatever_happens() -> None:
    async with world({"p": puppet()}) as it:
        able, client = it.client(), it.client()
        number, server, _ = await called(it, able)
        server.send(question("q"))
        await able.answer(number)
        first, second = (client.ask("tools/call", modern(CALL)) for _ in range(2))
        plain = await it.greeted()
        asked = [await plain.until("tools/call") for _ in (first, second)]
        give_up(it, client, first, "cancelled")
        third = client.ask("tools/call", modern(CALL))
        asked.append(await plain.until("tools/call"))
        for each, request in zip((second, third), asked[1:], strict=True):
            plain.answer(request, DONE)
            assert (await client.answer(each))["result"]["done"] == 1
        assert len(it.stand.opened) == 2


@scene
async def test_a_client_that_does_not_come_back_loses_its_process_to_others_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parked, "MAX_OWN", 1000)
    async with world({"p": puppet(quota={"sessions": 1})}) as it:
        client = it.client()
        number, server, _ = await called(it, client)
        server.send(question("q"))
        result = (await client.answer(number))["result"]
        assert code(await client.request("tools/call", modern(CALL, **ABLE))) == message.BUSY
        monkeypatch.setattr(servers, "_FORSAKEN", 0.0)
        second, other, asked = await called(it, client)
        assert server.killed
        other.answer(asked, DONE)
        assert "result" in await client.answer(second)
        assert "another client needed its place" in said(await client.request("tools/call", retry(result)))
