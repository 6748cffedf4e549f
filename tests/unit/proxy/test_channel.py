"""The gateway's end of proxy.sock: every answer to who asked, every descriptor to its owner, no news lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator

import pytest

from supervisor import wire
from supervisor.errors import ConfigError, Refused, SupervisorError, WireError
from supervisor.proxy.channel import Channel
from supervisor.proxy.link import Exited
from tests.unit.proxy.scene import scene

OPENED: wire.Message = {
    "session": 7,
    "spec": "d",
    "profile": "none",
    "accepted": [],
    "summary": "",
    "start": 1.0,
    "grace": 1.0,
    "output_line": 10,
    "stderr": 10,
}


class Monitor:
    """The other end, in the test's own hands."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock

    async def next(self) -> wire.Message:
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(BlockingIOError):
                    received = wire.receive(self.socket)
                    assert received
                    return received[0]
                await asyncio.sleep(0.001)

    def answer(self, asked: wire.Message, ok: wire.Message, fds: int = 0) -> None:
        """With as many descriptors, which are closed here."""
        ends = [os.open("/dev/null", os.O_RDONLY) for _ in range(fds)]
        wire.send(self.socket, {"id": asked["id"], "ok": ok}, ends)
        for fd in ends:
            os.close(fd)


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[tuple[Channel, Monitor]]:
    ours, theirs = wire.pair()
    theirs.setblocking(False)
    channel = Channel(ours)
    channel.start()
    try:
        yield channel, Monitor(theirs)
    finally:
        channel.close()
        theirs.close()


@scene
async def test_answers_reach_whoever_asked_in_any_order() -> None:
    async with connected() as (channel, monitor):
        asked = [asyncio.create_task(channel.ask("describe", server=name)) for name in "abc"]
        seen = [await monitor.next() for _ in asked]
        for each in reversed(seen):
            monitor.answer(each, {"said": str(each["server"])})
        assert [(await each)[0]["said"] for each in asked] == ["a", "b", "c"]


@pytest.mark.parametrize(("status", "kind"), [(2, ConfigError), (3, Refused), (1, SupervisorError)])
@scene
async def test_a_refusal_is_the_error_that_it_was_there(status: int, kind: type[SupervisorError]) -> None:
    async with connected() as (channel, monitor):
        asked = asyncio.create_task(channel.ask("list"))
        number = (await monitor.next())["id"]
        wire.send(monitor.socket, {"id": number, "error": {"message": "no", "status": status}})
        with pytest.raises(kind, match="no"):
            await asked


@scene
async def test_an_answer_without_a_result_is_an_error() -> None:
    async with connected() as (channel, monitor):
        asked = asyncio.create_task(channel.ask("list"))
        wire.send(monitor.socket, {"id": (await monitor.next())["id"]})
        with pytest.raises(WireError):
            await asked


@pytest.mark.parametrize(("change", "fds"), [({"start": "x"}, 4), ({}, 3), ({"session": None}, 4)])
@scene
async def test_a_malformed_session_leaves_no_descriptor_open(change: wire.Message, fds: int) -> None:
    async with connected() as (channel, monitor):
        asked = asyncio.create_task(channel.open("a"))
        monitor.answer(await monitor.next(), OPENED | change, fds)
        with pytest.raises(SupervisorError):
            await asked


@scene
async def test_a_session_that_nobody_waits_for_any_more_is_closed() -> None:
    async with connected() as (channel, monitor):
        asked = asyncio.create_task(channel.open("a"))
        request = await monitor.next()
        asked.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asked
        monitor.answer(request, OPENED, 4)
        assert (await monitor.next())["req"] == "close"


@scene
async def test_news_reach_whom_they_are_for() -> None:
    async with connected() as (channel, monitor):
        heard: list[object] = []
        channel.ended = heard.append
        channel.refused = lambda session, said: heard.append((session, said))
        channel.reloaded = lambda: heard.append("reloaded")
        exited: wire.Message = {"event": "exited", "session": 7, "code": -9, "reason": "r", "limits": {}}
        refused: wire.Message = {
            "event": "refused",
            "session": 7,
            "name": "x",
            "port": "1",
            "reason": "no",
            "rule": "",
        }
        events: list[wire.Message] = [exited, refused, {"event": "reloaded"}, {"event": "something new"}]
        for each in events:
            wire.send(monitor.socket, each)
        asked = asyncio.create_task(channel.ask("list"))
        monitor.answer(await monitor.next(), {})
        await asked
        assert isinstance(heard[0], Exited)
        assert heard[0][:2] == (7, -9)
        assert heard[1:] == [(7, "egress: x:1: no"), "reloaded"]


BAD_SESSION: wire.Message = {"event": "exited", "session": "x", "code": 1, "reason": ""}


@pytest.mark.parametrize("event", [{"event": "exited"}, BAD_SESSION, {"event": "refused"}])
@scene
async def test_a_malformed_event_is_the_end_of_the_connection(event: wire.Message) -> None:
    async with connected() as (channel, monitor):
        gone = asyncio.Event()
        channel.gone = gone.set
        wire.send(monitor.socket, event)
        await asyncio.wait_for(gone.wait(), 10)
        assert channel.closed


@scene
async def test_descriptors_that_come_with_an_event_are_closed() -> None:
    async with connected() as (channel, monitor):
        reloaded = asyncio.Event()
        channel.reloaded = reloaded.set
        fd = os.open("/dev/null", os.O_RDONLY)
        wire.send(monitor.socket, {"event": "reloaded"}, [fd])
        os.close(fd)
        await asyncio.wait_for(reloaded.wait(), 10)


@scene
async def test_the_end_of_the_monitor_is_told_to_everybody_who_waits() -> None:
    async with connected() as (channel, monitor):
        order: list[str] = []
        channel.lost, channel.gone = (lambda: order.append("lost")), (lambda: order.append("gone"))
        asked = [asyncio.create_task(channel.ask("list")), asyncio.create_task(channel.open("a"))]
        for _ in asked:
            await monitor.next()
        monitor.socket.close()
        for each in asked:
            with pytest.raises(SupervisorError, match="the monitor ended"):
                await each
        assert order == ["lost", "gone"]
        with pytest.raises(SupervisorError, match="the monitor ended"):
            await channel.ask("list")
        await channel.close_session(7)


@scene
async def test_who_waits_when_we_hang_up_is_told() -> None:
    async with connected() as (channel, monitor):
        asked = asyncio.create_task(channel.ask("list"))
        await monitor.next()
        channel.close()
        with pytest.raises(SupervisorError):
            await asked


@scene
async def test_more_requests_than_a_socket_holds_wait_for_room() -> None:
    async with connected() as (channel, monitor):
        asked = [asyncio.create_task(channel.ask("describe", server=str(n))) for n in range(2000)]
        for _ in asked:
            request = await monitor.next()
            monitor.answer(request, {"said": str(request["server"])})
            await asyncio.sleep(0)
        assert [(await each)[0]["said"] for each in asked] == [str(n) for n in range(2000)]


@scene
async def test_a_monitor_that_ends_with_a_request_unread_is_heard_to_its_last_word() -> None:
    async with connected() as (channel, monitor):
        heard: list[object] = []
        channel.ended, channel.gone = heard.append, lambda: heard.append("gone")
        asked = asyncio.create_task(channel.ask("list"))
        await asyncio.sleep(0)
        exited: wire.Message = {"event": "exited", "code": 0, "reason": "r", "limits": {}}
        for session in (7, 8):
            wire.send(monitor.socket, exited | {"session": session})
        monitor.socket.close()
        with pytest.raises(SupervisorError):
            await asked
        assert heard == [Exited(7, 0, "r"), Exited(8, 0, "r"), "gone"]
