"""The control socket over real sockets: who may ask, what is answered, and that nobody holds a gateway up."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import uvloop

from supervisor.proxy import control
from supervisor.proxy.control import Control
from supervisor.proxy.gateway import Gateway
from supervisor.proxy.journal import KEPT, Journal
from tests.unit.proxy.stand import Meter, Stand, pinned, small

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


class Scene:
    """A gateway with one server, and its control socket."""

    def __init__(self, gateway: Gateway, name: str) -> None:
        self.gateway, self.name = gateway, name

    async def connect(self) -> Streams:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(self.name)
        return await asyncio.open_unix_connection(sock=sock)

    async def ask(self, request: object) -> list[dict[str, object]]:
        """Everything that comes until the other side hangs up."""
        reader, writer = await self.connect()
        writer.write(request if isinstance(request, bytes) else json.dumps(request).encode() + b"\n")
        try:
            return [json.loads(line) for line in (await asyncio.wait_for(reader.read(), 10)).splitlines()]
        except ConnectionResetError:
            return []  # hung up on before the request was read
        finally:
            await hang_up(writer)

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not true():
                await asyncio.sleep(0)


@asynccontextmanager
async def scene(uid: int) -> AsyncIterator[Scene]:
    stand = Stand(await pinned({"a": small("legacy")}))
    gateway = Gateway(stand, Meter(), Journal(quiet=True))
    assert await gateway.load() == []
    sock = control.bind()
    name = sock.getsockname().decode()
    serving = asyncio.ensure_future(Control(gateway, owner=uid, monitor=4242).serve(sock))
    try:
        yield Scene(gateway, name)
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        await gateway.close()
        await stand.end()


def play(part: Callable[[Scene], Awaitable[None]], uid: int | None = None) -> None:
    async def whole() -> None:
        async with scene(os.getuid() if uid is None else uid) as found:
            await part(found)

    uvloop.run(whole())


def test_the_name_holds_the_user_and_the_process_and_nothing_lies_on_disk() -> None:
    with control.bind() as sock:
        assert sock.getsockname() == f"\0supervisor-{os.getuid()}-{os.getpid()}".encode()


def test_a_name_that_somebody_took_is_no_reason_not_to_start() -> None:
    with control.bind() as first, control.bind() as second:
        assert second.getsockname().startswith(first.getsockname() + b"-")


def test_status_tells_of_every_server() -> None:
    async def part(at: Scene) -> None:
        [told] = await at.ask({"req": "status"})
        assert (told["pid"], told["owner"], told["monitor"]) == (os.getpid(), os.getuid(), 4242)
        servers = told["servers"]
        assert isinstance(servers, list)
        assert [each["name"] for each in servers] == ["a"]

    play(part)


def test_logs_are_the_lines_that_were_kept() -> None:
    async def part(at: Scene) -> None:
        for number in range(KEPT + 5):
            at.gateway.journal.add("a", b"line %d \xff\n" % number)
        told = await at.ask({"req": "logs", "server": "a"})
        assert [each["line"] for each in told] == [f"line {number} \ufffd" for number in range(5, KEPT + 5)]

    play(part)


def test_a_follower_gets_each_new_line_and_is_forgotten_when_it_hangs_up() -> None:
    async def part(at: Scene) -> None:
        at.gateway.journal.add("a", b"before\n")
        reader, writer = await at.connect()
        writer.write(b'{"req":"logs","server":"a","follow":true}\n')
        assert json.loads(await reader.readline()) == {"line": "before"}
        at.gateway.journal.add("a", b"after\n")
        assert json.loads(await reader.readline()) == {"line": "after"}
        await hang_up(writer)
        await at.until(lambda: not at.gateway.journal.followers["a"])

    play(part)


def test_a_follower_that_does_not_read_costs_a_bounded_number_of_lines() -> None:
    follower = control.Follower()
    for number in range(1500):
        follower.add(b"%d" % number)
    first, *rest = follower.take()
    assert first == {"dropped": 500}
    assert rest[0] == {"line": "500"}
    assert len(rest) == 1000
    assert list(follower.take()) == []


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"req": "logs", "server": "b"}, 'there is no server "b" here'),
        ({"req": "kill"}, 'not a request: "kill"'),
        ({"req": "status", "more": 1}, "not a request: Object contains unknown field"),
        ({"req": 5}, "not a request: Expected `str`"),
        (b"nonsense\n", "not a request: JSON is malformed"),
    ],
)
def test_what_is_no_request_is_told_so(request_: object, said: str) -> None:
    async def part(at: Scene) -> None:
        [told] = await at.ask(request_)
        assert str(told["error"]).startswith(said)

    play(part)


def test_a_request_that_is_too_long_or_never_ends_is_dropped() -> None:
    async def part(at: Scene) -> None:
        assert await at.ask(b"x" * 100_000) == []
        assert len(await at.ask({"req": "status"})) == 1

    play(part)


def test_connections_are_bounded_and_come_free_again() -> None:
    async def part(at: Scene) -> None:
        follow = b'{"req":"logs","server":"a","follow":true}\n'
        opened = [await at.connect() for _ in range(control.MAX_CONNECTIONS)]
        for _, writer in opened:
            writer.write(follow)
        await at.until(lambda: len(at.gateway.journal.followers.get("a", [])) == len(opened))
        assert await at.ask({"req": "status"}) == []
        for _, writer in opened:
            await hang_up(writer)
        await at.until(lambda: not at.gateway.journal.followers["a"])
        assert len(await at.ask({"req": "status"})) == 1

    play(part)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_another_user_is_hung_up_on() -> None:
    def as_another(name: str) -> bytes:
        read, write = os.pipe()
        if (child := os.fork()) == 0:
            with contextlib.suppress(OSError):
                os.setresuid(12345, 12345, 12345)
                with socket.socket(socket.AF_UNIX) as sock:
                    sock.connect(name)
                    os.write(write, b"connected ")
                    sock.sendall(b'{"req":"status"}\n')
                    os.write(write, sock.recv(100))
            os._exit(0)
        os.close(write)
        with open(read, "rb") as pipe:
            got = pipe.read()
        os.waitpid(child, 0)
        return got

    async def refused(at: Scene) -> None:
        assert await asyncio.to_thread(as_another, at.name) == b"connected "

    async def answered(at: Scene) -> None:
        assert b'"pid"' in await asyncio.to_thread(as_another, at.name)

    play(refused, uid=54321)
    play(answered, uid=12345)
