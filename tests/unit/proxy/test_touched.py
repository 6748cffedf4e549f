"""Asking a watcher of files: parts, windows, cancelled questions, a watcher that is gone or that is none."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable

import uvloop

from supervisor import wire
from supervisor.audit.record import Opened
from supervisor.proxy.touched import Watch

Scenario = Callable[[Watch, socket.socket], Awaitable[None]]


def play(scenario: Scenario) -> None:
    """A watch, and the other end of its socket, on the event loops of the gateway and of the standard library."""

    async def run() -> None:
        ours, theirs = wire.pair()
        theirs.setblocking(False)
        watch = Watch(ours.detach())
        try:
            with theirs:
                await scenario(watch, theirs)
        finally:
            watch.close()

    for loop in (asyncio.new_event_loop, uvloop.new_event_loop):
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(run())


async def answer(
    sock: socket.socket, expected: str, paths: Iterable[str], *, more: int = 0, complete: bool = True
) -> None:
    """Wait for that question and answer it."""
    data = await asyncio.get_running_loop().sock_recv(sock, 1000)
    assert wire.decode(data) == {"req": expected}
    wire.send(sock, {"files": [[path, "r"] for path in paths], "more": more, "complete": complete})


def test_an_answer_in_parts_is_one() -> None:
    async def scenario(watch: Watch, sock: socket.socket) -> None:
        asked = asyncio.ensure_future(watch.since())
        await answer(sock, "since", ["/a", "/b"], more=1)
        await answer(sock, "more", ["/c"])
        assert await asked == ([Opened("/a"), Opened("/b"), Opened("/c")], True)

    play(scenario)


def test_what_is_not_all_is_said_in_every_window_that_was_open() -> None:
    async def scenario(watch: Watch, sock: socket.socket) -> None:
        early = watch.window()
        asked = asyncio.ensure_future(watch.since())
        await answer(sock, "since", ["/a"], complete=False)
        assert await asked == ([Opened("/a")], False)
        late = watch.window()
        for window, expected in ((late, ([Opened("/b")], True)), (early, ([Opened("/a"), Opened("/b")], False))):
            closed = asyncio.ensure_future(window.close())
            await answer(sock, "since", ["/b"])
            assert await closed == expected

    play(scenario)


def test_a_question_whose_asker_is_cancelled_does_not_answer_the_next() -> None:
    async def scenario(watch: Watch, sock: socket.socket) -> None:
        other = watch.window()
        asked = asyncio.ensure_future(watch.since())
        await asyncio.sleep(0)
        asked.cancel()
        closed = asyncio.ensure_future(other.close())
        await answer(sock, "since", ["/a"])
        await answer(sock, "since", ["/b"])
        assert await closed == ([Opened("/a"), Opened("/b")], True)

    play(scenario)


def test_a_watcher_that_is_gone_has_told_not_all() -> None:
    async def scenario(watch: Watch, sock: socket.socket) -> None:
        asked = asyncio.ensure_future(watch.since())
        await answer(sock, "since", ["/a"], more=1)
        await asyncio.get_running_loop().sock_recv(sock, 1000)
        sock.close()
        assert await asked == ([Opened("/a")], False)
        assert not watch.on
        assert await watch.since() == ([], False)

    play(scenario)


def test_the_last_word_of_a_watcher_answers_whoever_asks_and_then_nothing_more_can_come() -> None:
    async def scenario(watch: Watch, sock: socket.socket) -> None:
        window = watch.window()
        wire.send(sock, {"files": [["/a", "w"]], "complete": True, "more": 0, "last": True})
        sock.close()
        assert await watch.since() == ([Opened("/a", "w")], True)
        assert await window.close() == ([Opened("/a", "w")], True)
        assert await watch.since() == ([], True)

    play(scenario)


def test_the_last_word_comes_before_an_answer_that_will_not_come() -> None:
    async def scenario(watch: Watch, sock: socket.socket) -> None:
        asked = asyncio.ensure_future(watch.since())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        wire.send(sock, {"files": [["/a", "w"]], "complete": False, "more": 0, "last": True})
        sock.close()
        assert await asked == ([Opened("/a", "w")], False)

    play(scenario)


def test_without_a_watcher_nothing_is_known() -> None:
    async def scenario() -> None:
        watch = Watch(-1)
        assert not watch.on
        assert await watch.since() == ([], False)

    asyncio.run(scenario())


def test_a_listener_that_fails_takes_nothing_from_the_others() -> None:
    async def scenario(watch: Watch, sock: socket.socket) -> None:
        raised: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, about: raised.append(str(about["exception"])))
        told: asyncio.Queue[str] = asyncio.Queue()
        watch.ask(failing)
        for each in (lambda: told.put_nowait("a"), failing, lambda: told.put_nowait("b")):
            watch.ask(each)
        await answer(sock, "since", [])
        await answer(sock, "since", [])
        watch.ask(lambda: told.put_nowait("c"))
        assert [await told.get(), await told.get()] == ["a", "b"]
        await answer(sock, "since", [])
        assert await told.get() == "c"
        assert raised == ["seen"] * 2

    def failing() -> None:
        raise LookupError("seen")

    play(scenario)


def test_what_is_no_file_in_an_answer_is_none() -> None:
    async def scenario(watch: Watch, sock: socket.socket) -> None:
        asked = asyncio.ensure_future(watch.since())
        await asyncio.get_running_loop().sock_recv(sock, 1000)
        wire.send(sock, {"files": [["/a", "r"], [], ["/b"], 1, "rw", ["/c", "r", 1]], "complete": True})
        assert await asked == ([Opened("/a")], True)

    play(scenario)
