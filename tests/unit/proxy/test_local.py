"""What is answered without a process, and where everything else goes."""

from __future__ import annotations

import json

import pytest

from supervisor.proxy import listening, message
from tests.unit.proxy.puppet import LEGACY, LISTED, Json
from tests.unit.proxy.scene import scene
from tests.unit.proxy.stand import code, modern, puppet, said, world

HELLO: Json = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "c"}}


@pytest.mark.parametrize(
    "change",
    [
        {"protocolVersion": None},
        {"protocolVersion": 7},
        {"capabilities": 7},
        {"capabilities": [1]},
        {"clientInfo": "me"},
    ],
)
@scene
async def test_a_wrong_handshake_is_refused_and_a_right_one_may_follow(change: Json) -> None:
    async with world({"p": puppet()}) as it:
        client = it.client()
        answer = await client.request("initialize", HELLO | change)
        assert code(answer) == message.INVALID_PARAMS
        assert code(await client.request("tools/list")) == message.INVALID_PARAMS
        assert (await client.request("initialize", HELLO))["result"]["protocolVersion"] == "2025-06-18"
        assert "result" in await client.request("tools/list")


@pytest.mark.parametrize(("asked", "agreed"), [("2024-11-05", "2024-11-05"), ("2031-01-01", "2025-11-25")])
@scene
async def test_a_handshake_agrees_on_a_version(asked: str, agreed: str) -> None:
    async with world({"p": puppet()}) as it:
        answer = await it.client().request("initialize", HELLO | {"protocolVersion": asked})
        assert answer["result"]["protocolVersion"] == agreed


@scene
async def test_lists_take_no_cursor_but_those_that_were_given_out() -> None:
    async with world({"p": puppet()}) as it:
        client = await it.legacy()
        assert "result" in await client.request("tools/list", {"cursor": None})
        cursors: list[object] = ["250", "x", 0, [], {}]
        for cursor in cursors:
            answer = await client.request("tools/list", {"cursor": cursor})
            assert code(answer) == message.INVALID_PARAMS


@scene
async def test_lists_are_of_the_client_s_era() -> None:
    async with world({"p": puppet("legacy", "modern")}) as it:
        client = await it.legacy()
        legacy = (await client.request("tools/list"))["result"]
        found = (await client.request("tools/list", modern()))["result"]
        assert "resultType" not in legacy
        assert (found["resultType"], found["cacheScope"], found["ttlMs"]) == ("complete", "private", 0)
        assert found["tools"] == legacy["tools"]


@scene
async def test_a_log_level_reaches_what_runs_and_what_starts_later() -> None:
    async with world({"p": puppet(), "q": puppet()}) as it:
        client = await it.legacy()
        client.ask("tools/call", {"name": "p__one"})
        first = await it.greeted()
        await first.until("tools/call")
        assert (await client.request("logging/setLevel", {"level": "error"}))["result"] == {}
        assert (await first.next())["params"] == {"level": "error"}
        client.ask("tools/call", {"name": "q__one"})
        second = await it.puppet()
        hello = await second.next()
        # also one that is said while it starts
        await client.request("logging/setLevel", {"level": "debug"})
        assert hello["method"] == "initialize"
        second.answer(hello, LEGACY)
        levels = []
        while (found := await second.next())["method"] != "tools/call":
            if found["method"] == "logging/setLevel":
                levels.append(found["params"]["level"])
            elif "id" in found:
                second.answer(found, LISTED[found["method"]])
        assert levels == ["debug"]


@pytest.mark.parametrize(
    ("ref", "there"),
    [
        ({"type": "ref/prompt", "name": "p__hello", "x": 1}, {"type": "ref/prompt", "name": "hello", "x": 1}),
        ({"type": "ref/resource", "uri": "mem://t/{x}"}, None),
        ({"type": "ref/resource", "uri": "mem://t/5"}, None),
        ({"uri": "mem://a"}, None),
    ],
)
@scene
async def test_a_completion_goes_to_the_server_of_its_reference(ref: Json, there: Json | None) -> None:
    async with world({"p": puppet()}) as it:
        client = await it.legacy()
        number = client.ask("completion/complete", {"ref": ref, "argument": {"name": "a", "value": "b"}})
        server = await it.greeted()
        asked = await server.next()
        assert asked["params"] == {"ref": there or ref, "argument": {"name": "a", "value": "b"}}
        server.answer(asked, {"completion": {"values": []}})
        assert "result" in await client.answer(number)


@pytest.mark.parametrize(
    "ref",
    [
        {"type": "ref/prompt", "name": "hello"},
        {"type": "ref/prompt", "name": "p__other"},
        {"type": "ref/prompt", "uri": "mem://a"},
        {"type": "ref/prompt", "name": "p__hello", "Name": "x"},
        {"type": 7},
        [],
    ],
)
@scene
async def test_a_completion_for_nothing_is_refused(ref: object) -> None:
    async with world({"p": puppet()}) as it:
        client = await it.legacy()
        assert code(await client.request("completion/complete", {"ref": ref})) == message.INVALID_PARAMS


@scene
async def test_a_completion_for_what_may_not_be_used_is_refused() -> None:
    async with world({"p": puppet(prompts={"deny": [["*", "f:1"]]})}, only="p") as it:
        client = await it.legacy()
        line = b'{"jsonrpc":"2.0","id":9,"method":"completion/complete","params":{"ref":%s}}\n'
        client.send(line % b'{"type":"ref/prompt","name":"x","name":"hello"}')
        assert code(await client.answer(9)) == message.NOT_ALLOWED


@scene
async def test_a_resource_that_nobody_has_is_answered_in_the_words_of_the_era() -> None:
    async with world({"p": puppet(), "q": puppet()}) as it:
        client = await it.legacy()
        for params, expected in (({}, message.RESOURCE_NOT_FOUND), (modern(), message.INVALID_PARAMS)):
            answer = await client.request("resources/read", {"uri": "no://where", **params})
            assert (code(answer), answer["error"]["data"]) == (expected, {"uri": "no://where"})


@scene
async def test_a_resource_is_read_under_the_name_that_its_server_knows() -> None:
    async with world({"p": puppet(), "q": puppet()}) as it:
        client = await it.legacy()
        client.ask("resources/read", {"uri": "supervisor://q/mem://a", "x": 1})
        server = await it.greeted()
        assert (await server.next())["params"] == {"uri": "mem://a", "x": 1}
        assert it.stand.opened == ["q"]


@scene
async def test_an_unknown_method_reaches_the_server_of_an_endpoint_of_its_own_only() -> None:
    async with world({"p": puppet()}) as it:
        alone, client = await it.legacy(only="p"), await it.legacy()
        assert code(await client.request("vendor/x")) == message.METHOD_NOT_FOUND
        alone.send(b'{"jsonrpc":"2.0","id":"v","method":"vendor/x","x":1.50,"params":{"y":[1.50]}}\n')
        server = await it.greeted()
        line = await server.line()
        assert line.endswith(b',"method":"vendor/x","x":1.50,"params":{"y":[1.50]}}\n')
        server.answer(json.loads(line), {"v": 1})
        assert (await alone.next())["result"] == {"v": 1}
        assert it.meter.counted[-1] == ("called", "p", "other", "ok")


@scene
async def test_what_a_client_listens_to_is_bounded() -> None:
    async with world({"p": puppet()}) as it:
        client = it.client()
        wanted = {"resourceSubscriptions": ["mem://a"] * (listening.MOST + 1)}
        answer = await client.request("subscriptions/listen", modern({"notifications": wanted}))
        assert code(answer) == message.INVALID_PARAMS
        assert str(listening.MOST) in said(answer)
        assert code(await client.request("subscriptions/listen", modern())) == message.INVALID_PARAMS


@scene
async def test_an_endpoint_whose_server_is_gone_answers_that_there_is_nothing() -> None:
    async with world({"p": puppet(), "q": puppet()}) as it:
        client = await it.legacy(only="p")
        del it.stand.servers["p"]
        assert await it.gateway.load() == []
        assert (await client.request("tools/list"))["result"] == {"tools": []}
        assert code(await client.request("tools/call", {"name": "one"})) == message.INVALID_PARAMS
        assert code(await client.request("vendor/x")) == message.METHOD_NOT_FOUND
        assert not it.gateway.knows(client.talk.principal, "p")
