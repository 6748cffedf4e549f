"""The gateway under load: many sessions opened and closed, and servers that are killed while they are called.

What is counted is answers: every call has one, a result or an error, and nothing is left behind.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.escape.arena import Arena, end
from tests.integration.caller import SECONDS, Caller
from tests.integration.fidelity import PYTHON
from tests.integration.gateway import POLL, Entry, Gateway, copied, processes, serving
from tests.integration.raw_http import INFO, LEGACY, Message, Session, modern_call, post
from tests.integration.remains import nothing_left

NAMES = ("first", "second")
SESSIONS, AT_ONCE = 200, 10
KILLS, CALLERS, IN_FLIGHT = 20, 8, 32
PACE = 0.005  # seconds between two calls; without it those that are refused at once would be most of all
AT_ONCE_ANSWERED = 15.0  # seconds for the slowest answer of all, on a busy machine; a time-out is far beyond
# room for all of it, and a breaker that a test may trip twenty times
RULES = {"quota.sessions": "64", "quota.calls": "1024", "restart.limit": "1000"}


@pytest.fixture
def root(arena: Arena) -> Caller:
    made = Caller(arena, "root")
    made.reset()
    return made


@pytest.fixture
def start(root: Caller) -> Path:
    return copied(root, "awkward")


@pytest.fixture
def gateway(root: Caller, start: Path) -> Iterator[Gateway]:
    """Two awkward servers, each with room for many."""
    entries = [Entry(name, (*PYTHON, str(start)), rules=RULES) for name in NAMES]
    with nothing_left(root, writes=root.project, patience=10), serving(root, entries) as made:
        yield made


def until(true: Callable[[], bool], what: str) -> None:
    """Wait for something that comes by itself."""
    deadline = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(POLL)


def descriptors(gateway: Gateway) -> int:
    return len(os.listdir(f"/proc/{gateway.process.pid}/fd"))


def resident(gateway: Gateway) -> int:
    """MiB of the gateway's own process."""
    pages = int(Path(f"/proc/{gateway.process.pid}/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


def echoed(answer: Message) -> object:
    """What the echo of a call was, or the whole answer."""
    result = answer.get("result")
    return result.get("structuredContent", answer) if isinstance(result, dict) else answer


def test_two_hundred_sessions_are_opened_and_closed(gateway: Gateway, start: Path) -> None:
    """Each has its own answers, and none leaves a process, a descriptor or memory behind."""

    def visit(number: int) -> None:
        session = Session(gateway.port, "/mcp")
        for name in NAMES:
            assert echoed(session.call(f"{name}__echo", number=number)) == {"number": number}
        assert session.close() in {200, 202, 204}
        late = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        assert post(gateway.port, "/mcp", late, session.headers).status == 404

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(visit, range(AT_ONCE)))
        until(lambda: not processes(start), "servers of closed sessions still run")
        before = descriptors(gateway), resident(gateway)
        list(pool.map(visit, range(AT_ONCE, SESSIONS)))
    until(lambda: not processes(start), "servers of closed sessions still run")
    until(lambda: descriptors(gateway) <= before[0], "descriptors of closed sessions are still open")
    assert resident(gateway) < before[1] + 32


@dataclass
class Tally:
    """What became of every call; `slowest` is in seconds."""

    outcomes: Counter[str] = field(default_factory=Counter)
    errors: set[str] = field(default_factory=set)
    lost: list[str] = field(default_factory=list)
    slowest: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, answer: Message, seconds: float) -> None:
        error = answer.get("error")
        with self.lock:
            self.outcomes["error" if error else "result"] += 1
            self.slowest = max(self.slowest, seconds)
            if isinstance(error, dict):
                self.errors.add(f"{error['code']} {error['message']}")

    def call(self, ask: Callable[[], Message]) -> None:
        """One call; whatever is no answer is a lost one."""
        began = time.monotonic()
        try:
            answer = ask()
        except (OSError, AssertionError, ValueError) as problem:
            with self.lock:
                self.lost.append(repr(problem))
        else:
            self.note(answer, time.monotonic() - began)

    @property
    def ended(self) -> int:
        """How many calls are over."""
        return self.outcomes.total() + len(self.lost)

    def wait(self, more: int) -> None:
        """Until so many more calls are over."""
        enough = self.ended + more
        until(lambda: self.ended >= enough, "calls are not answered")

    def complete(self) -> None:
        """Nothing was lost, nothing took long, and those that hit a killed server say so."""
        assert self.lost == []
        assert self.slowest < AT_ONCE_ANSWERED
        assert self.outcomes["result"] > CALLERS, self.outcomes
        assert self.killed, self.errors

    @property
    def killed(self) -> bool:
        """Whether somebody was told how a server ended."""
        return any("signal 9" in text or "SIGKILL" in text for text in self.errors)


def killed_one(start: Path, number: int) -> bool:
    """SIGKILL to one server, whichever; False if there is none."""
    running = processes(start)
    with suppress(ProcessLookupError, IndexError):
        os.kill(random.Random(number).choice(running), signal.SIGKILL)
        return True
    return False


def test_every_call_is_answered_while_servers_are_killed(gateway: Gateway, start: Path) -> None:
    tally, stop = Tally(), threading.Event()

    def old(number: int) -> None:
        session = Session(gateway.port, "/mcp")
        while not stop.is_set():
            tally.call(lambda: session.call(f"{NAMES[number % 2]}__slow", seconds=0.02))
        tally.call(lambda: session.call(f"{NAMES[number % 2]}__tiny"))
        session.close()

    def new(number: int) -> None:
        arguments = {"seconds": 0.02}
        while not stop.is_set():
            tally.call(lambda: modern_call(gateway.port, "/mcp", number, f"{NAMES[number % 2]}__slow", arguments))

    with ThreadPoolExecutor(CALLERS + 1) as pool:
        visits = [pool.submit(old if number < CALLERS // 2 else new, number) for number in range(CALLERS)]
        try:
            for number in range(KILLS):
                tally.wait(CALLERS)
                until(functools.partial(killed_one, start, number), "no server runs")
        finally:
            stop.set()
        for visit in visits:
            visit.result()
    tally.complete()
    again = Session(gateway.port, "/mcp")
    until(lambda: "result" in again.call("first__tiny"), "the server does not come back")
    again.close()


def test_every_call_in_flight_on_one_pipe_is_answered_while_servers_are_killed(root: Caller, start: Path) -> None:
    """Calls go on until enough servers were killed; then every one of them has exactly one answer."""
    made = Gateway(root, [Entry(name, (*PYTHON, str(start)), rules=RULES) for name in NAMES])
    made.write()
    made.pin()
    pipe = Pipe(root.process(made.command(), cwd=made.folder, stdin=subprocess.PIPE))
    try:
        pipe.ask("initialize", {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": INFO})
        killed = 0
        for number in itertools.count():
            pipe.ask("tools/call", {"name": f"{NAMES[number % 2]}__slow", "arguments": {"seconds": 0.2}})
            until(lambda: pipe.open < IN_FLIGHT, "calls are not answered")
            time.sleep(PACE)
            killed += number % IN_FLIGHT == IN_FLIGHT - 1 and killed_one(start, killed)
            if killed == KILLS:
                break
        until(lambda: pipe.open == 0, "calls are not answered")
    finally:
        pipe.close()
    assert {number: len(each) for number, each in pipe.answers.items() if len(each) != 1} == {}
    assert set(pipe.answers) == set(range(1, pipe.asked + 1))
    assert pipe.tally.killed, pipe.tally.errors


class Pipe:
    """A client on standard input and output that has many calls in flight; answers by the number of the call."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.answers: dict[object, list[Message]] = {}
        self.asked = 0
        self.tally = Tally()
        self._process = process
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def open(self) -> int:
        """How many requests have no answer yet."""
        return self.asked - len(self.answers)

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            message = json.loads(line)
            if "method" not in message:
                self.answers.setdefault(message.get("id"), []).append(message)
                self.tally.note(message, 0)

    def ask(self, method: str, params: object) -> None:
        assert self._process.stdin
        self.asked += 1
        line = json.dumps({"jsonrpc": "2.0", "id": self.asked, "method": method, "params": params})
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def close(self) -> None:
        end(self._process)
        self._reader.join(SECONDS)
