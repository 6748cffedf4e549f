"""A proxy's way to the ledger before it has one, and when there is none: nothing is refused too early."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable

import pytest

from supervisor import wire
from supervisor.audit import schema
from supervisor.audit.record import Call, Context, outcome
from supervisor.proxy import recording
from supervisor.proxy.recording import Recording, Way

CONTEXT = Context("uid:7", "7-1", "", "files")


class Keeping:
    """A recording without a connection yet, and its keeper, which answers when it is told to."""

    def __init__(self) -> None:
        self.ours, self.keeper = wire.pair()
        self.keeper.settimeout(5)
        self.made = Recording(Way(None, self.ours, "the log"), CONTEXT)
        self.said: asyncio.Queue[str] = asyncio.Queue()

    def ledger(self) -> socket.socket:
        ours, theirs = wire.pair()
        with theirs:
            wire.send(self.keeper, {"event": "peer"}, [theirs.fileno()])
        return ours

    def intent(self) -> None:
        self.made.intent(b"{}", self.said.put_nowait, power=False)


def going(scenario: Callable[[Keeping], Awaitable[None]]) -> None:
    async def run() -> None:
        keeping = Keeping()
        keeping.made.start()
        await scenario(keeping)
        await keeping.made.close()
        keeping.keeper.close()
        keeping.ours.close()

    asyncio.run(run())


def test_intents_before_the_first_connection_wait_for_it() -> None:
    async def scenario(keeping: Keeping) -> None:
        keeping.intent()
        keeping.intent()
        assert keeping.said.empty()
        assert wire.receive(keeping.keeper) == ({"req": "peer"}, [])
        with keeping.ledger() as ledger:
            ledger.setblocking(False)
            loop = asyncio.get_running_loop()
            for number in (1, 2):
                assert json.loads(await loop.sock_recv(ledger, 1000))["id"] == number
            ledger.send(b'{"ok":[1,2]}')
            assert [await keeping.said.get() for _ in range(2)] == ["", ""]

    going(scenario)


def test_without_a_ledger_they_are_refused_with_its_reason() -> None:
    async def scenario(keeping: Keeping) -> None:
        keeping.intent()
        wire.send(keeping.keeper, {"event": "failed", "reason": "no room"})
        assert await keeping.said.get() == "no audit, no call: no room (the log); mend that and call again"
        keeping.intent()
        assert "no room" in keeping.said.get_nowait()

    going(scenario)


def test_a_keeper_that_is_gone_or_silent_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "_EARLY", 0.01)

    async def silent(keeping: Keeping) -> None:
        keeping.intent()
        assert "does not answer" in await keeping.said.get()

    async def gone(keeping: Keeping) -> None:
        keeping.intent()
        keeping.keeper.close()
        assert "has ended; start this again" in await keeping.said.get()

    going(silent)
    going(gone)


@pytest.mark.parametrize("code", ["-32601", "0", "999999999999999"])
def test_a_code_that_fits_a_record_is_in_it(code: str) -> None:
    assert recording.answer(code, b"{}", "no", 0).code == int(code)


@pytest.mark.parametrize(
    "code", ["1000000000000000", "-1" + "0" * 20, "9" * 5000, "1.5", "1e3", "\u0663", "--1", "-"]
)
def test_a_code_that_does_not_is_none_and_no_record_is_refused_for_it(code: str) -> None:
    told = recording.answer(code, b"{}", "no", 0)
    assert (told.code, told.status) == (0, "failed")
    call = Call(CONTEXT, "c", "t")
    text = outcome(call, 1, told).decode("ascii")
    assert schema.check("outcome", text, 0) == len(text)
