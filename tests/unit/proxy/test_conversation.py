"""One client: bad input is answered clearly, each request exactly once, and the connection lives."""

from __future__ import annotations

import json

import pytest

from supervisor.proxy import message
from tests.unit.proxy.scene import scene
from tests.unit.proxy.stand import Client, code, modern, puppet, said, small, world

CALL = {"name": "p__one"}


def request(number: object, method: str = "ping", **params: object) -> dict[str, object]:
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params}


async def alive(client: Client) -> None:
    """It still gets answers, and nothing else came before this one."""
    client.send(request("alive"))
    assert await client.next() == {"jsonrpc": "2.0", "id": "alive", "result": {}}


@pytest.mark.parametrize(
    ("line", "number", "error"),
    [
        (b"hello", None, message.PARSE_ERROR),
        (b"{", None, message.PARSE_ERROR),
        (b"\xff\xfe\x00", None, message.PARSE_ERROR),
        (b'"text"', None, message.PARSE_ERROR),
        (b'{"jsonrpc":"2.0","id":5,"method":"caf\xe9"}', 5, message.PARSE_ERROR),
        (b"[" * 100_000, None, message.PARSE_ERROR),
        (b"[]", None, message.INVALID_REQUEST),
        (b'[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","id":2,"method":"ping"}]', None, -32600),
        (b"{}", None, message.INVALID_REQUEST),
        (b'{"jsonrpc":"1.0","id":5,"method":"ping"}', 5, message.INVALID_REQUEST),
        (b'{"jsonrpc":2.0,"id":5,"method":"ping"}', 5, message.INVALID_REQUEST),
        (b'{"id":5,"method":"ping"}', 5, message.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":5,"method":7}', 5, message.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":5,"method":"ping","params":[]}', 5, message.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":5,"method":"ping","params":null}', 5, message.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":5,"method":"ping","ID":6}', 5, message.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":5,"method":"ping","Method":"x"}', 5, message.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":5}', None, message.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', None, message.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', None, message.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":{},"method":"ping"}', None, message.INVALID_REQUEST),
        (b'{"jsonrpc":"2.0","id":5,"method":"no/such"}', 5, message.METHOD_NOT_FOUND),
        (b'{"jsonrpc":"2.0","id":5,"method":"notifications/cancelled"}', 5, message.METHOD_NOT_FOUND),
        (b'{"jsonrpc":"2.0","id":5,"method":"server/discover"}', 5, message.METHOD_NOT_FOUND),
        (b'{"jsonrpc":"2.0","id":5,"method":"tools/call"}', 5, message.INVALID_PARAMS),
        (b'{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":7}}', 5, message.INVALID_PARAMS),
        (rb'{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"\ud800"}}', 5, message.INVALID_PARAMS),
        (b'{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"one"}}', 5, message.INVALID_PARAMS),
        (b'{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"q__one"}}', 5, message.INVALID_PARAMS),
        (
            b'{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"p__p__one"}}',
            5,
            message.INVALID_PARAMS,
        ),
        (b'{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"P__one"}}', 5, message.INVALID_PARAMS),
        (b'{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":"p__one","Name":"x"}}', 5, -32602),
        (b'{"jsonrpc":"2.0","id":5,"method":"prompts/get","params":{"name":"p__one"}}', 5, message.INVALID_PARAMS),
        (b'{"jsonrpc":"2.0","id":5,"method":"resources/read","params":{}}', 5, message.INVALID_PARAMS),
        (b'{"jsonrpc":"2.0","id":5,"method":"completion/complete","params":{"ref":7}}', 5, message.INVALID_PARAMS),
        (b'{"jsonrpc":"2.0","id":5,"method":"tasks/get","params":{"taskId":"x"}}', 5, message.INVALID_PARAMS),
        (b'{"jsonrpc":"2.0","id":5,"method":"logging/setLevel","params":{"level":"loud"}}', 5, -32602),
        (b'{"jsonrpc":"2.0","id":5,"method":"tools/list","params":{"cursor":"x"}}', 5, message.INVALID_PARAMS),
        (b'{"jsonrpc":"2.0","id":5,"method":"tools/list","params":{"cursor":7}}', 5, message.INVALID_PARAMS),
    ],
)
@scene
async def test_bad_input_gets_a_clear_error_and_the_connection_lives(
    line: bytes, number: object, error: int
) -> None:
    async with world({"p": puppet()}) as it:
        client = await it.legacy()
        client.send(line + b"\n")
        answer = await client.next()
        assert (answer["id"], code(answer)) == (number, error)
        assert said(answer)
        await alive(client)
        assert it.stand.opened == []


@pytest.mark.parametrize(
    "line",
    [
        b'{"jsonrpc":"2.0","method":"notifications/unknown"}',
        b'{"jsonrpc":"2.0","method":"notifications/unknown","params":[]}',
        b'{"jsonrpc":"2.0","method":"notifications/cancelled"}',
        b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":{}}}',
        b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":{}}}',
        b'{"jsonrpc":"2.0","method":"tools/call","params":{"name":"p__one"}}',
        b'{"jsonrpc":"2.0","id":1,"result":{}}',
        b'{"jsonrpc":"2.0","id":"x","error":{"code":1,"message":""}}',
        b'{"jsonrpc":"2.0","result":{}}',
        b'{"jsonrpc":"1.0","id":1,"error":{}}',
    ],
)
@scene
async def test_what_wants_no_answer_gets_none(line: bytes) -> None:
    async with world({"p": puppet()}) as it:
        client = await it.legacy()
        client.send(line + b"\n")
        await alive(client)


@pytest.mark.parametrize(
    "number", [0, -1, 2**70, "", "a b", "é", "\u2028", '"', "1", "x" * 10_000, "-0", "9" * 400, "\\u0061"]
)
@scene
async def test_an_answer_has_the_id_of_its_request_as_it_was_written(number: object) -> None:
    written = number.encode() if isinstance(number, str) and number in ("-0", "9" * 400) else None
    written = written or (b'"\\u0061"' if number == "\\u0061" else json.dumps(number).encode())
    async with world({"p": puppet()}) as it:
        client = await it.legacy()
        line = b'{"jsonrpc":"2.0","method":"tools/call","params":{"name":"p__one"},"id":' + written + b"}\n"
        client.send(line)
        server = await it.greeted()
        server.answer(await server.next(), {})
        await client.next()
        assert client.lines[-1] == b'{"jsonrpc":"2.0","id":' + written + b',"result":{}}\n'


@scene
async def test_an_id_in_use_is_refused_however_it_is_spelled_and_its_first_request_is_answered() -> None:
    async with world({"p": puppet()}) as it:
        client = await it.legacy()
        client.send(request("a", "tools/call", **CALL))
        server = await it.greeted()
        asked = await server.next()
        client.send(b'{"jsonrpc":"2.0","id":"\\u0061","method":"ping"}\n')
        assert code(await client.next()) == message.INVALID_REQUEST
        client.send(b'{"jsonrpc":"2.0","id":"a","method":7}\n')
        assert (await client.next())["id"] is None
        assert b'"a"' not in client.answered
        server.answer(asked, {"first": 1})
        assert (await client.next())["result"] == {"first": 1}
        assert client.answered[b'"a"'] == 1
        client.send(request("a"))
        assert (await client.next())["result"] == {}


@scene
async def test_two_clients_with_one_id_get_each_its_own_answer() -> None:
    async with world({"p": puppet("modern")}) as it:
        one, other = it.client(), it.client()
        for client, text in ((one, "one"), (other, "other")):
            client.send(request(1, "tools/call", **modern({"name": "p__one", "arguments": {"text": text}})))
        server = await it.greeted()
        asked = [await server.next(), await server.next()]
        for each in reversed(asked):
            server.answer(each, {"text": each["params"]["arguments"]["text"]})
        assert [(await client.next())["result"] for client in (one, other)] == [{"text": "one"}, {"text": "other"}]
        assert it.stand.opened == ["p"]


@scene
async def test_a_request_without_a_handshake_or_an_envelope_is_told_what_to_do() -> None:
    async with world({"p": puppet()}) as it:
        client = it.client()
        answer = await client.request("tools/list")
        assert code(answer) == message.INVALID_PARAMS
        assert "initialize first" in said(answer)
        assert (await client.request("ping"))["result"] == {}


@pytest.mark.parametrize("method", ["initialize", "ping", "logging/setLevel", "resources/subscribe"])
@scene
async def test_what_the_new_era_has_not_is_unknown_in_it(method: str) -> None:
    async with world({"p": puppet()}) as it:
        assert code(await it.client().request(method, modern())) == message.METHOD_NOT_FOUND


@pytest.mark.parametrize(
    ("meta", "error"),
    [
        ({"io.modelcontextprotocol/protocolVersion": "v999.0.0"}, message.UNSUPPORTED_VERSION),
        ({"io.modelcontextprotocol/clientCapabilities": 7}, message.INVALID_PARAMS),
    ],
)
@scene
async def test_a_wrong_envelope_is_refused(meta: dict[str, object], error: int) -> None:
    async with world({"p": puppet()}) as it:
        envelope = modern()["_meta"]
        assert isinstance(envelope, dict)
        assert code(await it.client().request("tools/list", {"_meta": envelope | meta})) == error


@scene
async def test_both_eras_live_on_one_connection() -> None:
    async with world({"a": small()}) as it:
        client = it.client()
        assert "supportedVersions" in json.dumps(await client.request("server/discover", modern()))
        assert "protocolVersion" in json.dumps(await client.initialize())
        for params in ({}, modern(), {}, modern()):
            answer = await client.request("tools/call", {"name": "a__echo", **params})
            assert ("resultType" in json.dumps(answer)) == bool(params)
        assert it.stand.opened == ["a", "a"]


@scene
async def test_what_may_not_be_used_is_refused_by_its_rule_and_starts_nothing() -> None:
    tools, resources = {"deny": [["one", "servers.toml:7"]]}, {"allow": [["mem://a", "servers.toml:8"]]}
    async with world({"p": puppet(tools=tools, resources=resources)}) as it:
        client = await it.legacy()
        answers = [await client.request("tools/call", CALL)]
        answers.append(await client.request("resources/read", {"uri": "mem://t/x"}))
        answers.append(await client.request("resources/subscribe", {"uri": "mem://t/x"}))
        assert [code(each) for each in answers] == [message.NOT_ALLOWED] * 3
        assert said(answers[0]).startswith('servers.toml:7: tools.deny "one" forbids "one"')
        assert said(answers[1]).startswith("servers.toml:8: resources.allow has no pattern")
        assert it.meter.counted == [("refused", each) for each in ("tools.deny", *["resources.allow"] * 2)]
        assert it.stand.opened == []


TWICE = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"%s","name":"%s","arguments":{}}}\n'


@scene
async def test_of_two_names_in_one_call_the_server_sees_the_one_that_was_judged() -> None:
    async with world({"p": puppet(tools={"deny": [["one", "f:1"]]})}, only="p") as it:
        client = await it.legacy()
        client.send(TWICE % (b"two", b"one"))
        assert code(await client.answer(1)) == message.NOT_ALLOWED
        client.send(TWICE % (b"one", b"two"))
        server = await it.greeted()
        line = await server.line()
        assert b'"one"' not in line
        assert json.loads(line)["params"] == {"name": "two", "arguments": {}}


@scene
async def test_a_call_cannot_be_smuggled_in_the_white_space_of_another_one() -> None:
    async with world({"p": puppet(tools={"deny": [["one", "f:1"]]})}, only="p") as it:
        client = await it.legacy()
        inner = b'{"jsonrpc":"2.0","id":66,"method":"tools/call","params":{"name":"one"}}'
        for end in (b"\r", b"\n"):
            outer = b'{"jsonrpc":"2.0","id":"%s","method":"tools/call","params":{"name":"two","arguments":[%s]}}\n'
            client.send(outer % (b"%d" % end[0], end + inner + end))
        server = await it.greeted()
        for _ in range(2):
            line = await server.line()
            assert len(line.splitlines()) == 1
            server.answer(json.loads(line), {})


@pytest.mark.parametrize("method", ["tools/call", "vendor/x", "initialize"])
@scene
async def test_a_request_without_an_id_does_not_reach_a_server(method: str) -> None:
    async with world({"p": puppet(tools={"deny": [["one", "f:1"]]})}, only="p") as it:
        client = await it.legacy()
        client.ask("tools/call", {"name": "two"})
        server = await it.greeted()
        await server.next()
        client.send({"jsonrpc": "2.0", "method": method, "params": {"name": "one"}})
        client.send({"jsonrpc": "2.0", "method": "notifications/vendor", "params": {"x": 1.5}})
        assert await server.next() == {"jsonrpc": "2.0", "method": "notifications/vendor", "params": {"x": 1.5}}


@scene
async def test_more_calls_than_the_quota_are_refused_and_the_quota_is_each_principal_s_own() -> None:
    async with world({"p": puppet(quota={"calls": 2, "sessions": 9})}) as it:
        client, other = await it.legacy(), await it.legacy(name="uid:2")
        numbers = [client.ask("tools/call", CALL) for _ in range(3)]
        answer = await client.answer(numbers[2])
        assert code(answer) == message.BUSY
        assert "quota.calls" in said(answer)
        other.ask("tools/call", CALL)
        servers = [await it.greeted(), await it.greeted()]
        for number in numbers[:2]:
            servers[0].answer(await servers[0].next(), {})
            await client.answer(number)
        assert set(it.gateway.servers["p"].load.values()) == {1}
        client.ask("tools/call", CALL)
        await servers[0].next()


@scene
async def test_more_processes_than_the_quota_are_refused() -> None:
    async with world({"p": puppet(quota={"sessions": 1})}) as it:
        one, other = await it.legacy(), await it.legacy()
        one.ask("tools/call", CALL)
        await it.greeted()
        answer = await other.request("tools/call", CALL)
        assert code(answer) == message.BUSY
        assert "quota.sessions" in said(answer)
        assert other.talk.calls == {}


class Closing(Client):
    """Hangs up as soon as it is told anything."""

    closing = False

    def deliver(self, line: bytes, about: bytes | None, *, last: bool) -> None:
        super().deliver(line, about, last=last)
        if self.closing:
            self.talk.close()


@scene
async def test_a_front_may_close_while_it_is_told() -> None:
    async with world({"p": puppet()}) as it:
        client = Closing(it.gateway)
        await client.initialize()
        for number in range(3):
            client.send(request(f"n{number}", "tools/call", **CALL))
        client.closing = True
        client.talk.close()
        assert client.answered == {b"1": 1, b'"n0"': 1, b'"n1"': 1, b'"n2"': 1}
        client.send(request("late"))
        assert b'"late"' not in client.answered
