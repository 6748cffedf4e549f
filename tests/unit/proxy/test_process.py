"""A process as streams of lines: reached, held back, ended, and nothing of it left open."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

import pytest

from supervisor.errors import SupervisorError
from supervisor.proxy.link import Exited
from supervisor.proxy.process import Process
from tests.unit.proxy import stand as stands
from tests.unit.proxy.puppet import Puppet
from tests.unit.proxy.scene import scene
from tests.unit.proxy.stand import Stand, puppet


class Reached:
    """A process, its puppet, and what was heard of it."""

    def __init__(self) -> None:
        self.stand = Stand({"p": puppet()})
        self.lines: list[bytes] = []
        self.errors: list[tuple[bytes, bool]] = []
        self.process = Process("p", self.stand, self.lines.append)
        self.process.stderr = lambda line, loud: self.errors.append((line, loud))
        self.stand.ended = self.ended

    def ended(self, ended: Exited) -> None:
        if not self.process.ended.done():
            self.process.ended.set_result(ended)

    async def open(self) -> Puppet:
        await self.process.connect(await self.process.open())
        return await self.stand.puppets.get()

    async def over(self) -> str:
        reason = await self.process.last_words()
        await self.process.shut()
        await self.stand.end()
        return reason

    async def __aenter__(self) -> Reached:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing stays open, also when a test fails."""
        self.stand.held.set()
        if not self.stand.closed:
            self.process.end("the test is over")
            if self.process.opened:
                await self.over()
            await self.stand.end()

    async def until(self, wanted: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not wanted():
                await asyncio.sleep(0.001)


@scene
async def test_lines_go_both_ways_and_errors_go_beside_them() -> None:
    async with Reached() as it:
        server = await it.open()
        it.process.write(b'{"a":1}\n')
        assert await server.line() == b'{"a":1}\n'
        server.send(b'{"b":\n1}\n')
        os.write(server.stderr, b"oops\n")
        await it.until(lambda: len(it.lines) == 2 and it.errors)
        assert (it.lines, it.errors) == ([b'{"b":\n', b"1}\n"], [(b"oops\n", True)])
        server.exit(3)
        assert await it.over() == "exited with status 3"


@scene
async def test_what_it_said_before_it_ended_is_heard_also_when_it_was_held_back() -> None:
    async with Reached() as it:
        server = await it.open()
        it.process.pause("a slow client", paused=True)
        assert it.process.held
        server.send(b"last words\n")
        server.exit()
        await it.over()
        assert it.lines == [b"last words\n"]


@scene
async def test_it_is_held_back_as_long_as_anybody_cannot_take_more() -> None:
    async with Reached() as it:
        server = await it.open()
        it.process.pause("a", paused=True)
        it.process.pause("b", paused=True)
        it.process.pause("b", paused=True)
        server.send(b"x\n")
        it.process.pause("a", paused=False)
        await asyncio.sleep(0.02)
        assert it.lines == []
        it.process.pause("b", paused=False)
        await it.until(lambda: it.lines)
        server.exit()
        await it.over()


@scene
async def test_who_writes_hears_when_it_does_not_read() -> None:
    async with Reached() as it:
        server = await it.open()
        heard: list[bool] = []

        class User:
            def block(self, process: Process, *, full: bool) -> None:
                heard.append(full)

        it.process.users.add(User())
        server.pause(paused=True)
        for _ in range(8):
            it.process.write(b"x" * 100_000 + b"\n")
        await it.until(lambda: heard)
        assert heard == [True]
        assert it.process.full
        server.pause(paused=False)
        await it.until(lambda: len(heard) == 2)
        assert heard == [True, False]
        server.exit()
        await it.over()


@scene
async def test_an_end_that_is_asked_for_while_it_starts_ends_it() -> None:
    async with Reached() as it:
        it.stand.held.clear()
        opening = asyncio.create_task(it.process.open())
        await asyncio.sleep(0)
        it.process.end("nobody wants it")
        it.stand.held.set()
        await it.process.connect(await opening)
        assert await it.over() == "nobody wants it"
        assert (await it.stand.puppets.get()).killed


@scene
async def test_a_line_that_is_too_long_ends_it() -> None:
    async with Reached() as it:
        it.stand.output_line = 1000
        server = await it.open()
        server.send(b"x" * 1001 + b"\n")
        assert await it.over() == "it wrote a line of more than 1000 bytes (limits.output_line)"
        assert server.killed


@scene
async def test_what_it_says_on_its_errors_is_passed_on_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stands, "STDERR", 100)
    async with Reached() as it:
        server = await it.open()
        for each in (b"a" * 90, b"b" * 20, b"c"):
            os.write(server.stderr, each + b"\n")
        await it.until(lambda: len(it.errors) == 4)
        assert [(line[:1], loud) for line, loud in it.errors] == [
            (b"a", True),
            (b"(", True),
            (b"b", False),
            (b"c", False),
        ]
        assert b"limits.stderr" in it.errors[1][0]
        server.exit()
        await it.over()


@pytest.mark.parametrize("broken", [0, 1, 2])
@scene
async def test_streams_that_cannot_be_used_are_closed(broken: int) -> None:
    async with Reached() as it:
        opened = await it.process.open()
        fds = [opened.stdin, opened.stdout, opened.stderr]
        spare = os.open("/dev/null", os.O_RDONLY)
        os.close(fds[broken])
        # nothing may take its number meanwhile
        assert spare != fds[broken]
        with pytest.raises(SupervisorError, match="its streams cannot be used"):
            await it.process.connect(opened)
        os.close(spare)
        it.process.end("of no use")
        assert await it.over() == "of no use"


@scene
async def test_without_a_monitor_it_has_ended() -> None:
    async with Reached() as it:
        server = await it.open()
        it.process.ended.set_result(None)
        server.exit()
        assert await it.over() == "the supervisor's monitor ended"
