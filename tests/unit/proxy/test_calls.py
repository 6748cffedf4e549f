"""A request on its way to a server and back: unchanged but for what must be, and in the words of the other era."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.proxy import calls, envelope, message
from tests.unit.proxy.puppet import Json, Puppet
from tests.unit.proxy.scene import scene
from tests.unit.proxy.stand import Client, World, code, modern, puppet, said, world

KEY = "io.modelcontextprotocol/"
CALL = {"name": "p__one"}
texts = st.text(st.characters(exclude_categories=["Cs", "Co"]))
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=8,
)
ODD = (
    b'{"a":1.50,"b":1e5,"c":-0.0,"d":12345678901234567890,"\\u00e9":"\\u00e9\\ud800","e":{"__proto__":[],"":null},'
    b'"x" : [1 ,2],"a2":"\xc3\xa9"}'
)


async def under_way(it: World, client: Client, params: Mapping[str, object]) -> tuple[int, Puppet, Json]:
    """A call that has reached its server."""
    number = client.ask("tools/call", params)
    server = await it.greeted()
    return number, server, await server.until("tools/call")


@settings(max_examples=25, deadline=None)
@given(arguments=anything, result=anything, token=st.none() | texts | st.integers() | st.lists(st.integers()))
def test_any_json_passes_in_both_directions(arguments: object, result: object, token: object) -> None:
    @scene
    async def play() -> None:
        async with world({"p": puppet()}, only="p") as it:
            client = await it.legacy()
            meta = {"traceparent": arguments, "progressToken": token}
            params: dict[str, object] = {"name": "one", "arguments": arguments, "_meta": meta, "x-own": arguments}
            number, server, asked = await under_way(it, client, params)
            ours = None if token is None else asked["id"]
            assert asked["params"] == params | {"_meta": meta | {"progressToken": ours}}
            answer = {"id": asked["id"], "x-first": result, "jsonrpc": "2.0", "result": result}
            server.send(answer)
            assert await client.answer(number) == answer | {"id": number}
            assert list(json.loads(client.lines[-1])) == list(answer)

    play()


@pytest.mark.parametrize("era", ["legacy", "modern"])
@scene
async def test_no_byte_of_what_is_not_rewritten_changes(era: str) -> None:
    async with world({"p": puppet(era)}) as it:
        client = await it.legacy()
        line = b'{"x-1":%s,"method":"tools/call","params":{"arguments":%s,"name":"p__one","x-2":%s},"id":"i"}'
        client.send(line.replace(b'"method"', b'"jsonrpc":"2.0","method"') % (ODD, ODD, ODD) + b"\n")
        server = await it.greeted()
        line = await server.line()
        assert line.startswith(
            b'{"x-1":%s,"jsonrpc":"2.0","method":"tools/call","params":{"arguments":%s,"name":"one","x-2":%s'
            % (ODD, ODD, ODD)
        )
        number = json.loads(line)["id"]
        server.send(b'{"x-1":%s,"id":%d,"result":%s,"jsonrpc":"2.0"}\n' % (ODD, number, ODD))
        await client.next()
        assert client.lines[-1] == b'{"x-1":%s,"id":"i","result":%s,"jsonrpc":"2.0"}\n' % (ODD, ODD)


@scene
async def test_the_error_of_a_server_passes_with_its_data() -> None:
    async with world({"p": puppet()}) as it:
        client = await it.legacy()
        number, server, asked = await under_way(it, client, CALL)
        error = b'{"code":-32099,"message":"no","data":%s,"x":1.0}' % ODD
        server.send(b'{"jsonrpc":"2.0","id":%d,"error":%s}\n' % (asked["id"], error))
        await client.answer(number)
        assert client.lines[-1] == b'{"jsonrpc":"2.0","id":%d,"error":%s}\n' % (number, error)
        assert it.meter.counted[-1] == ("called", "p", "p__one", "-32099")


@pytest.mark.parametrize("token", [7, "t", "7", 1.5, {"a": [1]}, [], True, 2**70, ""])
@scene
async def test_progress_comes_back_under_the_client_s_own_token(token: object) -> None:
    async with world({"p": puppet("modern")}) as it:
        one, other = it.client(), it.client()
        params = modern(CALL)
        meta = params["_meta"]
        assert isinstance(meta, dict)
        meta["progressToken"] = token
        numbers = [client.ask("tools/call", params) for client in (one, other)]
        server = await it.greeted()
        asked = [await server.next(), await server.next()]
        tokens = [each["params"]["_meta"]["progressToken"] for each in asked]
        assert tokens[0] != tokens[1]
        for spelled in (b"%d", b"%d.0", b'"%d"'):
            server.send(
                b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"x":1.50,"progressToken":'
                + spelled % tokens[1]
                + b"}}\n"
            )
            found = await other.next()
            assert found["params"] == {"x": 1.5, "progressToken": token}
            assert b'"x":1.50' in other.lines[-1]
        server.answer(asked[0], {})
        assert "result" in await one.answer(numbers[0])
        assert len(one.lines) == 1


@scene
async def test_a_token_that_nobody_gave_is_told_to_nobody() -> None:
    async with world({"p": puppet()}) as it:
        client = await it.legacy()
        number, server, asked = await under_way(it, client, CALL | {"_meta": {"progressToken": None}})
        assert asked["params"] == {"name": "one", "_meta": {"progressToken": None}}
        tokens: list[object] = [asked["id"], 99, "x", None, {}]
        for token in tokens:
            body = {"progressToken": token, "progress": 1}
            server.send({"jsonrpc": "2.0", "method": "notifications/progress", "params": body})
        server.answer(asked, {})
        assert await client.next() == {"jsonrpc": "2.0", "id": number, "result": {}}


@pytest.mark.parametrize("meta", [5, None, [], "x"])
@scene
async def test_a_meta_that_is_no_object_passes_to_a_server_of_its_era(meta: object) -> None:
    async with world({"p": puppet()}) as it:
        client = await it.legacy()
        number, server, asked = await under_way(it, client, CALL | {"_meta": meta})
        assert asked["params"] == {"name": "one", "_meta": meta}
        server.answer(asked, {})
        await client.answer(number)


@scene
async def test_a_modern_request_reaches_a_legacy_server_in_its_words_and_back() -> None:
    async with world({"p": puppet()}) as it:
        client = it.client()
        params = modern(CALL)
        meta = params["_meta"]
        assert isinstance(meta, dict)
        meta |= {KEY + "logLevel": "info", "traceparent": "00-1"}
        number = client.ask("tools/call", params)
        server = await it.greeted()
        assert (await server.next())["params"] == {"level": "info"}
        asked = await server.next()
        assert asked["params"] == {"name": "one", "_meta": {"traceparent": "00-1"}}
        server.answer(asked, {"content": [], "_meta": {"a": 1}})
        info = {KEY + "serverInfo": {"name": "puppet", "version": "1"}}
        assert (await client.answer(number))["result"] == {
            "content": [],
            "_meta": {"a": 1} | info,
            "resultType": "complete",
        }


@scene
async def test_a_legacy_request_reaches_a_modern_server_in_its_words() -> None:
    async with world({"p": puppet("modern")}) as it:
        client = await it.legacy(roots={"listChanged": True})
        assert (await client.request("logging/setLevel", {"level": "error"}))["result"] == {}
        _, _, asked = await under_way(it, client, CALL)
        assert asked["params"] == {
            "name": "one",
            "_meta": {
                KEY + "protocolVersion": "2026-07-28",
                KEY + "clientCapabilities": {"roots": {"listChanged": True}},
                KEY + "clientInfo": {"name": "t", "version": "1"},
                KEY + "logLevel": "error",
            },
        }


def wants(asked: Json, questions: dict[str, str], state: str | None = "s") -> dict[str, object]:
    body: dict[str, object] = {"resultType": "input_required"}
    body["inputRequests"] = {name: {"method": method, "params": {"n": name}} for name, method in questions.items()}
    return {"jsonrpc": "2.0", "id": asked["id"], "result": body | ({"requestState": state} if state else {})}


@scene
async def test_what_a_modern_server_wants_to_know_is_asked_of_a_legacy_client_round_after_round() -> None:
    async with world({"p": puppet("modern")}) as it:
        client = await it.legacy(roots={}, sampling={})
        number, server, asked = await under_way(it, client, CALL | {"arguments": {"a": 1}})
        server.send(wants(asked, {"r": "roots/list", "s": "sampling/createMessage"}))
        questions = [await client.next(), await client.next()]
        assert [each["method"] for each in questions] == ["roots/list", "sampling/createMessage"]
        for each in reversed(questions):
            client.send({"jsonrpc": "2.0", "id": each["id"], "result": {"for": each["params"]}})
            client.send({"jsonrpc": "2.0", "id": each["id"], "result": {"for": "the second time"}})
        asked = await server.next()
        params = asked["params"]
        assert params["inputResponses"] == {"r": {"for": {"n": "r"}}, "s": {"for": {"n": "s"}}}
        assert (params["name"], params["arguments"], params["requestState"]) == ("one", {"a": 1}, "s")
        server.send(wants(asked, {}, "t"))
        asked = await server.next()
        assert (asked["params"]["requestState"], asked["params"]["inputResponses"]) == ("t", {})
        server.send(wants(asked, {"r": "roots/list"}, None))
        client.send({"jsonrpc": "2.0", "id": (await client.next())["id"], "result": {}})
        asked = await server.next()
        assert "requestState" not in asked["params"]
        server.answer(asked, {"done": 1})
        assert (await client.answer(number))["result"] == {"done": 1}
        assert client.answered[b"%d" % number] == 1


@pytest.mark.parametrize(
    ("questions", "said_so"),
    [
        ({"r": "roots/list", "e": "elicitation/create"}, "elicitation/create, which this client does not offer"),
        ({"r": "roots/list", "x": "tools/call"}, "tools/call, which this client does not offer"),
        ({"x": ""}, "which this client does not offer"),
        ({str(n): "roots/list" for n in range(17)}, "17 questions at once"),
    ],
)
@scene
async def test_a_client_is_asked_all_or_nothing(questions: dict[str, str], said_so: str) -> None:
    async with world({"p": puppet("modern")}) as it:
        client = await it.legacy(roots={})
        number, server, asked = await under_way(it, client, CALL)
        server.send(wants(asked, questions))
        answer = await client.next()
        assert answer["id"] == number
        assert said_so in said(answer)
        assert client.waiting() == 0


@scene
async def test_a_client_that_refuses_ends_the_call_and_is_asked_no_more() -> None:
    async with world({"p": puppet("modern")}) as it:
        client = await it.legacy(roots={}, sampling={})
        number, server, asked = await under_way(it, client, CALL)
        server.send(wants(asked, {"r": "roots/list", "s": "sampling/createMessage"}))
        first, second = await client.next(), await client.next()
        client.send({"jsonrpc": "2.0", "id": first["id"], "error": {"code": 1, "message": "not today"}})
        withdrawn = await client.next()
        assert withdrawn["method"] == "notifications/cancelled"
        assert withdrawn["params"]["requestId"] == second["id"]
        answer = await client.next()
        assert (answer["id"], code(answer)) == (number, message.INVALID_PARAMS)
        assert "the client refused: not today" in said(answer)
        client.send({"jsonrpc": "2.0", "id": second["id"], "result": {}})
        assert (await client.request("ping"))["result"] == {}


@scene
async def test_a_server_that_asks_without_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "_ROUNDS", 3)
    async with world({"p": puppet("modern")}) as it:
        client = await it.legacy()
        number, server, asked = await under_way(it, client, CALL)
        for _ in range(3):
            server.send(wants(asked, {}))
            asked = await server.next()
        server.send(wants(asked, {}))
        assert "3 times in one call" in said(await client.answer(number))


@scene
async def test_a_modern_server_that_ends_while_its_client_is_asked_is_started_again() -> None:
    async with world({"p": puppet("modern")}) as it:
        client = await it.legacy(roots={})
        number, server, asked = await under_way(it, client, CALL)
        server.send(wants(asked, {"r": "roots/list"}))
        question = await client.next()
        server.exit(0)
        await it.until(lambda: not it.gateway.servers["p"].instances)
        client.send({"jsonrpc": "2.0", "id": question["id"], "result": {"roots": []}})
        server = await it.greeted()
        asked = await server.next()
        assert asked["params"]["inputResponses"] == {"r": {"roots": []}}
        server.answer(asked, {})
        assert "result" in await client.answer(number)


@scene
async def test_an_answer_without_a_result_is_an_error() -> None:
    async with world({"p": puppet()}) as it:
        client = await it.legacy()
        number, server, asked = await under_way(it, client, CALL)
        server.send({"jsonrpc": "2.0", "id": asked["id"]})
        assert code(await client.answer(number)) == envelope.SERVER_ENDED


@scene
async def test_a_call_that_waits_for_its_answer_does_not_keep_what_it_carried() -> None:
    async with world({"p": puppet()}) as it:
        client = await it.legacy()
        await under_way(it, client, CALL | {"arguments": {"x": "y" * 100_000}})
        call = next(iter(client.talk.calls.values()))
        assert call.fields == call.params == {}
