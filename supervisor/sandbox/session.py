"""What the spawner keeps of each document, and of each session that it has forked.

Runs as root in the spawner. Standard library only, as every sandbox is a fork of it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket

from supervisor import wire
from supervisor.sandbox import enter, mounts
from supervisor.sandbox.cgroup import Group

_PATIENCE = 20  # seconds


class Loaded:
    """A document that is ready to be spawned: its root template, its steps, perhaps a sandbox made ahead.

    `signal`: how its init passes one on to the payload.
    """

    signal = staticmethod(os.kill)

    def __init__(self, document: enter.Document, image: int | None) -> None:
        self.document = document
        self.parked: Child | None = None
        self.argv = [str(each) for each in enter.items(document, "argv")]
        self.cwd, self.env = str(document["cwd"]), enter.texts(document, "env")
        # what its init waits for, and makes default again for the payload
        self.signals = signal.valid_signals()
        self.mounts = enter.specs(document, "mounts")
        self.limits = enter.numbers(document, "cgroup")
        self.donated = len(enter.items(document, "udp")) + len(enter.items(document, "tcp"))
        trees, files = enter.specs(document, "trees"), enter.texts(document, "files")
        links = enter.texts(document, "links")
        if image is not None:
            points = {f"/{name}": False for name in mounts.FOLDERS} | dict.fromkeys((mounts.CANARY, *files), True)
            points |= {each.target: each.is_file for each in (*trees, *self.mounts)}
            shown, named = mounts.shown(image, points)
            trees, links = trees + shown, links | named
        self.steps = enter.plan(document, trees)
        self.template = mounts.template(trees, self.mounts, links, files)

    def ids(self, own: int) -> str:
        """The map of its users or groups: its one is `own` outside."""
        return f"{self.document['uid']} {own} 1"


class Child:
    """One session: its init, the pipe it reports on, its cgroup; `go` and `pipes` until its payload runs.

    `number` is 0 as long as it is nobody's.
    """

    def __init__(
        self, plan: Loaded, pid: int, pidfd: int, *, status: int, group: Group, go: socket.socket, pipes: list[int]
    ) -> None:
        self.number = 0
        self.plan, self.pid, self.pidfd = plan, pid, pidfd
        self.status, self.group, self.go, self.pipes = status, group, go, pipes
        self.donated: list[int] = []

    def release(self) -> None:
        """Close what only a session that waits for its payload has."""
        self.go.close()
        wire.close((*self.pipes, *self.donated))
        self.pipes, self.donated = [], []

    def report(self, size: int) -> bytes:
        """What its init says next; StepError after a silence in which any step would have been taken."""
        poll = select.poll()  # select(2) takes no descriptor above 1023
        poll.register(self.status, select.POLLIN)
        if not poll.poll(_PATIENCE * 1000):
            raise StepError(OSError(errno.ETIMEDOUT, f"nothing heard of it for {_PATIENCE} s"), "enter")
        return os.read(self.status, size)

    def waits(self) -> bool:
        """Whether its init has not ended."""
        return os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def kill(self, number: int) -> None:
        """Signal the init; SIGKILL ends everything in its pid namespace."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def end(self) -> list[str]:
        """Kill it and leave nothing of it; the limits that had been hit."""
        self.kill(signal.SIGKILL)
        return self.reap()[1]

    def reap(self) -> tuple[int | None, list[str]]:
        """Wait for the init, clean up; (the payload's exit code, None if it did not end by itself; limits)."""
        self.release()
        _, raw = os.waitpid(self.pid, 0)
        report = os.read(self.status, 64)
        os.close(self.status)
        os.close(self.pidfd)
        hit = self.group.limits_hit()
        self.group.remove()
        code = int(report[1:]) if report[:1] == b"X" else None
        return code if os.waitstatus_to_exitcode(raw) == 0 else None, hit


class StepError(OSError):
    """An OSError that knows which step it belongs to."""

    def __init__(self, error: OSError, step: str) -> None:
        super().__init__(error.errno, error.strerror)
        self.step = step


def reported(report: bytes) -> StepError:
    """What an init wrote to its status pipe when a step failed."""
    if report[:1] != b"E":
        return StepError(OSError(5, "the sandbox ended before its payload was started"), "enter")
    number, _, step = report[1:].decode(errors="replace").partition(" ")
    what, _, reason = step.rpartition(": ")
    return StepError(OSError(int(number), reason), what)


def donated(go: socket.socket, count: int, fds: list[int]) -> None:
    """The spawner's end of `network.donate`, into `fds`: OSError when the child has not sent `count` of them."""
    while len(fds) < count:
        fds += (more := wire.take(go, 16, wire.CHUNK, socket.MSG_DONTWAIT)[1])
        if not more:
            raise OSError(71, "the sandbox has not handed over its sockets")
