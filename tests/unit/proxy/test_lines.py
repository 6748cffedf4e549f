"""Lines over pipes: whole however they arrive, and held back when nobody takes them."""

from __future__ import annotations

import asyncio
import os

import pytest

from supervisor.proxy.lines import Reader, Writer
from tests.unit.proxy.scene import scene


class Heard:
    """A reader, its pipe, and what it has told."""

    def __init__(self, limit: int = 100) -> None:
        self.told: list[bytes] = []
        self.over = asyncio.Event()
        self.reader = Reader(limit, self.told.append, lambda: self.told.append(b"too long"), self.over.set)
        self._read, self.write = os.pipe()

    async def say(self, *chunks: bytes) -> None:
        if self.reader.transport is None:
            await self.reader.open(self._read)
        for chunk in chunks:
            os.write(self.write, chunk)
            await asyncio.sleep(0.002)

    async def end(self) -> list[bytes]:
        os.close(self.write)
        await asyncio.wait_for(self.over.wait(), 10)
        return self.told


@pytest.mark.parametrize(
    ("chunks", "told"),
    [
        ((b"a\n",), [b"a\n"]),
        ((b"a\nb\n",), [b"a\n", b"b\n"]),
        ((b"a", b"b\nc", b"\n"), [b"ab\n", b"c\n"]),
        ((b"\n\n \n",), []),
        ((b"last",), [b"last\n"]),
        ((b"a\nlast",), [b"a\n", b"last\n"]),
        ((b"x" * 101 + b"\nb\n",), [b"too long", b"b\n"]),
        ((b"x" * 101, b"x" * 300, b"x\nb\n"), [b"too long", b"b\n"]),
        ((b"x" * 99 + b"\n",), [b"x" * 99 + b"\n"]),
        ((b"a\n" * 200,), [b"a\n"] * 200),
    ],
)
@scene
async def test_lines_are_whole_however_they_arrive(chunks: tuple[bytes, ...], told: list[bytes]) -> None:
    it = Heard()
    await it.say(*chunks)
    assert await it.end() == told


@scene
async def test_what_has_been_read_already_waits_as_well() -> None:
    it = Heard()

    def one_at_a_time(line: bytes) -> None:
        it.told.append(line)
        it.reader.pause(paused=True)

    it.reader = Reader(100, one_at_a_time, lambda: it.told.append(b"too long"), it.over.set)
    await it.say(b"a\nb\n" + b"c" * 200 + b"\n", b"d\nrest")
    assert it.told == [b"a\n"]
    for expected in (2, 4, 4):
        it.reader.pause(paused=False)
        await asyncio.sleep(0.005)
        assert len(it.told) == expected
    assert it.told == [b"a\n", b"b\n", b"too long", b"d\n"]
    assert await it.end() == [b"a\n", b"b\n", b"too long", b"d\n", b"rest\n"]


def test_at_the_end_nothing_is_held_back() -> None:
    told: list[bytes] = []

    def one_at_a_time(line: bytes) -> None:
        told.append(line)
        reader.pause(paused=True)

    reader = Reader(100, one_at_a_time, lambda: None, lambda: told.append(b"end"))
    reader.data_received(b"a\nb\nc\nrest")
    assert told == [b"a\n"]
    reader.connection_lost(None)
    assert told == [b"a\n", b"b\n", b"c\n", b"rest\n", b"end"]


class Written:
    """A writer, its pipe, and what it has told."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self.writer = Writer(self.told.append, lambda: self.told.append("gone"))
        self.read, self._write = os.pipe()

    async def open(self) -> Writer:
        os.set_blocking(self.read, False)
        await self.writer.open(self._write)
        return self.writer


@scene
async def test_what_is_queued_is_written_before_the_end_and_nothing_after_it() -> None:
    it = Written()
    writer = await it.open()
    writer.write(b"last\n")
    await writer.flush_and_close(1)
    assert os.read(it.read, 100) == b"last\n"
    writer.write(b"too late\n")
    os.close(it.read)
    assert it.told == []


@scene
async def test_a_reader_that_is_slow_is_told_at_once_and_one_that_is_gone_too() -> None:
    it = Written()
    writer = await it.open()
    for _ in range(20):
        writer.write(b"x" * 10_000)
    assert it.told == [True]
    os.close(it.read)
    await asyncio.wait_for(writer.closed.wait(), 10)
    assert it.told == [True, "gone"]
