"""What waits between two requests of one client: its alone, bounded, and answered once."""

from __future__ import annotations

import asyncio

import pytest

from supervisor.proxy import calls, envelope, message, parked
from tests.unit.proxy.puppet import LEGACY, LISTED, Json, Puppet, manifest
from tests.unit.proxy.scene import scene
from tests.unit.proxy.stand import Client, Entry, World, code, modern, puppet, said, world

CALL = {"name": "p__one"}
ROOTS = {"roots": [{"uri": "file:///x"}]}


def question(name: str, method: str = "roots/list") -> Json:
    return {"jsonrpc": "2.0", "id": name, "method": method, "params": {"x": 1.5, "n": name}}


async def asked(it: World, client: Client, *names: str) -> tuple[Json, Puppet, Json]:
    """A call of a modern client at a legacy server that wants to know something: result, server, request."""
    number = client.ask("tools/call", modern(CALL, roots={}))
    server = await it.greeted()
    request = await server.until("tools/call")
    for name in names or ("q",):
        server.send(question(name))
    found: Json = (await client.answer(number))["result"]
    return found, server, request


def retry(result: Json, answers: object = None, **changes: object) -> dict[str, object]:
    given = answers if answers is not None else dict.fromkeys(result["inputRequests"], ROOTS)
    return modern(CALL | {"requestState": result["requestState"], "inputResponses": given} | changes, roots={})


@scene
async def test_what_a_legacy_server_asks_reaches_a_modern_client_and_the_answer_comes_back() -> None:
    async with world({"p": puppet()}) as it:
        client = it.client()
        result, server, request = await asked(it, client)
        (name, wanted), *_ = result["inputRequests"].items()
        assert result["resultType"] == "input_required"
        assert wanted == {"method": "roots/list", "params": {"x": 1.5, "n": "q"}}
        number = client.ask("tools/call", retry(result))
        assert await server.next() == {"jsonrpc": "2.0", "id": "q", "result": ROOTS}
        server.answer(request, {"done": 1})
        answer = await client.answer(number)
        assert answer["result"]["done"] == 1
        assert answer["result"]["resultType"] == "complete"
        assert set(client.answered.values()) == {1}
        assert it.gateway.servers["p"].load == {}
        assert name


@scene
async def test_questions_that_come_later_are_asked_in_another_round() -> None:
    async with world({"p": puppet()}) as it:
        client = it.client()
        result, server, request = await asked(it, client, "a", "b")
        assert len(result["inputRequests"]) == 1
        for name in ("a", "b"):
            number = client.ask("tools/call", retry(result))
            assert (await server.next())["id"] == name
            if name == "a":
                result = (await client.answer(number))["result"]
        server.send(question("c"))
        result = (await client.answer(number))["result"]
        number = client.ask("tools/call", retry(result, {}))
        again = (await client.answer(number))["result"]
        assert again["inputRequests"] == result["inputRequests"]
        assert again["requestState"] != result["requestState"]
        number = client.ask("tools/call", retry(again))
        assert (await server.next())["id"] == "c"
        server.answer(request, {})
        assert (await client.answer(number))["result"]["resultType"] == "complete"


@scene
async def test_progress_after_a_retry_comes_under_the_retry_s_token() -> None:
    async with world({"p": puppet()}) as it:
        client = it.client()
        first = modern(CALL, roots={})
        assert isinstance(first["_meta"], dict)
        first["_meta"]["progressToken"] = "old"
        number = client.ask("tools/call", first)
        server = await it.greeted()
        request = await server.until("tools/call")
        server.send(question("q"))
        result = (await client.answer(number))["result"]
        again = retry(result)
        assert isinstance(again["_meta"], dict)
        again["_meta"]["progressToken"] = "new"
        client.ask("tools/call", again)
        await server.next()
        body = {"progressToken": request["params"]["_meta"]["progressToken"], "progress": 1}
        server.send({"jsonrpc": "2.0", "method": "notifications/progress", "params": body})
        assert (await client.next())["params"] == {"progressToken": "new", "progress": 1}


@pytest.mark.parametrize("how", ["answered", "died", "too long"])
@scene
async def test_an_answer_that_comes_first_waits_for_its_client(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_LONGEST", 1000)
    async with world({"p": puppet()}) as it:
        client = it.client()
        result, server, request = await asked(it, client)
        if how == "died":
            server.exit(3)
            await it.until(lambda: not it.gateway.servers["p"].instances)
        else:
            server.answer(request, {"x": "y" * (2000 if how == "too long" else 1)})
            await it.until(lambda: not any(each.busy for each in it.gateway.servers["p"].instances.values()))
        answer = await client.request("tools/call", retry(result))
        if how == "answered":
            assert answer["result"]["x"] == "y"
        else:
            assert code(answer) == (envelope.SERVER_ENDED if how == "died" else envelope.TOO_LONG)
        assert it.gateway.servers["p"].load == {}


@pytest.mark.parametrize(
    "change",
    [
        {"requestState": "guessed"},
        {"requestState": ""},
        {"requestState": 7},
        {"requestState": None},
        {"requestState": {"a": []}},
        {"name": "p__two"},
    ],
)
@scene
async def test_a_state_that_is_wrong_is_refused(change: dict[str, object]) -> None:
    async with world({"p": puppet()}) as it:
        client = it.client()
        result, server, request = await asked(it, client)
        answer = await client.request("tools/call", retry(result, **change))
        assert code(answer) == message.INVALID_PARAMS
        assert "requestState" in said(answer)
        # the right one is good all the same, and once
        number = client.ask("tools/call", retry(result))
        await server.next()
        server.answer(request, {})
        await client.answer(number)
        assert code(await client.request("tools/call", retry(result))) == message.INVALID_PARAMS


@scene
async def test_what_one_client_was_asked_cannot_be_answered_by_another() -> None:
    async with world({"p": puppet(), "q": puppet()}) as it:
        client = it.client()
        result, server, request = await asked(it, client)
        other = it.client(name="uid:2")
        assert "belongs to another request" in said(await other.request("tools/call", retry(result)))
        # nor on the endpoint of another server that has a tool of that name
        same = it.client(only="q")
        assert code(await same.request("tools/call", retry(result, name="one"))) == message.INVALID_PARAMS
        # but on another connection of the same person's
        mine = it.client()
        number = mine.ask("tools/call", retry(result))
        await server.next()
        server.answer(request, {})
        assert "result" in await mine.answer(number)


@scene
async def test_nobody_waits_for_ever() -> None:
    async with world({"p": puppet()}) as it:
        client = it.client()
        result, server, request = await asked(it, client)
        it.gateway.parked.expire(1e9)
        told = await server.until("notifications/cancelled")
        assert told["params"] == {"requestId": request["id"]}
        assert "unknown, used or expired" in said(await client.request("tools/call", retry(result)))
        assert not any(each.busy for each in it.gateway.servers["p"].instances.values())


@scene
async def test_a_process_for_one_call_ends_when_its_client_does_not_come_back() -> None:
    async with world({"p": puppet(session={"share": "call"})}) as it:
        _, server, _ = await asked(it, it.client())
        assert not server.killed
        it.gateway.parked.expire(1e9)
        await it.until(lambda: server.killed)


@scene
async def test_one_client_cannot_drive_out_what_another_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parked, "MAX_OWN", 3)
    async with world({"p": puppet()}) as it:
        client, flooder = it.client(), it.client(name="uid:2")
        result, server, _ = await asked(it, client)
        states = []
        for n in range(5):
            number = flooder.ask("tools/call", modern(CALL, roots={}))
            other = await it.greeted()
            await other.until("tools/call")
            other.send(question(f"q{n}"))
            states.append((await flooder.answer(number))["result"])
        assert "expired" in said(await flooder.request("tools/call", retry(states[0])))
        client.ask("tools/call", retry(result))
        assert (await server.next())["result"] == ROOTS


@scene
async def test_what_may_be_asked_at_a_time_is_bounded() -> None:
    async with world({"p": puppet()}) as it:
        client = it.client()
        await asked(it, client, *(f"q{n}" for n in range(40)))
        server = next(iter(it.stand.living.values()))
        refused = [await server.next() for _ in range(40 - calls._QUESTIONS)]
        assert {each["error"]["code"] for each in refused} == {message.METHOD_NOT_FOUND}


@scene
async def test_a_server_that_asks_while_it_starts_reaches_the_client_that_waits_for_it() -> None:
    async with world({"p": puppet()}) as it:
        client = it.client()
        number = client.ask("tools/call", modern(CALL, roots={}))
        server = await it.puppet()
        hello = await server.next()
        server.send(question("early"))
        result = (await client.answer(number))["result"]
        greeting = asyncio.create_task(finish(server, hello))
        number = client.ask("tools/call", retry(result))
        answered = await greeting
        assert answered == ROOTS
        assert "result" in await client.answer(number)


async def finish(server: Puppet, hello: Json) -> object:
    """Greet, and answer the call; what was answered to the early question."""
    server.answer(hello, LEGACY)
    answered, seen = None, set()
    while "tools/call" not in seen or answered is None:
        found = await server.next()
        if "method" not in found:
            answered = found["result"]
            continue
        seen.add(found["method"])
        if "id" in found:
            server.answer(found, LISTED.get(found["method"], {}))
    return answered


TASKS: Json = {"tasks": {"list": {}}, "tools": {}}


@scene
async def test_a_task_is_its_client_s_alone() -> None:
    entry = Entry([], {"session": {"share": "server"}}, manifest("modern", capabilities=TASKS))
    async with world({"p": entry, "q": puppet("modern")}) as it:
        client, other = it.client(), it.client(name="uid:2")
        number = client.ask("tools/call", modern(CALL))
        server = await it.greeted()
        server.answer(await server.until("tools/call"), {"resultType": "task", "taskId": "t 1"})
        assert "result" in await client.answer(number)
        mine = client.ask("tasks/get", modern({"taskId": "t 1", "x": 1}))
        found = await server.until("tasks/get")
        assert (found["params"]["taskId"], found["params"]["x"]) == ("t 1", 1)
        server.answer(found, {"status": "working"})
        assert "result" in await client.answer(mine)
        for each in (other, it.client(only="p", name="uid:2")):
            assert code(await each.request("tasks/get", modern({"taskId": "t 1"}))) == message.INVALID_PARAMS
            assert code(await each.request("tasks/list", modern())) == message.INVALID_PARAMS


@scene
async def test_tasks_of_one_client_do_not_drive_out_those_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parked, "MAX_TASKS", 2)
    async with world({"p": Entry([], {}, manifest("modern", capabilities=TASKS))}) as it:
        for name, count in (("uid:1", 1), ("uid:2", 5)):
            client = it.client(name=name)
            server = None
            for n in range(count):
                number = client.ask("tools/call", modern(CALL))
                server = server or await it.greeted()
                server.answer(await server.until("tools/call"), {"resultType": "task", "taskId": f"t{n}"})
                await client.answer(number)
        first, flooder = it.client(name="uid:1"), it.client(name="uid:2")
        assert it.gateway.parked.issuer(first.talk, "t0") is it.gateway.servers["p"]
        assert [it.gateway.parked.issuer(flooder.talk, f"t{n}") is None for n in range(5)] == [True] * 3 + [
            False
        ] * 2
