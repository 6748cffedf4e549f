"""A spawner that is killed in the middle of something: said in words, and nothing of its sessions is left."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.cli import personal
from supervisor.errors import SupervisorError
from supervisor.proxy.link import Link
from tests.escape.arena import Arena
from tests.integration.caller import SECONDS
from tests.integration.host import Host, children, running

SAID = "the spawner ended unexpectedly"


@pytest.fixture
def host(arena: Arena, servers: Path) -> Iterator[Host]:
    with running(arena, servers) as made:
        yield made


def spawner(host: Host) -> int:
    (pid,) = [
        int(each)
        for each in children(host.process.pid)
        if b"sandbox.spawner" in Path(f"/proc/{each}/cmdline").read_bytes()
    ]
    return pid


def stopped(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    while state(pid) != "T":
        os.sched_yield()


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0]


def test_one_that_is_killed_while_it_loads_ends_the_daemon_in_order(host: Host) -> None:
    with host.running("files") as process:
        stopped(pid := spawner(host))
        host.config.write_text(
            host.config.read_text() + '[server.more]\nprofile = "none"\ncommand = ["/bin/cat"]\n'
        )
        done: list[subprocess.CompletedProcess[str]] = []
        asked = threading.Thread(target=lambda: done.append(host.ask(host.root, "admin", "reload")))
        asked.start()
        # the monitor waits for its answer, with the request unread at the other end
        while not unread(pid):
            os.sched_yield()
        orphans = children(pid)
        os.kill(pid, signal.SIGKILL)
        asked.join(SECONDS)
        assert SAID in done[0].stderr
        assert "reset by peer" not in done[0].stderr
        process.communicate(timeout=SECONDS)
    assert SAID in host.hears(SAID)
    assert host.ended() == 1
    for each in orphans:
        # the kernel has killed every sandbox with it, and the tests have adopted them
        os.waitpid(int(each), 0)
    assert not list(host.runtime.iterdir()), "it ended in order"


def unread(pid: int) -> bool:
    """Whether something waits on the wire socket of a process that is stopped."""
    fd = os.pidfd_open(pid)
    try:
        copy = _getfd(fd, 3)
    finally:
        os.close(fd)
    with copy:
        try:
            return bool(copy.recv(1, 0x40 | 0x02))  # MSG_DONTWAIT | MSG_PEEK
        except BlockingIOError:
            return False


def _getfd(pidfd: int, number: int) -> socket.socket:
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(438, pidfd, number, 0)
    assert fd >= 0, os.strerror(ctypes.get_errno())
    return socket.socket(fileno=fd)


@pytest.mark.skipif(os.geteuid() != 0, reason="looks into another process")
def test_one_that_is_killed_before_anything_runs_is_told_to_who_waits() -> None:
    """As `exec` starts it: the spawner is gone before its first document is loaded."""
    found: list[int] = []

    def before(monitor: int) -> None:
        while not (there := [int(each) for each in children(monitor)]):
            os.sched_yield()
        # it has its namespaces, has said so, and waits for a document
        while os.readlink(f"/proc/{there[0]}/ns/mnt") == os.readlink("/proc/self/ns/mnt") or state(there[0]) != "S":
            os.sched_yield()
        found.extend(there)
        stopped(there[0])

    asked = {
        "name": "personal",
        "profile": "none",
        "command": ["/usr/bin/true"],
        "cwd": "/",
        "home": "/nonexistent",
    }
    tree = personal.start(asked | {"personal": True, "origin": "command line"}, before=before)
    try:
        while not unread(found[0]):
            os.sched_yield()
        os.kill(found[0], signal.SIGKILL)
        with pytest.raises(SupervisorError, match=SAID):
            Link(tree.monitor).hello()
    finally:
        tree.close()
