"""What audit costs: time added to a call, records a second through the ledger, look-ups, verification, the index.

Run from a checkout as root, `python benchmarks/audit.py`. Everything stands beside the same without
audit in the same run: an echo over the same kind of socket for the ledger, a scan of the log for the index.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import random
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from multiprocessing.synchronize import Event
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import call_overhead, opened
from supervisor import wire
from supervisor.audit import index, query, read, record, verify
from supervisor.audit.client import Client
from supervisor.audit.confine import Place
from supervisor.audit.cursors import START
from supervisor.audit.query import Wanted
from supervisor.audit.reached import Reached
from supervisor.audit.record import Answer, Call, Context, Decision, Opened, Touched
from supervisor.audit.segments import Log, Rules
from tests.unit.audit import ledgers
from tests.unit.audit.ledgers import Peer, Started

# Linux has 200,000 here; 0 makes each waking of a process on an idle processor wait for the hypervisor
HALTING = Path("/sys/module/haltpoll/parameters")
DAYS = 30
DAY = 86_400_000_000
FIRST = 1_764_000_000_000_000


def calls(count: int) -> Iterator[tuple[bytes, bytes]]:
    """Intents and outcomes of many users, tools, files and hosts, the rare among the frequent."""
    dice = random.Random(1)  # noqa: S311 - the same log each time
    for number in range(count):
        context = Context(
            user=f"uid:{1000 + int(dice.expovariate(0.03)) % 400}",
            session=str(number // 500),
            client="claude-code 2.1",
            server=f"server{dice.randrange(20)}",
            profile="fs-readonly",
            spec="ab" * 32,
        )
        call = Call(context, f"01J{number:012}", f"tool{dice.randrange(60)}")
        decision = Decision("deny" if dice.random() < 0.001 else "allow", "grants.toml:12")
        files = [Opened(f"/srv/data/{dice.randrange(2000)}/file{dice.randrange(50)}.txt") for _ in range(2)]
        hosts = [Reached(f"host{dice.randrange(3000)}.example", 443, 100, 900)]
        arguments = b'{"path":"/srv/data/%d","note":"word%d"}' % (number, dice.randrange(50_000))
        answer = Answer(content=b"x" * dice.randrange(500))
        touched = Touched(files, hosts)
        yield record.intent(call, arguments, decision), record.outcome(call, 900, answer, touched)


def write(place: Place, events: int) -> Path:
    """A log of so many records, over thirty days."""
    folder = place.logs / "0"
    folder.mkdir(parents=True)
    place.indexes.mkdir()
    clock = iter(range(FIRST, 1 << 62, DAYS * DAY // events))
    log = Log(folder, Rules(), clock.__next__)
    for number, (intent, outcome) in enumerate(calls(events // 2)):
        log.append("intent", (1000, 4242), intent)
        log.append("outcome", (1000, 4242), outcome)
        if number % 1000 == 0:
            log.commit()
            if log.is_full():
                log.rotate()
    log.commit()
    return folder


def timed(what: Callable[[], object], runs: int = 1) -> float:
    """The median of some runs, in seconds."""
    took = []
    for _ in range(runs):
        began = time.perf_counter()
        what()
        took.append(time.perf_counter() - began)
    return statistics.median(took)


def looked_up(place: Place, events: int) -> None:
    """Index, look-ups and verification of a log."""
    folder = write(place, events)
    size = sum(path.stat().st_size for path in folder.glob("*.jsonl"))
    print(f"{events:,} records, {size >> 20} MiB")

    def build() -> None:
        with index.opened(place, rebuild=True):
            pass

    build_seconds = timed(build)
    index_size = (place.indexes / "index.sqlite").stat().st_size
    print(f"index      built {events / build_seconds:10,.0f} records/s   {index_size >> 20} MiB")
    verified = timed(lambda: verify.verify_log(folder, [], []))
    print(f"verify           {events / verified:10,.0f} records/s   {(size >> 20) / verified:.0f} MiB/s")
    scanned = timed(lambda: sum(b"uid:1399" in each.raw for each in read.lines(folder, START)))
    print(f"scan of the log  {events / scanned:10,.0f} records/s, for a look-up without an index {scanned:.1f} s")
    last_day = FIRST + (DAYS - 1) * DAY
    wanted = {
        "user, last day": Wanted(user="uid:1003", since=last_day),
        "rare user": Wanted(user="uid:1399"),
        "frequent tool": Wanted(tool="tool7"),
        "denied": Wanted(verdict="deny"),
        "file": Wanted(path="/srv/data/77/file7.txt"),
        "folder": Wanted(path="/srv/data/77"),
        "everything below a folder": Wanted(path="/srv"),
        "host": Wanted(host="host77.example"),
        "rare word": Wanted(text="word77"),
        "frequent word": Wanted(text="tools call"),
        "user and folder": Wanted(user="uid:1003", path="/srv/data/77"),
        "user, tool, verdict": Wanted(user="uid:1003", tool="tool7", verdict="deny"),
    }
    with index.opened(place) as database:
        for name, each in wanted.items():
            found = len(query.search(database, each, 50))
            seconds = timed(lambda each=each: query.search(database, each, 50), 9)  # type: ignore[misc]
            print(f"look-up    {name:26} {seconds * 1e3:7.2f} ms  ({found} rows)")


def writer(peer: Peer, count: int, policy: str, window: int, begin: Event) -> None:
    """Intents and outcomes in turn, `window` of them under way."""
    bodies = [ledgers.sample("call-1"), ledgers.sample("call-1", "outcome")]
    begin.wait()
    sent = heard = 0
    while heard < count:
        while sent < count and sent - heard < window:
            peer.say(("intent", "outcome")[sent % 2], policy, bodies[sent % 2])
            sent += 1
        heard += len(peer.accepted())


def through(ledger: Started, writers: int, policy: str, count: int, window: int) -> None:
    """Records a second, of all writers together, and the ledger's own time for each."""
    begin = multiprocessing.Event()
    peers = [ledger.peer() for _ in range(writers)]
    running = [
        multiprocessing.Process(target=writer, args=(peer, count // writers, policy, window, begin))
        for peer in peers
    ]
    for process in running:
        process.start()
    time.sleep(0.3)
    before, began = cpu(ledger.pid), time.perf_counter()
    begin.set()
    for process in running:
        process.join()
    seconds, spent = time.perf_counter() - began, cpu(ledger.pid) - before
    print(
        f"ledger     {writers:2} writers, {policy:7}, {window:3} under way "
        f"{count / seconds:10,.0f} records/s   {spent / count * 1e6:5.1f} us of its processor each"
    )


def cpu(pid: int) -> float:
    """Seconds of processor that a process has used."""
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().split()[13:15])) / os.sysconf("SC_CLK_TCK")


def called() -> None:
    """One small tools/call through the gateway's code, policies on, with and without a ledger, in turns.

    And acknowledged by a process that writes nothing: so much is the waking of another process, twice.
    """
    front = [sys.executable, "-m", "tests.unit.proxy.front", "governed"]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp")))
        folder.chmod(0o755)
        os.environ["LOGS_DIRECTORY"] = str(folder)
        server = call_overhead.compiled(folder, "echo_server")
        ways = {"not written down": [*front, f"command={server}"]}
        for word in ("acknowledged", "audit"):
            ways[word] = [*ways["not written down"], word]
        running = {name: call_overhead.Pipes(argv, "a__echo") for name, argv in ways.items()}
        for client in running.values():
            stack.callback(client.close)
        rounds: dict[str, list[float]] = {name: [] for name in running}
        for _ in range(40):
            for name, client in running.items():
                rounds[name].append(timed(client.one, 50))
    without, empty, with_ = rounds.values()
    for name, each in (("acknowledged by an empty process", empty), ("written down", with_)):
        more = statistics.median(map(float.__sub__, each, without)) * 1e6
        once, before = statistics.median(each) * 1e6, statistics.median(without) * 1e6
        print(f"a call     {before:.0f} us, {name} {once:.0f} us: {more:.0f} us more")
    for path in HALTING.glob("guest_halt_poll_ns"):
        print(f"           an idle virtual processor waits for work {path.read_text().strip()} ns before it halts")


def added(ledger: Started) -> None:
    """What a call waits for its intent, and what the proxy spends, beside an echo of the same size."""
    intent = ledgers.sample("call-1")
    context = Context(user="uid:1000", session="7", client="claude-code 2.1", server="files", spec="ab" * 32)

    async def run() -> tuple[float, float, float]:
        client = Client(ledger.peer().socket.dup())
        took: dict[bool, list[float]] = {False: [], True: []}
        for power, times in took.items():
            for number in range(3000):
                call = Call(context, f"call-{int(power)}-{number}", "read_file")
                written = record.short_intent(call, b'{"path":"/srv/data/file.txt"}')
                heard = asyncio.get_running_loop().create_future()
                began = time.perf_counter()
                client.tell(b"intent", written, heard.set_result, power=power)
                assert await heard == ""
                times.append(time.perf_counter() - began)
        began = time.thread_time()
        for _ in range(30):
            for future in [client.intent(intent) for _ in range(100)]:
                await future
        spent = (time.thread_time() - began) / 3000
        client.close()
        return statistics.median(took[False]), statistics.median(took[True]), spent

    process, power, spent = asyncio.run(run())
    ours, theirs = wire.pair()
    child = multiprocessing.Process(target=echo, args=(theirs.fileno(),))
    child.start()
    plain = timed(lambda: (ours.send(intent), ours.recv(1 << 16)), 3000)
    ours.shutdown(2)
    child.join()
    waits = f"{process * 1e6:6.0f} us (process), {power * 1e6:6.0f} us (power)"
    print(f"ledger     a call waits for its intent {waits}; ", end="")
    print(f"an echo without audit {plain * 1e6:.0f} us; the proxy spends {spent * 1e6:.1f} us")


def echo(fd: int) -> None:
    """The same message there, a short one back."""
    sock = socket.socket(fileno=os.dup(fd))
    while sock.recv(1 << 16):
        sock.send(b'{"ok":[1]}')


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000, help="for the index")
    parser.add_argument("--part", choices=["calls", "ledger", "index", "files"], help="only one of them")
    options = parser.parse_args()
    if options.part in (None, "calls"):
        called()
    if options.part in (None, "files"):
        opened.report()
    if options.part in (None, "ledger"):
        with ledgers.place() as place:
            ledger = Started(place)
            try:
                added(ledger)
                for policy, count in (("process", 40_000), ("power", 8_000)):
                    for writers, window in ((1, 1), (1, 64), (16, 1), (16, 16)):
                        through(ledger, writers, policy, count, window)
            finally:
                ledger.end()
    if options.part in (None, "index"):
        with ledgers.place() as place:
            looked_up(place, options.events)


if __name__ == "__main__":
    main()
