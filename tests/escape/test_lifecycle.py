"""The end: whatever ends, by whatever means, nothing of the session lives a second longer.

The guest ignores every signal it can, has daemonised grandchildren, and a chain of processes that fork faster
than anybody looks. Without a sandbox all of them outlive the command that started them.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.escape.arena import MARKER, PYTHON, Arena, end

STUBBORN = MARKER + "-stubborn"

# argv: what to do at the end ("exit" or "wait"), the marker by which the test finds every process of it.
GUEST = """
import os, signal, sys, time
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for fd in range(3):
            os.close(fd)
        while True:
            time.sleep(60)
    os._exit(0)
if os.fork() == 0:
    os.setsid()
    last = time.monotonic() + 30
    while time.monotonic() < last:
        if os.fork():
            os._exit(0)
        time.sleep(0.005)
os.write(1, b"ready\\n")
if sys.argv[1] == "wait":
    time.sleep(600)
"""
RAMPAGE = "import os, signal; os.write(1, b'ready\\n'); os.kill(-1, signal.SIGKILL); print('still here')"

WITNESS = 'sleep 60 >&2 & "$@"; wait $!; [ $? = 137 ] && echo witness killed'


def marked() -> set[int]:
    """Every process of the host that has the guest's marker among its arguments, the command line's excepted."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if STUBBORN.encode() in words and b"exec" not in words:
                    found.add(int(entry.name))
    return found


def children(pid: int) -> list[int]:
    """A process and all below it, parents first."""
    below = [pid]
    with contextlib.suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in (thread / "children").read_text().split():
                below += children(int(child))
    return below


def ours_of(process: subprocess.Popen[bytes]) -> list[int]:
    """The living processes of the tree that are not the guest's: the proxy, the monitor, the spawner, the init."""
    found = []
    for pid in children(process.pid):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if words != [b""] and (b"exec" in words or STUBBORN.encode() not in words):
                found.append(pid)
    return found


@contextmanager
def guest(arena: Arena, mode: str, ending: str, *, sandbox: bool) -> Iterator[subprocess.Popen[bytes]]:
    argv = [*PYTHON, "-c", GUEST, ending, STUBBORN]
    process = arena.start(arena.command("none", mode, argv) if sandbox else argv, mode)
    try:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n", process.stderr and process.stderr.read()
        yield process
    finally:
        end(process)


@pytest.fixture(autouse=True)
def no_remains() -> Iterator[None]:
    """Whatever the control or a failed test left is killed: by process group, which a fork cannot outrun."""
    yield
    deadline = time.monotonic() + 5
    while (left := marked()) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(os.getpgid(pid), signal.SIGKILL)
    assert not left


class Watched:
    """Processes that should end, each held by a descriptor so that its number cannot become another's."""

    def __init__(self, pids: list[int]) -> None:
        self.fds: dict[int, int] = {}
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                self.fds[pid] = os.pidfd_open(pid)

    def survivors(self, seconds: float = 1) -> set[int]:
        """What lives on after that time, of these processes and of the guest's later ones; closes this."""
        deadline, waiting = time.monotonic() + seconds, dict(self.fds)
        while waiting and (left := deadline - time.monotonic()) > 0:
            ready = select.select(list(waiting.values()), [], [], left)[0]
            waiting = {pid: fd for pid, fd in waiting.items() if fd not in ready}
        late = marked()
        while late and time.monotonic() < deadline:
            late = marked()
        for fd in self.fds.values():
            os.close(fd)
        return set(waiting) | late


def test_outside_the_guest_outlives_its_command(arena: Arena, mode: str) -> None:
    """The control of every test below."""
    with guest(arena, mode, "exit", sandbox=False) as process:
        process.wait(10)
        assert marked()


def test_nothing_outlives_the_command(arena: Arena, mode: str) -> None:
    with guest(arena, mode, "exit", sandbox=True) as process:
        tree = Watched(children(process.pid))
        assert process.wait(10) == 0
        assert tree.survivors() == set()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_nothing_outlives_the_command_line(arena: Arena, mode: str, number: signal.Signals) -> None:
    """A signal to the process that was typed. Those that can be caught give the guest its grace first."""
    with guest(arena, mode, "wait", sandbox=True) as process:
        tree = Watched(children(process.pid))
        assert len(tree.fds) > 3
        process.send_signal(number)
        assert tree.survivors(1 if number == signal.SIGKILL else 2) == set()


def test_nothing_outlives_any_process_of_ours(arena: Arena, mode: str) -> None:
    """SIGKILL to each process of the tree in turn: the proxy, the monitor, the spawner, the init."""
    position, ours = 0, 4
    while position < ours:
        with guest(arena, mode, "wait", sandbox=True) as process:
            pids = ours_of(process)
            ours = len(pids)
            assert ours >= 4, "proxy, monitor, spawner and init were expected"
            tree = Watched([*pids, *marked()])
            os.kill(pids[position], signal.SIGKILL)
            left = tree.survivors()
            assert left == set(), f"process {position} of {ours} killed, {len(left)} live on"
        position += 1


def test_killing_everything_kills_only_its_own(arena: Arena, profile: str, mode: str) -> None:
    """kill(-1) reaches every process that the caller may signal; the control has a pid namespace around it."""
    control = ["/usr/bin/unshare", "--pid", "--fork", "/bin/sh", "-c", WITNESS, "sh", *PYTHON, "-c", RAMPAGE]
    assert "witness killed" in arena.outside(control, "root").stdout
    witness = arena.companion("bystander", [*PYTHON, "-c", "print(flush=True); input()"], mode)
    done = arena.inside(profile, mode, [*PYTHON, "-c", RAMPAGE])
    assert "ready" in done.stdout, done.stderr
    assert Path(f"/proc/{witness.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "SR"
