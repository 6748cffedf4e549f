"""A runtime's process as the monitor holds it, and sessions of it, for the compliance test.

Everything here is the monitor's own: its end of the protocol, its loop, its posture. Only who asks is the test.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import sys
import termios
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from supervisor.errors import SupervisorError
from supervisor.model import ImageRoot, Mount, Network, Plan, SandboxSpec
from supervisor.monitor import children, posture
from supervisor.monitor.children import CODE, Spawner
from supervisor.monitor.contained import READERS
from supervisor.monitor.loop import Loop
from supervisor.profile import host, load, plan, seccomp
from supervisor.registry.engines import guest
from supervisor.runtimes import native
from supervisor.sandbox import cgroup, rights, syscalls
from tests.escape.arena import Arena
from tests.integration.engine_image import PYTHON
from tests.integration.engines import Started
from tests.unit.profile.test_plan import entry

SECONDS = 30.0
MEMORY, PIDS = 100 << 20, 24
ENV = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "LC_ALL": "C.UTF-8"}


def reachable(arena: Arena, patch: pytest.MonkeyPatch) -> None:
    """From now on an ordinary user can execute what is started: his command line's interpreter, our code."""
    first = Path(arena.commands["user"][0]).read_text(encoding="utf-8").splitlines()[0]
    patch.setattr(sys, "executable", first.removeprefix("#!"))
    if (arena.base / "checkout").exists():
        patch.setattr(children, "ROOT", str(arena.base / "checkout"))


@contextmanager
def acting(uid: int, gid: int) -> Iterator[None]:
    """Be an ordinary user, as far as the kernel asks, and so is whatever is started; and root again."""
    if uid == 0:
        yield
        return
    groups = os.getgroups()
    os.setgroups([])
    os.setresgid(gid, gid, 0)
    os.setresuid(uid, uid, 0)
    # a change of users makes a process unreadable to that user himself
    syscalls.prctl(rights.PR_SET_DUMPABLE, 1, 0, 0, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups(groups)
        syscalls.prctl(rights.PR_SET_DUMPABLE, 1, 0, 0, 0)


class Running:
    """One session: its pipes, and how it has ended."""

    def __init__(self, number: int, pid: int, fds: list[int]) -> None:
        self.number = number
        self.pid = pid
        self.stdin, self.stdout, self.stderr, self.pidfd = fds

    def close(self) -> None:
        """Everything that is still open."""
        for fd in (self.stdin, self.stdout, self.stderr, self.pidfd):
            if fd >= 0:
                os.close(fd)
        self.stdin = self.stdout = self.stderr = self.pidfd = -1

    def say(self, data: bytes, *, last: bool = False) -> None:
        """Write all of it; `last` ends its input."""
        while data:
            data = data[os.write(self.stdin, data[:65536]) :]
        if last:
            os.close(self.stdin)
            self.stdin = -1

    def unread(self) -> int:
        """How many bytes of its output wait."""
        return int.from_bytes(fcntl.ioctl(self.stdout, termios.FIONREAD, bytes(4)), sys.byteorder)

    def heard(self, fd: int | None = None) -> bytes:
        """All of its output, or of another descriptor."""
        said = b""
        while select.select([fd or self.stdout], [], [], SECONDS)[0] and (
            part := os.read(fd or self.stdout, 65536)
        ):
            said += part
        return said


class Bench:
    """A runtime and whatever it needs; `document` and `verify` can be spoiled by a test."""

    def __init__(
        self, name: str, engine: Started | None, blobs: tuple[str, str, tuple[tuple[str, str], ...]]
    ) -> None:
        self.name, self.engine, self.blobs = name, engine, blobs
        self.loop = Loop()
        self.ended: dict[int, tuple[int | None, list[str]]] = {}
        self.gone = False
        self.count = 0
        self.donated: list[int] = []
        self.spawner = self.start()

    def ground(self, arena: Arena) -> Path:
        """A folder where whoever has the engine may make others."""
        return self.engine.folder if self.engine and self.engine.owner[0] else arena.base

    def start(self) -> Spawner:
        """Its process, greeted and served."""
        runtime = self.engine.runtime if self.engine else self.name
        made = Spawner() if runtime == "native" else Spawner(CODE.format(f"runtimes.{runtime}"))
        made.greet()
        made.donated = lambda _, fds: self.donated.extend(fds)
        made.serve(self.loop, self._exited, self._gone)
        self.gone = False
        return made

    def _exited(self, number: int, code: int | None, limits: list[str]) -> None:
        self.ended[number] = (code, limits)

    def _gone(self) -> None:
        self.gone = True

    def until(self, done: Callable[[], bool]) -> None:
        """Serve until this holds."""
        deadline, due = time.monotonic() + SECONDS, 0.0
        while not done():
            assert time.monotonic() < deadline
            if time.monotonic() >= due:
                # what is waited for may be no event of the loop's
                due = time.monotonic() + 0.05
                self.loop.later(0.05, lambda: None)
            self.loop.once()

    def spec(self, code: str, *mounts: Mount, network: Network | None = None, **limits: int) -> SandboxSpec:
        """`none` with a Python program of these lines, in an image where the runtime takes one."""
        chain = load.load("none")
        made = plan.plan(chain, entry(Path("/usr/share"))).spec
        rlimits = {name: value for name, value in made.rlimits.items() if self.name != "docker" or name != "NPROC"}
        # nothing of root's: its engine and its sessions hold every other limit
        own = self.engine is not None and self.engine.owner[0]
        rlimits |= {"NPROC": PIDS} if own else {}
        changed: dict[str, object] = {
            "argv": (PYTHON, "-I", "-S", "-c", code),
            "env": ENV,
            "cwd": "/tmp",
            "mounts": mounts,
            "limits": made.limits.model_copy(update={"memory": MEMORY, "pids": PIDS} | limits),
            "rlimits": rlimits,
            "network": network or made.network,
        }
        if self.engine:
            folder, config, layers = self.blobs
            name = f"example.org/python@{config}"
            changed |= {
                "accepted": tuple(sorted(host.probe().missing)) if own else (),
                "runtime": self.engine.runtime,
                "links": {},
                "image": ImageRoot(name=name, digest=config, config=config),
                "engine": {
                    "socket": self.engine.socket,
                    "pump": seccomp.own("pump"),
                    "image": {"store": folder, "config": config, "layers": [list(each) for each in layers]},
                },
            }
        spec = made.model_copy(update=changed)
        if self.name != "gvisor":
            return spec
        spec = spec.model_copy(update={"rlimits": rlimits | {"NPROC": PIDS}})
        return guest(Plan(spec=spec, told={})).spec

    def reader(self, pid: int, spec: SandboxSpec, document: dict[str, object]) -> posture.Reader:
        """The monitor's own."""
        return READERS[spec.runtime](pid, spec, document)

    def load(self, spec: SandboxSpec) -> None:
        """Hand a spec over, as when a registry is read."""
        self.spawner.load(spec.digest, native.document(spec, host.probe()))

    def run(self, spec: SandboxSpec, expected: SandboxSpec | None = None, *, loaded: bool = False) -> Running:
        """Start one; posture is read back as the monitor does, perhaps against another spec."""
        if not loaded:
            self.load(spec)
        self.count += 1
        number, opened, failed, pids = self.count, list[list[int]](), list[SupervisorError](), [0]
        wanted = expected or spec

        def verify(pid: int, group: str) -> list[str]:
            pids[0] = pid
            found = native.document(wanted, host.probe())
            return posture.differences(self.reader(pid, wanted, found), cgroup.probe(), group)

        def done(failure: SupervisorError | None, fds: list[int]) -> None:
            (failed if failure else opened).append(failure or fds)  # type: ignore[arg-type]

        self.spawner.spawn(number, spec.digest, verify, done)
        self.until(lambda: bool(opened or failed or self.gone))
        if failed:
            raise failed[0]
        return Running(number, pids[0], opened[0])

    def ends(self, running: Running) -> tuple[int | None, list[str]]:
        """How a session has ended, when nothing of it is left."""
        self.until(lambda: running.number in self.ended or self.gone)
        return self.ended[running.number]

    def result(self, spec: SandboxSpec, said: bytes = b"") -> tuple[bytes, bytes, int | None, list[str]]:
        """Run a program to its end: its output, its errors, its status, the limits that it has hit."""
        running = self.run(spec)
        running.say(said, last=True)
        out = running.heard()
        errors = running.heard(running.stderr)
        code, limits = self.ends(running)
        running.close()
        return out, errors, code, limits

    def kill(self, running: Running, number: int = signal.SIGKILL) -> None:
        """As the monitor ends a session."""
        signal.pidfd_send_signal(running.pidfd, number)

    def close(self) -> None:
        """The end of the process, and what was donated."""
        self.spawner.close()
        for fd in self.donated:
            os.close(fd)
        self.donated = []


def encoded(program: bytes) -> str:
    """A filter as a spec has it."""
    return b64encode(program).decode()
