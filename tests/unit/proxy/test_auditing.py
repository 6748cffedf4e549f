"""Marks of calls: one that is sent again keeps what it touched, also when another process gets it."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import cast

from supervisor import wire
from supervisor.audit import record, schema
from supervisor.audit.forms import Short
from supervisor.audit.reached import Reached
from supervisor.audit.record import Context, Opened
from supervisor.proxy import hosts
from supervisor.proxy.auditing import Audit, Mark
from supervisor.proxy.calls import Call
from supervisor.proxy.instance import Instance
from supervisor.proxy.recording import Recording
from supervisor.proxy.touched import Watch
from tests.unit.proxy.test_touched import answer


class Process:
    """As much of a process as a mark has to do with."""

    def __init__(self) -> None:
        ours, self.watcher = wire.pair()
        self.watcher.setblocking(False)
        self.touched = Watch(ours.detach())
        self.marks: set[Mark] = set()
        self.turn = self.turn_mark = None

    def known(self, mark: Mark) -> None:
        self.marks.discard(mark)

    def close(self) -> None:
        self.touched.close()
        self.watcher.close()


def played(scenario: Callable[[Audit, Call, Mark, Process, Process], Awaitable[None]]) -> None:
    """A call of which no process has heard, its mark, and two processes."""

    async def run() -> None:
        first, second = Process(), Process()
        mark = Mark(record.Call(Context("uid:1", "", "", "s"), "run-1", "tool"), None, power=False)
        call = cast(Call, SimpleNamespace(mark=mark))
        await scenario(Audit(cast(Recording, None), "stdio", 1), call, mark, first, second)
        first.close()
        second.close()

    asyncio.run(run())


def test_a_call_that_is_sent_again_keeps_what_it_touched() -> None:
    async def play(audit: Audit, call: Call, mark: Mark, first: Process, second: Process) -> None:
        audit.sent(call, cast(Instance, first))
        window = mark.window
        audit.sent(call, cast(Instance, first))
        assert mark.window is window
        assert mark.during == []
        assert len(first.touched.windows) == 1

        audit.sent(call, cast(Instance, second))
        assert (first.marks, second.marks) == (set(), {mark})
        assert mark.lacks == 1
        await answer(first.watcher, "since", ["/a"])
        while first.touched.windows:
            await asyncio.sleep(0)
        assert (mark.earlier, mark.lacks) == ([Opened("/a")], 0)

    played(play)


def test_a_process_that_ends_before_it_has_told_leaves_a_part() -> None:
    async def play(audit: Audit, call: Call, mark: Mark, first: Process, second: Process) -> None:
        audit.sent(call, cast(Instance, first))
        audit.sent(call, cast(Instance, second))
        first.watcher.shutdown(socket.SHUT_RDWR)
        while first.touched.windows:
            await asyncio.sleep(0)
        assert (mark.earlier, mark.lacks) == ([], 1)

    played(play)


class Paper:
    """A recording that fails at some outcomes, and keeps the others."""

    def __init__(self) -> None:
        self.written: list[str] = []

    def outcome(self, written: bytes | Short, *, power: bool = False) -> None:
        whole = written if isinstance(written, bytes) else written.whole()
        call = json.loads(whole)["metadata"]["correlation_uid"]
        if call == "bad":
            raise LookupError(call)
        self.written.append(call)

    async def close(self) -> None:
        self.written.append("closed")


def test_an_outcome_that_cannot_be_written_takes_no_other_with_it() -> None:
    async def run() -> None:
        raised: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, about: raised.append(str(about["exception"])))
        paper = Paper()
        audit = Audit(cast(Recording, paper), "stdio", 1)
        names = ["one", "bad", "two", "bad", "three"]
        for name in names:
            mark = Mark(record.Call(Context("uid:1", "", "", "s"), name, "tool"), None, power=False)
            call = SimpleNamespace(mark=mark, server=None, began=time.monotonic())
            audit.ended(cast(Call, call), "ok", b"{}")
        await audit.close()
        assert paper.written == ["one", "two", "three", "closed"]
        assert raised == ["bad"] * 2

    asyncio.run(run())


def test_hosts_that_a_record_does_not_list_are_counted_in_it_and_none_is_hidden() -> None:
    mark = Mark(record.Call(Context("uid:1", "", "", "s"), "one", "tool"), None, power=False)
    instance = cast(Instance, SimpleNamespace(marks={mark}))
    audit = Audit(cast(Recording, None), "stdio", 1)
    for number in range(hosts.MOST + 500):
        for _ in range(2):
            audit.reached(instance, Reached(f"{number}.example.com", 443, number, 0))
    audit.reached(instance, Reached("evil.test", 443, denied=True))
    data = record.outcome(mark.call, 1, touched=audit._touched(mark, ()))
    schema.check("outcome", data.decode())
    value = json.loads(data)
    told = hosts.MOST + 2 * 500 + 1
    listed = [each["hostname"] for each in value["resources"]]
    assert value["unmapped"]["hosts_dropped"] + len(listed) == told
    assert listed[0] == "evil.test"
