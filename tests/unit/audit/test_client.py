"""A proxy's end of the ledger: nothing is acknowledged that is not written, and nothing waits for ever."""

from __future__ import annotations

import asyncio
import functools
import socket
import time
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from supervisor import wire
from supervisor.audit.client import Client, Unrecorded
from supervisor.audit.confine import Place
from tests.unit.audit import ledgers
from tests.unit.audit.ledgers import started

INTENT, OUTCOME = ledgers.sample("c-1"), ledgers.sample("c-1", "outcome")
Talk = Callable[[Client, socket.socket], Awaitable[None]]


def with_a_client(talk: Talk) -> None:
    """`talk` gets a client and the other end."""

    async def run() -> None:
        ours, theirs = wire.pair()
        theirs.settimeout(20)
        client = Client(ours)
        try:
            async with asyncio.timeout(20):
                await talk(client, theirs)
        finally:
            client.close()
            theirs.close()

    asyncio.run(run())


def test_many_calls_are_under_way_at_once_and_each_is_acknowledged(place: Place) -> None:
    async def run(sock: socket.socket) -> None:
        client = Client(sock)
        async with asyncio.timeout(20):
            futures = []
            for _ in range(500):
                futures += [client.intent(INTENT), client.outcome(OUTCOME, power=True)]
            await asyncio.gather(*futures)
        client.close()

    with started(place) as ledger:
        asyncio.run(run(ledger.peer().socket.dup()))


def test_a_record_that_is_refused_fails_with_the_reason_and_the_next_may_pass() -> None:
    async def talk(client: Client, ledger: socket.socket) -> None:
        first, second = client.intent(INTENT), client.intent(INTENT)
        ledger.send(b'{"no":[1],"reason":"No space left on device"}')
        with pytest.raises(Unrecorded, match=r"no audit, no call: .* No space left"):
            await first
        assert not second.done()
        ledger.send(b'{"ok":[2]}')
        await second

    with_a_client(talk)


def test_when_the_ledger_is_gone_what_waits_fails_and_nothing_more_is_sent() -> None:
    async def talk(client: Client, ledger: socket.socket) -> None:
        waiting, unheard = client.intent(INTENT), client.outcome(OUTCOME)
        ledger.close()
        with pytest.raises(Unrecorded, match="its ledger is gone"):
            await waiting
        assert unheard.done()
        with pytest.raises(Unrecorded, match="no audit, no call"):
            client.intent(INTENT)

    with_a_client(talk)


def test_a_ledger_that_reads_nothing_stops_calls_and_not_the_proxy() -> None:
    async def talk(client: Client, ledger: socket.socket) -> None:
        futures = [client.intent(INTENT) for _ in range(6000)]
        with pytest.raises(Unrecorded, match="records wait for the audit ledger already"):
            await futures[-1]
        assert not futures[0].done()
        count = 0
        while count < 4096:
            await asyncio.sleep(0)
            try:
                ledger.recv(wire.LIMIT, socket.MSG_DONTWAIT)
                count += 1
            except BlockingIOError:
                continue
        ledger.send(b'{"ok":[1]}')
        await futures[0]

    with_a_client(talk)


def test_a_call_that_was_given_up_does_not_disturb_the_others() -> None:
    async def talk(client: Client, ledger: socket.socket) -> None:
        first, second = client.intent(INTENT), client.intent(INTENT)
        first.cancel()
        ledger.send(b'{"ok":[1,2]}')
        await second

    with_a_client(talk)


def test_a_record_costs_the_proxy_a_few_microseconds() -> None:
    async def talk(client: Client, ledger: socket.socket) -> None:
        costs = []
        for _ in range(20):
            began = time.thread_time()
            futures = [client.intent(INTENT) for _ in range(50)]
            costs.append((time.thread_time() - began) / 50)
            for _ in futures:
                ledger.recv(wire.LIMIT)
        assert min(costs) < 50e-6

    with_a_client(talk)


def test_who_fails_when_he_is_told_takes_nothing_from_the_others() -> None:
    async def talk(client: Client, ledger: socket.socket) -> None:
        raised: list[str] = []
        said: list[str] = []
        lost = asyncio.Event()
        asyncio.get_running_loop().set_exception_handler(lambda _, about: raised.append(str(about["exception"])))
        client.lost = lost.set
        for name in "abcd":
            client.tell(b"intent", INTENT, failing)
            client.tell(b"intent", INTENT, functools.partial(keep, said, name))
        ledger.send(b'{"ok":[1,2,3]}')
        ledger.send(b'{"no":[5,4],"reason":"full"}')
        ledger.close()
        await lost.wait()
        while len(said) < 4 or len(raised) < 4:
            await asyncio.sleep(0)
        assert sorted(said) == ["a", "b the audit", "c its ledger", "d its ledger"]
        assert raised == ["told"] * 4

    def failing(_: str) -> None:
        raise LookupError("told")

    def keep(said: list[str], name: str, why: str) -> None:
        said.append(" ".join([name, *why.split()[:2]]))

    with_a_client(talk)


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_what_a_ledger_acknowledged_before_it_was_killed_is(
    loop: Callable[[], asyncio.AbstractEventLoop], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[Client] = []
    readable = Client._readable

    def counted(client: Client) -> None:
        looked.append(client)
        readable(client)

    monkeypatch.setattr(Client, "_readable", counted)

    async def run() -> None:
        ours, theirs = wire.pair()
        client = Client(ours)
        written, unread = client.intent(INTENT), client.intent(INTENT)
        theirs.recv(1 << 16)
        theirs.send(b'{"ok":[1]}')
        # the kernel tells of a close with something unread by an error, before what was sent
        theirs.close()
        async with asyncio.timeout(20):
            await written
            with pytest.raises(Unrecorded, match="gone"):
                await unread
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(looked) < 10, "nothing is asked again and again"
        client.close()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run())
