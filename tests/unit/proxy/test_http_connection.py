"""What a hostile or clumsy client may send over a connection, and what a slow one may leave undone."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import resource
import socket
from contextlib import suppress

import pytest

from supervisor.proxy import http_connection, http_server, message
from supervisor.proxy.http_answers import _status
from tests.unit.proxy.stand import MODERN, puppet
from tests.unit.proxy.test_http import Names, play
from tests.unit.proxy.web import Web, request

PING = json.dumps(request("ping")).encode()
LISTED = b"content-type: application/json\r\n"


def head(web: Web, *lines: bytes, method: bytes = b"POST", version: bytes = b"1.1") -> bytes:
    first = b"%b /mcp HTTP/%b\r\nhost: 127.0.0.1:%d\r\n" % (method, version, web.port)
    return first + LISTED + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


async def said(web: Web, data: bytes) -> bytes:
    """Everything that comes back on a connection until we are hung up on."""
    connection = await web.connect()
    connection.writer.write(data)
    return await asyncio.wait_for(connection.reader.read(), 10)


@pytest.mark.parametrize(
    "lines",
    [
        (b"content-length: 4", b"transfer-encoding: chunked"),
        (b"transfer-encoding: chunked", b"content-length: 4"),
        (b"content-length: 4", b"content-length: 4"),
        (b"content-length: 4", b"content-length: 40"),
        (b"content-length: +4",),
        (b"content-length: 4_0",),
        (b"content-length: 99999999999999999999999",),
        (b"transfer-encoding: xchunked",),
        (b"transfer-encoding : chunked",),
        (b"x: a\0b",),
        (b"x: a\rcontent-length: 4",),
        (b"x\x80: a",),
        (b"no colon",),
        (b"transfer-encoding: chunked, identity",),
    ],
    ids=str,
)
def test_what_two_readers_could_understand_differently_is_no_request(lines: tuple[bytes, ...]) -> None:
    async def scene(web: Web) -> None:
        answer = await said(web, head(web, *lines) + b"{}\r\nPOST /mcp HTTP/1.1\r\n\r\n")
        # of a body whose end nobody can tell, nothing is read
        assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1 ") <= 1

    play(scene)


@pytest.mark.parametrize(
    "body", [b"2;\n{}\r\n0\r\n\r\n", b"-2\r\n{}\r\n0\r\n\r\n", b"2\r\n{}XX0\r\n\r\n", b"0x2\r\n{}\r\n"]
)
def test_a_body_in_malformed_pieces_ends_the_connection(body: bytes) -> None:
    async def scene(web: Web) -> None:
        answer = await said(web, head(web, b"transfer-encoding: chunked") + body + head(web, method=b"GET"))
        assert answer.count(b"HTTP/1.1 ") <= 1
        assert b"HTTP/1.1 2" not in answer

    play(scene)


def test_what_follows_a_body_in_pieces_is_no_header() -> None:
    async def scene(web: Web) -> None:
        body = b"%x\r\n%b\r\n0\r\nx-who: eve\r\nmcp-session-id: s\r\n\r\n" % (len(PING), PING)
        connection = await web.connect()
        connection.writer.write(head(web, b"transfer-encoding: chunked") + body)
        assert (await connection.answer()).status == 401

    play(scene, authority=Names())


def test_fields_behind_a_body_have_the_limit_of_those_before_it() -> None:
    async def scene(web: Web) -> None:
        connection = await web.connect()
        connection.writer.write(head(web, b"transfer-encoding: chunked") + b"2\r\n{}\r\n0\r\nx-endless: ")
        endless = connection.writer
        with suppress(ConnectionError):
            for _ in range(100):
                endless.write(b"x" * http_connection.MAX_HEAD)
                await endless.drain()
            pytest.fail("it is listened to without end")

    play(scene)


def test_a_request_without_a_version_is_none() -> None:
    async def scene(web: Web) -> None:
        assert b"HTTP/1.1 2" not in (answer := await said(web, b"GET /mcp\r\n\r\n"))
        assert answer.startswith(b"HTTP/1.1 400 ")

    play(scene)


def test_a_large_body_in_small_pieces_is_a_body() -> None:
    async def scene(web: Web) -> None:
        text = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping", "x": "y" * 300_000}).encode()
        pieces = b"".join(
            b"%x\r\n%b\r\n" % (len(part), part) for part in (text[n : n + 7] for n in range(0, len(text), 7))
        )
        answer = await said(
            web, head(web, b"transfer-encoding: chunked", b"connection: close") + pieces + b"0\r\n\r\n"
        )
        assert answer.count(b"HTTP/1.1 ") == 1
        assert b'"id":1' in answer

    play(scene)


def test_requests_behind_each_other_are_answered_in_their_order_and_not_without_end() -> None:
    async def scene(web: Web) -> None:
        connection = await web.connect()
        one = head(web, b"x-who: a", method=b"GET")
        other = head(web, b"x-who: a", b"content-length: 2", method=b"PUT") + b"{}"
        connection.writer.write(one + other + one)
        assert [(await connection.answer()).status for _ in range(3)] == [400, 405, 400]
        connection.writer.write(one * 200)
        answers = 0
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                await connection.answer()
                answers += 1
        assert answers < 200

    play(scene, authority=Names())


def test_a_body_that_nobody_may_send_is_not_kept() -> None:
    """Who is not known gets the answer before the body, and the connection lives on when that is over."""

    async def scene(web: Web) -> None:
        connection = await web.connect()
        connection.writer.write(head(web, b"content-length: 200000") + b"x" * 150_000)
        assert (await connection.answer()).status == 401
        connection.writer.write(b"x" * 50_000 + head(web, method=b"GET"))
        assert (await connection.answer()).status == 401

    play(scene, authority=Names())


@pytest.mark.parametrize(
    ("line", "version"), [(b"connection: close", b"1.1"), (b"x: y", b"1.0"), (b"connection: keep-alive", b"1.0")]
)
def test_a_connection_ends_with_the_answer_where_the_client_wants_no_more(line: bytes, version: bytes) -> None:
    async def scene(web: Web) -> None:
        answer = await said(web, head(web, line, b"content-length: 2", version=version) + b"{}")
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"connection: close\r\n" in answer

    play(scene)


def test_a_client_is_told_to_go_on_only_when_its_body_is_wanted() -> None:
    async def scene(web: Web) -> None:
        expecting = (b"content-length: %d" % len(PING), b"expect: 100-continue")
        refused = await web.connect()
        refused.writer.write(head(web, *expecting))
        assert (await refused.answer()).status == 401
        wanted = await web.connect()
        wanted.writer.write(head(web, *expecting, b"x-who: ada"))
        assert (await wanted.head()).status == 100
        wanted.writer.write(PING)
        assert (await wanted.answer()).status == 400

    play(scene, authority=Names())


def test_a_question_for_the_head_alone_gets_no_body() -> None:
    async def scene(web: Web) -> None:
        answer = await said(web, head(web, b"connection: close", method=b"HEAD"))
        assert answer.startswith(b"HTTP/1.1 405 ")
        assert answer.endswith(b"\r\n\r\n")

    play(scene)


def test_another_protocol_is_not_spoken() -> None:
    async def scene(web: Web) -> None:
        lines = (b"connection: upgrade, http2-settings", b"upgrade: h2c", b"content-length: 2")
        answer = await said(web, head(web, *lines) + b"{}" + b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1 ") == 1

    play(scene)


def test_a_body_that_comes_too_slowly_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connection, "SECONDS", 0.1)
    monkeypatch.setattr(http_server, "TICK", 0.05)

    async def scene(web: Web) -> None:
        assert await said(web, head(web, b"content-length: 100") + b"{") == b""

    play(scene)


def test_an_idle_connection_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connection, "IDLE", 0.1)
    monkeypatch.setattr(http_server, "TICK", 0.05)

    async def scene(web: Web) -> None:
        answer = await said(web, head(web, method=b"GET"))
        assert answer.startswith(b"HTTP/1.1 400 ")

    play(scene)


def test_a_stream_that_is_never_read_is_hung_up_on_and_its_call_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connection, "UNREAD", 0.2)
    monkeypatch.setattr(http_server, "TICK", 0.05)

    async def scene(web: Web) -> None:
        params = {"name": "p__one", "_meta": {"progressToken": "t"} | MODERN}
        lines = (b"mcp-protocol-version: 2026-07-28", b"mcp-method: tools/call", b"mcp-name: p__one")
        body = json.dumps(request("tools/call", params)).encode()
        with socket.create_connection(("127.0.0.1", web.port)) as sock:
            sock.sendall(head(web, *lines, b"accept: */*", b"content-length: %d" % len(body)) + body)
            server = await asyncio.wait_for(web.stand.puppets.get(), 10)
            await server.greet()
            token = (await server.until("tools/call"))["params"]["_meta"]["progressToken"]
            told = {"progressToken": token, "progress": 1, "message": "x" * 60_000}
            line = (
                json.dumps({"jsonrpc": "2.0", "method": "notifications/progress", "params": told}).encode() + b"\n"
            )
            pouring = asyncio.create_task(server.pour(line * 400))
            await server.until("notifications/cancelled")
            await pouring

    play(scene, servers={"p": puppet("modern")})


def test_of_a_body_whose_client_hung_up_nothing_is_kept() -> None:
    def held() -> int:
        # what is garbage in a circle is there as well, until somebody looks for it
        found = [each for each in gc.get_objects() if isinstance(each, http_connection.Exchange)]
        return sum(len(part) for each in found for part in each._parts)

    async def scene(web: Web) -> None:
        before = held()
        connections = [await web.connect() for _ in range(4)]
        for each in connections:
            each.writer.write(head(web, b"content-length: 8000000") + b" " * 4_000_000)
            await each.writer.drain()
        async with asyncio.timeout(10):
            while held() < before + 8_000_000:
                await asyncio.sleep(0.01)
            for each in connections:
                each.close()
            while held() > before:
                await asyncio.sleep(0.01)

    gc.disable()
    try:
        play(scene)
    finally:
        gc.enable()


def test_a_connection_too_many_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "MAX_CONNECTIONS", 2)

    async def scene(web: Web) -> None:
        streams = []
        for session in [await web.initialize(), await web.initialize()]:
            streams.append(await web.connect())
            lines = (b"mcp-session-id: " + session.encode(), b"accept: text/event-stream")
            streams[-1].writer.write(head(web, *lines, method=b"GET"))
            assert (await streams[-1].head()).status == 200
        third = await web.connect()
        assert (await third.answer()).status == 503
        streams[0].close()
        while True:
            fourth = await web.connect()
            fourth.writer.write(head(web, method=b"GET"))
            if (await fourth.answer()).status == 400:
                break

    play(scene)


def test_who_says_nothing_keeps_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "MAX_CONNECTIONS", 4)

    async def scene(web: Web) -> None:
        silent, beginning, sending, idle = [await web.connect() for _ in range(4)]
        beginning.writer.write(head(web)[:-2])
        sending.writer.write(head(web, b"content-length: 4") + b"{")
        idle.writer.write(head(web, method=b"GET"))
        assert (await idle.answer()).status == 400
        for _ in range(4):
            assert (await web.post(request("ping"))).status == 400  # there is no session: an answer all the same
        for each in (silent, beginning, sending, idle):
            with suppress(ConnectionError):
                assert await asyncio.wait_for(each.reader.read(), 10) == b""

    play(scene)


def test_connections_leave_descriptors_for_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (8, 8))

    async def scene(web: Web) -> None:
        opened = [await web.connect() for _ in range(8)]
        for each in opened[4:]:
            each.writer.write(head(web, method=b"GET"))
            assert (await each.answer()).status == 400
        for each in opened[:4]:
            with suppress(ConnectionError):
                assert await asyncio.wait_for(each.reader.read(), 10) == b""

    play(scene)


@pytest.mark.parametrize("last", ["\u00b2-1", "1-\u00b3", "9" * 5000 + "-1", "-", "1", "0-", " 1 - 1"])
def test_a_stream_that_nobody_has_is_not_found_whatever_it_is_called(last: str) -> None:
    async def scene(web: Web) -> None:
        session = await web.initialize()
        connection = await web.connect()
        lines = (b"mcp-session-id: " + session.encode(), b"last-event-id: " + last.encode("latin-1"))
        connection.writer.write(head(web, *lines, method=b"GET"))
        assert (await connection.answer()).status == 404

    play(scene)


def test_a_session_of_one_endpoint_opens_no_other() -> None:
    """A token may be for one server's endpoint only."""

    async def scene(web: Web) -> None:
        for made, used in (
            ("/mcp", "/servers/a/mcp"),
            ("/servers/a/mcp", "/mcp"),
            ("/servers/a/mcp", "/servers/b/mcp"),
        ):
            session = await web.initialize(made)
            assert (await web.post(request("tools/list"), used, Mcp_Session_Id=session)).status == 404
            assert (await web.post(request("tools/list"), made, Mcp_Session_Id=session)).status == 200

    play(scene)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (b'{"code":-32601,"message":""}', 404),
        (b'{"code":' + b"9" * 5000 + b"}", 200),
        (b'{"code":-1,"data":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 200),
        (b'"odd"', 200),
        (b'{"code":1e3}', 200),
    ],
)
def test_whatever_a_server_says_in_its_error_has_a_status(error: bytes, status: int) -> None:
    assert _status(b'{"jsonrpc":"2.0","id":1,"error":' + error + b"}\n") == status
    assert _status(message.result(b"1", b'{"error":{"code":-32601}}')) == 200
