"""What a legacy client is asked: by its own servers only, answered once, withdrawn when nobody waits any more."""

from __future__ import annotations

import json

import pytest

from supervisor.proxy import message, questions
from tests.unit.proxy.puppet import LEGACY, LISTED, Json, Puppet
from tests.unit.proxy.scene import scene
from tests.unit.proxy.stand import Client, World, puppet, world

CALL = {"name": "p__one"}


def question(number: object, method: str = "roots/list", **params: object) -> Json:
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params, "x-top": 1.5}


async def under_way(it: World, client: Client) -> tuple[int, Puppet, Json]:
    number = client.ask("tools/call", CALL)
    server = await it.greeted()
    return number, server, await server.until("tools/call")


@pytest.mark.parametrize("number", [1, "a", None, {"a": [1.5]}, [], -0.0, 2**70])
@scene
async def test_a_question_and_its_answer_pass_under_ids_of_each_side_s_own(number: object) -> None:
    async with world({"p": puppet()}) as it:
        client = await it.legacy(roots={})
        _, server, _ = await under_way(it, client)
        server.send(question(number, x=1.50))
        found = await client.next()
        assert found == question(number, x=1.5) | {"id": found["id"]}
        client.send(b'{"id":%d,"x-top":1.50,"jsonrpc":"2.0","result":{"roots":[1e5]}}\n' % found["id"])
        written = json.dumps(number).encode()
        assert await server.line() == b'{"id":%s,"x-top":1.50,"jsonrpc":"2.0","result":{"roots":[1e5]}}\n' % written


@scene
async def test_a_refusal_passes_as_it_is() -> None:
    async with world({"p": puppet()}) as it:
        client = await it.legacy(roots={})
        _, server, _ = await under_way(it, client)
        server.send(question("q"))
        error = {"code": -1, "message": "no", "data": {"x": [1]}}
        client.send({"jsonrpc": "2.0", "id": (await client.next())["id"], "error": error})
        assert await server.next() == {"jsonrpc": "2.0", "id": "q", "error": error}


@scene
async def test_a_second_answer_and_one_to_nothing_reach_nobody() -> None:
    async with world({"p": puppet()}) as it:
        client = await it.legacy(roots={})
        _, server, _ = await under_way(it, client)
        server.send(question("q"))
        number = (await client.next())["id"]
        client.send({"jsonrpc": "2.0", "id": number})  # neither a result nor an error: not an answer yet
        assert (await client.next())["error"]["code"] == message.INVALID_REQUEST
        for each in (number, number, 99, "1", None):
            client.send({"jsonrpc": "2.0", "id": each, "result": {"n": 1}})
        client.send({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"})
        assert (await server.next())["result"] == {"n": 1}
        assert (await server.next())["method"] == "notifications/roots/list_changed"


@scene
async def test_a_client_answers_the_server_that_asked() -> None:
    async with world({"p": puppet(), "q": puppet()}) as it:
        client = await it.legacy(roots={})
        servers = []
        for name in "pq":
            client.ask("tools/call", {"name": f"{name}__one"})
            servers.append(await it.greeted())
            await servers[-1].until("tools/call")
            servers[-1].send(question("same", of=name))
        asked = [await client.next(), await client.next()]
        for each in asked:
            client.send({"jsonrpc": "2.0", "id": each["id"], "result": each["params"]})
        assert [(await each.next())["result"] for each in servers] == [{"of": "p"}, {"of": "q"}]


@scene
async def test_a_client_s_progress_comes_under_the_server_s_token_and_only_while_it_is_asked() -> None:
    async with world({"p": puppet()}) as it:
        client = await it.legacy(sampling={})
        _, server, _ = await under_way(it, client)
        server.send(question("q", "sampling/createMessage", _meta={"progressToken": ["mine"], "x": 1}))
        found = await client.next()
        token = found["params"]["_meta"]["progressToken"]
        assert found["params"]["_meta"]["x"] == 1
        body = {"progressToken": token, "progress": 1}
        note = {"jsonrpc": "2.0", "method": "notifications/progress", "params": body}
        client.send(note)
        assert (await server.next())["params"] == body | {"progressToken": ["mine"]}
        client.send({"jsonrpc": "2.0", "id": found["id"], "result": {}})
        client.send(note)
        client.send(note | {"params": {"progressToken": {"a": 1}}})
        client.send({"jsonrpc": "2.0", "method": "notifications/roots/list_changed"})
        assert (await server.next())["id"] == "q"
        assert (await server.next())["method"] == "notifications/roots/list_changed"


@scene
async def test_a_server_may_withdraw_its_own_question_only() -> None:
    async with world({"p": puppet(), "q": puppet()}) as it:
        client = await it.legacy(roots={})
        servers = []
        for name in "pq":
            client.ask("tools/call", {"name": f"{name}__one"})
            servers.append(await it.greeted())
            await servers[-1].until("tools/call")
        servers[0].send(question("q"))
        found = await client.next()
        body = {"requestId": "q", "reason": "late"}
        for each in reversed(servers):
            each.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": body})
            each.send({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info"}})
        told = [await client.next() for _ in range(3)]
        cancelled = [each["params"] for each in told if each["method"] == "notifications/cancelled"]
        assert cancelled == [body | {"requestId": found["id"]}]


@scene
async def test_what_a_server_asked_that_has_ended_is_withdrawn() -> None:
    async with world({"p": puppet()}) as it:
        client = await it.legacy(roots={})
        _, server, _ = await under_way(it, client)
        server.send(question("q"))
        found = await client.next()
        server.exit(1)
        told = [await client.next(), await client.next()]
        assert [each["params"]["requestId"] for each in told if "method" in each] == [found["id"]]
        client.send({"jsonrpc": "2.0", "id": found["id"], "result": {}})


@scene
async def test_how_much_a_client_is_asked_at_a_time_is_bounded() -> None:
    async with world({"p": puppet()}) as it:
        client = await it.legacy(roots={})
        _, server, _ = await under_way(it, client)
        await server.pour(b"".join(json.dumps(question(n)).encode() + b"\n" for n in range(questions.MOST + 5)))
        refused = [await server.next() for _ in range(5)]
        assert {each["error"]["code"] for each in refused} == {message.METHOD_NOT_FOUND}
        assert client.waiting() == questions.MOST


@scene
async def test_a_server_that_asks_as_soon_as_it_runs_reaches_the_client_that_it_is_there_for() -> None:
    async with world({"p": puppet()}) as it:
        client = await it.legacy(roots={})
        client.ask("tools/call", CALL)
        server = await it.puppet()
        server.answer(await server.next(), LEGACY)
        assert (await server.next())["method"] == "notifications/initialized"
        server.send(question("q"))
        found = await client.next()
        assert found["method"] == "roots/list"
        client.send({"jsonrpc": "2.0", "id": found["id"], "result": {"roots": []}})
        for _ in LISTED:
            each = await server.next()
            server.answer(each, LISTED[each["method"]])
        assert {(await server.next()).get("id") for _ in range(2)} >= {"q"}


@scene
async def test_nobody_is_asked_by_a_process_that_several_people_use() -> None:
    async with world({"p": puppet(session={"share": "server"})}) as it:
        one, other = await it.legacy(roots={}), await it.legacy(roots={}, name="uid:2")
        one.ask("tools/call", CALL)
        server = await it.greeted()
        other.ask("tools/call", CALL)
        await server.until("tools/call")
        await server.until("tools/call")
        server.send(question("q"))
        assert (await server.next())["error"]["code"] == message.METHOD_NOT_FOUND
        assert one.waiting() == other.waiting() == 0


@scene
async def test_a_method_of_the_vendor_s_own_passes_to_the_client_too() -> None:
    async with world({"p": puppet()}) as it:
        client = await it.legacy()
        _, server, _ = await under_way(it, client)
        server.send(question("q", "vendor/ask"))
        found = await client.next()
        client.send({"jsonrpc": "2.0", "id": found["id"], "result": {"v": 1}})
        assert (await server.next())["result"] == {"v": 1}
