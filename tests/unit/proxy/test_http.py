"""Streamable HTTP: every status that the specification asks for, both eras, and what a hostile caller may try."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from supervisor.errors import SupervisorError
from supervisor.proxy import http, http_connection, http_server, http_streams
from supervisor.proxy.authority import Denied
from supervisor.proxy.http_headers import Headers, Visitors, once
from supervisor.proxy.principal import Principal
from tests.unit.proxy.stand import MODERN, small
from tests.unit.proxy.web import Web, request, serving
from tests.unit.roles.policies import policy

Scene = Callable[[Web], Coroutine[Any, Any, None]]


def play(scene: Scene, **more: Any) -> None:
    async def run() -> None:
        async with serving(**more) as web:
            await scene(web)

    asyncio.run(run())


def test_a_modern_call_is_answered_as_json_by_a_process_that_it_started() -> None:
    async def scene(web: Web) -> None:
        answer = await web.modern("tools/call", {"name": "a__echo", "arguments": {"x": 1}})
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
        assert '\\"x\\": 1' in answer.body.decode()
        assert web.stand.opened == ["a"]

    play(scene)


def test_a_call_that_tells_more_than_its_answer_is_a_stream_of_events() -> None:
    async def scene(web: Web) -> None:
        params: dict[str, object] = {"name": "a__progress", "_meta": {"progressToken": "p"} | MODERN}
        headers = {"MCP_Protocol_Version": "2026-07-28", "Mcp_Method": "tools/call", "Mcp_Name": "a__progress"}
        answer = await web.post(request("tools/call", params), **headers)
        assert answer.headers["content-type"] == "text/event-stream"
        first, last = answer.messages
        assert first["params"] == {"progressToken": "p", "progress": 1, "x": 1}
        assert "result" in last

    play(scene)


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"Mcp_Method": "tools/list"}, 400, -32020),
        ({"Mcp_Method": "TOOLS/CALL"}, 400, -32020),
        ({"Mcp_Name": "a__ask"}, 400, -32020),
        ({"Mcp_Name": "=?base64?YV9fZWNobw?="}, 400, -32020),
        ({"Mcp_Name": "=?base64?YV9fZWNobw==?="}, 200, 0),
        ({"Mcp_Name": "  a__echo  "}, 200, 0),
        ({"MCP_Protocol_Version": "2025-11-25"}, 400, -32020),
        ({"MCP_Protocol_Version": "v9"}, 400, -32020),
    ],
)
def test_headers_must_say_what_the_body_says(change: dict[str, str], status: int, code: int) -> None:
    async def scene(web: Web) -> None:
        answer = await web.modern("tools/call", {"name": "a__echo"}, **change)
        assert answer.status == status
        error = answer.message.get("error")
        assert (error["code"] if isinstance(error, dict) else 0) == code

    play(scene)


@pytest.mark.parametrize(
    ("method", "params", "status", "code"),
    [
        ("no/such", {}, 404, -32601),
        ("ping", {}, 404, -32601),
        ("initialize", {}, 404, -32601),
        ("tools/call", {"name": "a__nope"}, 400, -32602),
        ("tools/call", {}, 400, -32602),
    ],
)
def test_an_error_that_comes_alone_has_its_status(
    method: str, params: dict[str, object], status: int, code: int
) -> None:
    async def scene(web: Web) -> None:
        answer = await web.modern(method, params)
        error = answer.message["error"]
        assert isinstance(error, dict)
        assert (answer.status, error["code"], answer.message["id"]) == (status, code, 1)
        assert web.stand.opened == []

    play(scene)


def test_a_modern_request_without_its_envelope_or_of_another_version_is_told_so() -> None:
    async def scene(web: Web) -> None:
        bare = await web.post(request("tools/list"), MCP_Protocol_Version="2026-07-28")
        assert (bare.status, bare.message["error"]["code"]) == (400, -32602)  # type: ignore[index]
        meta = MODERN | {"io.modelcontextprotocol/protocolVersion": "v9"}
        headers = {"MCP_Protocol_Version": "v9", "Mcp_Method": "tools/list"}
        other = await web.post(request("tools/list", {"_meta": meta}), **headers)
        assert (other.status, other.message["error"]["code"]) == (400, -32022)  # type: ignore[index]
        assert other.message["error"]["data"]["supported"] == ["2026-07-28"]  # type: ignore[index]

    play(scene)


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", {}, 400),
        (b"[]", {}, 400),
        (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', {}, 400),
        (b"\xff\xfe", {}, 400),
        (b"{}", {"Content_Type": "text/plain"}, 415),
        (b"{}", {"Accept": "text/html"}, 406),
        (request("tools/list"), {}, 400),
        (request("tools/list"), {"Mcp_Session_Id": "nobody's"}, 404),
        (request("tools/list"), {"MCP_Protocol_Version": "1999-01-01"}, 400),
    ],
)
def test_a_bad_post_gets_its_status(body: object, headers: dict[str, str], status: int) -> None:
    async def scene(web: Web) -> None:
        assert (await web.post(body, **headers)).status == status

    play(scene)


def test_a_body_over_the_limit_is_refused_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "MAX_BODY", 1000)

    async def scene(web: Web) -> None:
        assert (await web.modern("tools/call", {"name": "a__echo", "arguments": "x" * 2000})).status == 413

    play(scene)


def test_a_pretty_body_reaches_the_server_as_one_line_with_its_numbers_as_they_were() -> None:
    async def scene(web: Web) -> None:
        meta = json.dumps(MODERN)
        body = (
            '{\n "jsonrpc": "2.0",\r\n "id": 1, "method": "tools/call",\n "params": {"name": "a__echo",\n'
            f'  "arguments": {{"n": 1.50,\n "s": "a\\nb"}}, "_meta": {meta}}}\n}}'
        )
        headers = {"MCP_Protocol_Version": "2026-07-28", "Mcp_Method": "tools/call", "Mcp_Name": "a__echo"}
        answer = await web.post(body.encode(), **headers)
        assert answer.status == 200
        assert b'\\"n\\": 1.5' in answer.body

    play(scene)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example.com"}, 403),
        ({"Host": "127.0.0.1.evil.example.com"}, 403),
        ({"Host": "localhost"}, 200),
        ({"Host": "[::1]:99"}, 200),
        ({"Host": "[::1]"}, 200),
        ({"Host": "[::1].evil.example.com"}, 403),
        ({"Origin": "http://[::1].evil.example.com:80"}, 403),
        ({"Host": "good.example.com:8080"}, 200),
        ({"Origin": "http://evil.example.com"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:1234"}, 200),
        ({"Origin": "https://app.example.com"}, 200),
        ({"Origin": "http://localhost.evil.example.com"}, 403),
    ],
)
def test_a_page_of_another_site_does_not_reach_us(headers: dict[str, str], status: int) -> None:
    async def scene(web: Web) -> None:
        assert (await web.modern("tools/list", None, **headers)).status == status

    play(scene, visitors=Visitors(("good.example.com",), ("https://app.example.com",)))


def test_other_paths_and_methods_have_their_statuses() -> None:
    async def scene(web: Web) -> None:
        async def status(method: str, path: str, **more: str) -> int:
            connection = await web.connect()
            await connection.send(method, path, web.headers(**more))
            return (await connection.answer()).status

        assert await status("GET", "/") == 404
        assert await status("GET", "/servers/nope/mcp") == 404
        assert await status("GET", "/servers/a/mcp/") == 404
        assert await status("GET", "/mcp") == 400
        assert await status("PUT", "/mcp") == 405
        assert await status("GET", "/mcp", MCP_Protocol_Version="2026-07-28") == 405
        assert await status("DELETE", "/mcp", Mcp_Session_Id="nobody's") == 404

    play(scene)


def test_a_legacy_session_lives_from_initialize_to_delete() -> None:
    async def scene(web: Web) -> None:
        session = await web.initialize("/servers/a/mcp")
        note = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        assert (await web.post(note, "/servers/a/mcp", Mcp_Session_Id=session)).status == 202
        answer = await web.post(request("tools/call", {"name": "echo"}), "/servers/a/mcp", Mcp_Session_Id=session)
        assert answer.events[0][0].endswith("-0")
        assert "result" in answer.messages[-1]
        plain = await web.post(
            request("tools/list"), "/servers/a/mcp", Mcp_Session_Id=session, Accept="application/json"
        )
        assert plain.headers["content-type"] == "application/json"
        connection = await web.connect()
        await connection.send("DELETE", "/servers/a/mcp", web.headers(Mcp_Session_Id=session))
        assert (await connection.answer()).status == 204
        gone = await web.post(request("tools/list"), "/servers/a/mcp", Mcp_Session_Id=session)
        assert gone.status == 404

    play(scene)


def test_what_a_server_asks_its_legacy_client_comes_on_the_stream_of_the_call() -> None:
    async def scene(web: Web) -> None:
        session = await web.initialize()
        connection = await web.connect()
        body = json.dumps(request("tools/call", {"name": "b__ask"})).encode()
        await connection.send("POST", "/mcp", web.headers(Mcp_Session_Id=session), body)
        head, text = await connection.head(), ""
        assert head.headers["content-type"] == "text/event-stream"
        while "roots/list" not in text:
            text += (await connection.chunk()).decode()
        asked = json.loads(text.split("data: ")[-1])
        reply = {"jsonrpc": "2.0", "id": asked["id"], "result": {"roots": [{"uri": "file:///x"}]}}
        assert (await web.post(reply, Mcp_Session_Id=session)).status == 202
        while piece := (await connection.chunk()).decode():
            text = piece
        assert '"got":{"roots":[{"uri":"file:///x"}]}' in text

    play(scene)


def test_a_client_whose_connection_broke_comes_back_for_the_answer() -> None:
    async def scene(web: Web) -> None:
        session = await web.initialize()
        connection = await web.connect()
        body = json.dumps(request("tools/call", {"name": "b__ask"})).encode()
        await connection.send("POST", "/mcp", web.headers(Mcp_Session_Id=session), body)
        await connection.head()
        text = ""
        while "roots/list" not in text:
            text += (await connection.chunk()).decode()
        seen = text.split("id: ")[1].split("\n")[0]
        asked = json.loads(text.split("data: ")[-1])
        connection.close()
        reply = {"jsonrpc": "2.0", "id": asked["id"], "result": {"roots": []}}
        await web.post(reply, Mcp_Session_Id=session)
        again = await web.connect()
        await again.send("GET", "/mcp", web.headers(Mcp_Session_Id=session, Last_Event_ID=seen))
        answer = await again.answer()
        assert [each.get("id") for each in answer.messages] == [asked["id"], 1]
        assert "result" in answer.messages[-1]

    play(scene)


def test_answers_that_were_sent_are_kept_within_a_bound() -> None:
    async def scene(web: Web) -> None:
        session = await web.initialize("/servers/a/mcp")
        for number in range(2, 12):
            call = request("tools/call", {"name": "echo", "arguments": {"x": "y" * (1 << 20)}}, number)
            assert (await web.post(call, "/servers/a/mcp", Mcp_Session_Id=session)).status == 200
        kept = [web.front.sessions[session][0].find(number) for number in range(1, 12)]
        assert sum(each.kept for each in kept if each) <= http_streams.MAX_DONE
        assert kept[-1] is not None

    play(scene)


def test_a_modern_client_that_hangs_up_has_its_call_cancelled_at_the_server() -> None:
    async def scene(web: Web) -> None:
        heard = asyncio.Event()
        web.gateway.journal.followers["a"] = [lambda line: heard.set() if b"cancelled" in line else None]
        connection = await web.connect()
        body = json.dumps(request("tools/call", {"name": "a__wait", "_meta": MODERN})).encode()
        headers = {"MCP_Protocol_Version": "2026-07-28", "Mcp_Method": "tools/call", "Mcp_Name": "a__wait"}
        await connection.send("POST", "/mcp", web.headers(**headers), body)
        await web.modern("tools/call", {"name": "a__echo"})
        connection.close()
        await asyncio.wait_for(heard.wait(), 10)

    play(scene)


class Names:
    """A principal for each word in X-Who; nobody without one."""

    ended = False

    async def principal(self, headers: Headers, client: str, path: str) -> Principal:
        who = once(headers, b"x-who")
        if who is None:
            raise Denied(401, "who are you?", (b"www-authenticate", b'Bearer realm="x"'))
        return Principal(who, tuple((once(headers, b"x-groups") or "").split()))

    def page(self, path: str) -> bytes | None:
        return b"{}" if path == "/everybody" else None


def test_without_a_right_to_be_here_there_is_a_challenge() -> None:
    async def scene(web: Web) -> None:
        answer = await web.modern("tools/list")
        assert (answer.status, answer.headers["www-authenticate"]) == (401, 'Bearer realm="x"')
        assert (await web.modern("tools/list", X_Who="ada")).status == 200

    play(scene, authority=Names())


def test_a_session_is_nobody_else_s() -> None:
    async def scene(web: Web) -> None:
        session = await web.initialize(X_Who="ada")
        assert (await web.post(request("tools/list"), Mcp_Session_Id=session, X_Who="eve")).status == 404
        assert (await web.post(request("tools/list"), Mcp_Session_Id=session, X_Who="ada")).status == 200

    play(scene, authority=Names())


def test_a_session_gives_nobody_the_groups_of_an_earlier_token() -> None:
    async def scenario(web: Web) -> None:
        session = await web.initialize("/servers/a/mcp", X_Who="oidc:ada", X_Groups="staff admins")
        call = request("tools/call", {"name": "echo", "arguments": {"x": 1}}, number=2)
        there = {"path": "/servers/a/mcp", "Mcp_Session_Id": session, "X_Who": "oidc:ada"}
        assert b"result" in (await web.post(call, **there, X_Groups="admins staff")).body
        assert (await web.post(call, **there, X_Groups="staff")).status == 404

    admins = policy(
        "a",
        'permit(principal in Group::"oidc:admins", action, resource);'
        'permit(principal in Group::"oidc:staff", action, resource == Tool::"a/progress");',
    )
    servers = {"a": dataclasses.replace(small(), policy=admins)}
    play(scenario, authority=Names(), servers=servers)


def test_a_head_that_never_ends_and_a_request_that_never_comes_are_hung_up_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_connection, "SECONDS", 0.2)
    monkeypatch.setattr(http_connection, "MAX_HEAD", 10_000)

    async def scene(web: Web) -> None:
        slow = await web.connect()
        slow.writer.write(b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\n")
        assert await asyncio.wait_for(slow.reader.read(), 10) == b""
        large = await web.connect()
        large.writer.write(b"POST /mcp HTTP/1.1\r\nX: " + b"x" * 20_000)
        with contextlib.suppress(ConnectionResetError):  # an end as well
            assert await asyncio.wait_for(large.reader.read(), 10) == b""

    play(scene)


def test_an_address_that_somebody_has_is_told_once() -> None:
    with http_server.bind("127.0.0.1:0") as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(SupervisorError) as told:
            http_server.bind(address)
    assert str(told.value) == f"--http {address}: Address already in use"
