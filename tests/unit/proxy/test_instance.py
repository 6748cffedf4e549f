"""A process that speaks MCP: whose answer is whose, what it may ask, and how much it may make us keep."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from supervisor.errors import SessionLost, SupervisorError
from supervisor.proxy import instance as module
from supervisor.proxy import message
from supervisor.proxy.envelope import RequestFailed
from supervisor.proxy.instance import Hello, Instance, Waiter
from supervisor.proxy.link import Exited
from supervisor.proxy.message import Fields
from supervisor.proxy.servers import FULL, NOBODY
from tests.unit.proxy.puppet import LISTED, Json, Puppet
from tests.unit.proxy.scene import scene
from tests.unit.proxy.stand import Stand, puppet, world


class Noted(Waiter):
    """Everything that it hears."""

    def __init__(self) -> None:
        self.heard: list[object] = []

    def answered(self, fields: Fields) -> None:
        self.heard.append({name: bytes(value) for name, value in fields.items()})

    def lost(self, code: int, reason: str) -> None:
        self.heard.append(reason)

    def progressed(self, fields: Fields, params: Fields) -> None:
        self.heard.append("progress")


@asynccontextmanager
async def running(*, modern: bool = False) -> AsyncIterator[tuple[Instance, Puppet]]:
    stand = Stand({"p": puppet()})
    made = Instance("p", stand, modern=modern, hello=Hello("2025-11-25", FULL, NOBODY))

    def ended(told: Exited) -> None:
        made.ended.set_result(told)

    stand.ended = ended
    await made.connect(await made.open())
    over = asyncio.create_task(made.over())
    server = await stand.puppets.get()
    try:
        yield made, server
    finally:
        made.end("the test is over")
        await over
        await stand.end()


def request(method: str = "x/y") -> Fields:
    return {"jsonrpc": message.TWO, "method": message.raw(method)}


@pytest.mark.parametrize("spelled", ["%d", "%d.0", '"%d"', "%de0", '"%d.0"', " %d "])
@scene
async def test_an_answer_finds_its_waiter_however_its_id_is_spelled(spelled: str) -> None:
    async with running() as (made, server):
        waiter = Noted()
        made.send(waiter, request())
        number = (await server.next())["id"]
        server.send(b'{"jsonrpc":"2.0","id":' + (spelled % number).encode() + b',"result":{"n":1.50}}\n')
        async with asyncio.timeout(10):
            while not waiter.heard:
                await asyncio.sleep(0)
        assert [each["result"] for each in waiter.heard if isinstance(each, dict)] == [b'{"n":1.50}']
        assert made.pending == {}


FOREIGN = [
    "99",
    '"x"',
    "null",
    "1.5",
    "-1",
    "[1]",
    '{"id":1}',
    "true",
    "1e999",
    "-1e999",
    '"nan"',
    '""',
    "9" * 5000,
]


@scene
async def test_answers_that_nobody_waits_for_are_dropped() -> None:
    async with running() as (made, server):
        waiter = Noted()
        made.send(waiter, request())
        asked = await server.next()
        for each in FOREIGN:
            server.send(b'{"jsonrpc":"2.0","id":' + each.encode() + b',"result":{}}\n')
        server.send({"jsonrpc": "2.0", "result": {}})
        for text in ("first", "second"):
            server.answer(asked, text)
        made.send(end := Noted(), request())
        server.answer(await server.next(), {})
        async with asyncio.timeout(10):
            while not end.heard:
                await asyncio.sleep(0)
        assert len(waiter.heard) == 1
        assert waiter.heard[0] == {"jsonrpc": b'"2.0"', "id": b"1", "result": b'"first"'}


@pytest.mark.parametrize(
    "line",
    [
        b"garbage",
        b"[]",
        b'{"jsonrpc":"2.0","id":1}',
        b'{"jsonrpc":"2.0","method":5}',
        b'{"jsonrpc":"2.0","method":"notifications/progress"}',
        b'{"jsonrpc":"2.0","method":"notifications/progress","params":[]}',
        b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":{"a":[]}}}',
        b'{"jsonrpc":"2.0","method":"notifications/message","params":7}',
        b'{"\xff":1}',
        b'{"id":"\\ud800","method":"\\ud800"}',
        b'{"jsonrpc":"2.0","id":1,"ID":2,"result":{}}',
        b"[" * 100_000,
        b"\x00",
        b'{"jsonrpc":"2.0","id":null,"method":"x"}',
    ],
)
@scene
async def test_whatever_a_server_writes_the_next_answer_arrives(line: bytes) -> None:
    async with running() as (made, server):
        await server.pour(line + b"\n")
        asked = asyncio.create_task(made.ask("ping", {}))
        while (found := await server.next()).get("method") != "ping":
            assert "error" in found
        server.answer(found, {"it": "lives"})
        assert bytes(await asked) == b'{"it": "lives"}'


@scene
async def test_an_answer_that_is_not_utf_8_is_read_leniently() -> None:
    async with running() as (made, server):
        asked = asyncio.create_task(made.ask("ping", {}))
        await server.next()
        server.send(b'{"jsonrpc":"2.0","id":1,"result":{"text":"caf\xe9"}}\n')
        assert json.loads(bytes(await asked)) == {"text": "caf\ufffd"}


@scene
async def test_a_carriage_return_of_the_server_s_cannot_end_a_line_of_ours() -> None:
    async with running() as (made, server):
        waiter = Noted()
        made.send(waiter, request())
        server.send(b'{"id":1,"result":{"x":[\r{"jsonrpc":"2.0","id":9,"result":{}}\r]}}\r\n')
        async with asyncio.timeout(10):
            while not waiter.heard:
                await asyncio.sleep(0)
        assert b"\r" not in repr(waiter.heard).encode("unicode_escape")


@scene
async def test_a_request_of_ours_that_is_given_up_leaves_nothing() -> None:
    async with running() as (made, server):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await made.ask("ping", {})
        assert made.pending == {}
        assert not made.busy
        server.answer(await server.next(), {})


@scene
async def test_its_end_is_told_to_everybody_who_waits_or_comes_later() -> None:
    async with running() as (made, server):
        waiter = Noted()
        made.send(waiter, request())
        asked = asyncio.create_task(made.ask("ping", {}))
        await server.next()
        server.exit(3)
        with pytest.raises(SessionLost, match="exited with status 3"):
            await asked
        assert waiter.heard == ["the server's session has ended: exited with status 3"]
        with pytest.raises(SessionLost):
            await made.ask("ping", {})
        made.give(later := Late())
        assert later.reason == "the server's session has ended: exited with status 3"


class Late:
    """Who comes when it is over."""

    exclusive = True
    reason = ""

    def go(self, instance: Instance) -> None:
        raise AssertionError

    def lost(self, code: int, reason: str) -> None:
        self.reason = reason

    def asked(self, instance: Instance, fields: Fields, method: str) -> bool:
        raise AssertionError


@scene
async def test_an_error_is_passed_on_with_its_code() -> None:
    async with running() as (made, server):
        asked = asyncio.create_task(made.ask("x", {}))
        number = (await server.next())["id"]
        error = {"code": -32099, "message": "no\x1b[31m", "data": {"m": 1}}
        server.send({"jsonrpc": "2.0", "id": number, "error": error})
        with pytest.raises(RequestFailed, match=r"x: no\\x1b\[31m") as raised:
            await asked
        assert raised.value.code == -32099
        assert json.loads(bytes(raised.value.error)) == error


@pytest.mark.parametrize("code", [b"null", b'"x"', b"1.5", b"1" * 5000])
def test_an_error_without_a_code_is_one_all_the_same(code: bytes) -> None:
    assert RequestFailed("x", msgspec.Raw(b'{"code":' + code + b"}")).code == 0


@scene
async def test_a_ping_is_answered_and_what_nobody_can_do_is_refused() -> None:
    async with running() as (_, server):
        for method in ("ping", "roots/list", "vendor/x"):
            server.send({"jsonrpc": "2.0", "id": {"any": [1]}, "method": method})
        answers = [await server.next() for _ in range(3)]
        assert answers[0] == {"jsonrpc": "2.0", "id": {"any": [1]}, "result": {}}
        assert [each["error"]["code"] for each in answers[1:]] == [message.METHOD_NOT_FOUND] * 2


@pytest.mark.parametrize("method", ["ping", "roots/list"])
@scene
async def test_a_server_that_asks_and_does_not_read_is_ended(method: str) -> None:
    async with running() as (made, server):
        server.pause(paused=True)
        line = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": {}}).encode() + b"\n"
        await server.pour(line * 20_000)
        async with asyncio.timeout(10):
            await made.ended
        assert made.ending == "it sends requests and does not read the answers"


@pytest.mark.parametrize(
    ("cursors", "ends"),
    [(["a", "b", None], True), (["a", "a"], False), ([""], False), ([str(n) for n in range(200)], False)],
)
@scene
async def test_a_list_that_does_not_come_to_an_end_is_an_error(cursors: list[str | None], ends: bool) -> None:
    async with running() as (made, server):
        handshake = message.raw({"capabilities": {"tools": {}}})
        asked = asyncio.create_task(made.lists(handshake))
        seen: list[object] = []
        for cursor in cursors[: module.MAX_PAGES]:
            page = await server.next()
            seen.append(page["params"].get("cursor"))
            server.answer(page, {"tools": []} | ({"nextCursor": cursor} if cursor is not None else {}))
        if ends:
            assert len((await asked).pages["tools"]) == 3
            assert seen == [None, "a", "b"]
        else:
            with pytest.raises(SupervisorError, match="tools/list does not come to an end"):
                await asked


@scene
async def test_a_list_that_is_too_long_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LIST", 1000)
    async with running() as (made, server):
        asked = asyncio.create_task(made.lists(message.raw({"capabilities": {"tools": {}}})))
        server.answer(await server.next(), {"tools": ["x" * 1000], "nextCursor": "a"})
        with pytest.raises(SupervisorError, match="1000 bytes"):
            await asked


@scene
async def test_a_list_that_there_is_not_is_empty_and_a_refused_one_is_an_error() -> None:
    async with running() as (made, server):
        for code in (message.METHOD_NOT_FOUND, -5):
            asked = asyncio.create_task(made.lists(message.raw({"capabilities": {"resources": {}}})))
            for _ in range(2):
                page = await server.next()
                if page["method"] == "resources/list":
                    server.answer(page, LISTED["resources/list"])
                else:
                    server.send({"jsonrpc": "2.0", "id": page["id"], "error": {"code": code, "message": "no"}})
            if code == -5:
                with pytest.raises(RequestFailed):
                    await asked
            else:
                assert (await asked).pages["templates"] == []


@scene
async def test_a_log_level_is_told_once_and_its_answer_is_not_waited_for() -> None:
    async with running() as (made, server):
        for level in ("info", "info", "debug"):
            made.set_level(level)
        made.lower_level("error")
        made.lower_level("nonsense")
        found = [(await server.next())["params"]["level"] for _ in range(2)]
        assert found == ["info", "debug"]
        assert not made.busy


async def question(server: Puppet, method: str) -> Json:
    server.send({"jsonrpc": "2.0", "id": "q", "method": method, "params": {}})
    return await server.next()


@pytest.mark.parametrize("era", ["legacy", "modern"])
@scene
async def test_a_server_may_ask_only_what_it_was_told_that_its_client_can_do(era: str) -> None:
    async with world({"p": puppet(era)}) as it:
        client = await it.legacy(sampling={})
        client.ask("tools/call", {"name": "p__one"})
        server = await it.greeted()
        await server.until("tools/call")
        refused = ["roots/list", "elicitation/create"] + (["sampling/createMessage"] if era == "modern" else [])
        for method in refused:
            assert (await question(server, method))["error"]["code"] == message.METHOD_NOT_FOUND
        if era == "legacy":
            server.send({"jsonrpc": "2.0", "id": "q", "method": "sampling/createMessage", "params": {"x": 1.50}})
            assert (await client.next())["params"] == {"x": 1.5}
        assert client.waiting() == 0
