"""The stdio front as a program: what was asked for is answered, and the end is told by its status."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
from types import SimpleNamespace
from typing import Any, cast

import pytest

from supervisor.proxy import envelope, stdio
from supervisor.proxy.principal import Principal
from tests.unit.proxy.running import Running


def test_what_was_asked_for_is_answered_after_the_end_of_the_input() -> None:
    with Running() as front:
        front.hello()
        front.ask("last", "tools/call", {"name": "a__echo", "arguments": {"x": 1}})
        front.stdin.close()
        answer = front.read()
        assert answer["id"] == "last"
        assert json.loads(answer["result"]["content"][0]["text"])["arguments"] == {"x": 1}
        assert front.process.wait(20) == 0


def test_what_a_server_takes_to_start_is_not_counted_at_the_end_of_the_input(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stdio, "_LAST", 0.05)
    server = SimpleNamespace(ready=False)
    conversation = SimpleNamespace(receive=None, listeners={}, calls={b"1": SimpleNamespace(instance=server)})
    gateway = SimpleNamespace(conversation=lambda *_: conversation)

    async def ends() -> bool:
        front = stdio.Stdio(cast(Any, gateway), Principal("uid:1"))
        waiting = asyncio.create_task(front._answers())
        done, _ = await asyncio.wait([waiting], timeout=0.2)
        server.ready = True
        await asyncio.wait_for(waiting, 10)
        return bool(done)

    assert not asyncio.run(ends())


def test_a_last_line_without_its_end_is_a_line() -> None:
    with Running() as front:
        front.send(b'{"jsonrpc":"2.0","id":1,"method":"ping"}')
        front.stdin.close()
        assert front.read() == {"jsonrpc": "2.0", "id": 1, "result": {}}
        assert front.process.wait(20) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_at_once_also_during_a_call(number: signal.Signals) -> None:
    with Running() as front:
        front.hello()
        front.ask(1, "tools/call", {"name": "a__wait"})
        front.ask(2, "ping")
        assert front.read()["id"] == 2
        front.process.send_signal(number)
        assert front.process.wait(20) == 128 + number


def test_a_client_that_no_longer_reads_is_gone() -> None:
    with Running() as front:
        front.hello()
        front.stdout.close()
        front.ask(1, "ping")
        assert front.process.wait(20) == 0


def test_a_message_over_the_limit_gets_an_error_and_the_connection_lives() -> None:
    with Running() as front:
        front.hello()
        sent = threading.Thread(target=front.send, args=(b'{"x":"' + b"y" * (17 << 20) + b'"}\n',))
        sent.start()
        answer = front.read()
        assert (answer["id"], answer["error"]["code"]) == (None, envelope.TOO_LONG)
        sent.join()
        front.ask(1, "ping")
        assert front.read() == {"jsonrpc": "2.0", "id": 1, "result": {}}


def test_a_client_that_writes_long_before_it_reads_is_held_back_and_gets_every_answer_in_order() -> None:
    count = 3000
    with Running() as front:
        front.hello()
        lines = b"".join(b'{"jsonrpc":"2.0","id":%d,"method":"tools/list"}\n' % n for n in range(count))
        sent = threading.Thread(target=front.send, args=(lines,))
        sent.start()
        sent.join(0.5)
        assert sent.is_alive()
        assert [front.read()["id"] for _ in range(count)] == list(range(count))
        sent.join(10)
        assert not sent.is_alive()
