"""What a session reached is told: each name, however many there are at once; the same again added up."""

from __future__ import annotations

import asyncio
import contextlib

from supervisor import wire
from supervisor.egress.broker import Broker
from supervisor.egress.connection import Connection
from supervisor.egress.dial import Resolver
from supervisor.egress.header import Trust
from supervisor.egress.match import Rules
from supervisor.egress.session import Limits, Session

LIMITS = Limits(connections=1000, rate=50, bytes=1 << 30, idle=60)
Events = list[dict[str, object]]


def session(told: Events) -> Session:
    return Session(
        7, Rules.of(["*.test:443"]), LIMITS, ech=False, resolver=Resolver(), trust=Trust(), added={},
        report=told.append, connect=Connection,
    )  # fmt: skip


def told_of(events: Events, name: str) -> list[tuple[int, int]]:
    return [
        (int(str(each.get("sent", 0))), int(str(each.get("received", 0))))
        for each in events
        if each["name"] == name
    ]


def test_every_name_of_a_burst_is_told_though_it_is_longer_than_the_meter_lets() -> None:
    async def burst() -> Events:
        told: Events = []
        one = session(told)
        names = [f"n{number}.test" for number in range(600)]
        for name in names:
            one.reached(name, 443)
            one.connected(name, 443, 1, 2)
        assert {str(each["name"]) for each in told} == set(names)
        assert sum(int(str(each["sent"])) for each in told) < 600
        # with the end of the session all of it is told, however much waits
        await one.close()
        assert sum(int(str(each["sent"])) for each in told) == 600
        return told

    asyncio.run(burst())


def test_what_is_too_often_the_same_is_added_up_and_told_later() -> None:
    async def same() -> None:
        told: Events = []
        one = session(told)
        for _ in range(1000):
            one.connected("a.test", 443, 1, 2)
        assert 1 < len(told) < 400
        async with asyncio.timeout(10):
            while sum(each[0] for each in told_of(told, "a.test")) < 1000:
                await asyncio.sleep(0.05)
        assert sum(each[1] for each in told_of(told, "a.test")) == 2000
        assert len(told) < 500
        await one.close()

    asyncio.run(same())


def test_of_a_session_that_has_ended_the_last_that_is_told_is_that_it_is_the_last() -> None:
    async def ended() -> None:
        ours, theirs = wire.pair()
        broker = Broker(theirs)
        broker.start()
        limits = {"connections": 1, "rate": 1, "bytes": 1, "idle": 1}
        wire.send(ours, {"req": "add", "session": 7, "allow": ["a.test:443"], "ech": "no", "limits": limits})
        wire.send(ours, {"req": "remove", "session": 7})
        broker._missing[7] = 3
        heard: Events = []
        ours.setblocking(False)
        async with asyncio.timeout(10):
            while len(heard) < 2:
                await asyncio.sleep(0)
                with contextlib.suppress(BlockingIOError):
                    heard += [received[0] for received in [wire.receive(ours)] if received]
        assert [(each["event"], each["session"], each.get("name")) for each in heard] == [
            ("reached", 7, "(3 more)"),
            ("removed", 7, None),
        ]
        ours.close()
        await broker.ended
        theirs.close()

    asyncio.run(ended())


def test_what_a_slow_monitor_could_not_be_told_is_counted() -> None:
    async def slow() -> Events:
        ours, theirs = wire.pair()
        ours.setblocking(False)
        theirs.setblocking(False)
        broker, heard = Broker(theirs), Events()
        for number in range(6000):
            broker.tell({"event": "reached", "session": number % 2, "name": f"n{number}.test", "port": 443})
        async with asyncio.timeout(20):
            while sum(str(each["name"]).endswith("more)") for each in heard) < 2:
                await asyncio.sleep(0)
                with contextlib.suppress(BlockingIOError):
                    while received := wire.receive(ours):
                        heard.append(received[0])
        ours.close()
        theirs.close()
        return heard

    heard = asyncio.run(slow())
    named = [each for each in heard if str(each["name"]).endswith(".test")]
    missing = [int(str(each["name"])[1:].split()[0]) for each in heard if str(each["name"]).startswith("(")]
    assert len(missing) == 2
    assert sum(missing) + len(named) == 6000
    assert missing[0] > 0
