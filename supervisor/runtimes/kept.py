"""One session as the keeper has it: its container's first process, its pump, its pipes, its limits.

Runs in the keeper. What it knows of a session it reads from the kernel, by the pid that the engine named and that a
descriptor holds on to. Standard library only.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import errno
import os
import select
import signal
import socket
import time

from supervisor.runtimes import document as described
from supervisor.runtimes import gate, groups, held, pump
from supervisor.runtimes.api import ApiError
from supervisor.runtimes.engine import Engine
from supervisor.runtimes.forks import forked
from supervisor.sandbox import enter, inside, mounts, network
from supervisor.sandbox import syscalls as sc
from supervisor.sandbox.mounts import SECRETS
from supervisor.sandbox.session import StepError, donated

_PATIENCE = 20.0
_MOVE_MOUNT_T_EMPTY_PATH = 0x40
_setns = sc.Call("setns", ctypes.c_int, ctypes.c_int)


class Kept:
    """A container whose gate waits, later its payload. `secrets`: a descriptor that only forks read, or -1."""

    def __init__(self, kind: Engine, name: str, number: int, document: enter.Document, secrets: int) -> None:
        self.engine, self.secrets = kind, secrets
        self.name = name
        self.number = number
        self.document = document
        self.pid = self.pidfd = self.pump = -1
        self.stream: socket.socket | None = None
        self.pipes: list[int] = []
        self.donated: list[int] = []
        self.counters: dict[int, tuple[str, str]] = {}
        self.hit: list[str] = []
        self.ended = 0.0
        self.pumped = False

    def watched(self) -> list[int]:
        """What becomes readable when something of it ends."""
        return [
            fd for fd, done in ((self.pidfd, bool(self.ended)), (self.pump, self.pumped)) if fd >= 0 and not done
        ]

    def acting(self) -> list[int]:
        """What is readable, urgently, when a limit acts for the first time."""
        return [fd for fd, (name, _) in self.counters.items() if name not in self.hit and not self.ended]

    def look(self) -> None:
        """Something of it has ended, or a limit has acted: the counters go with its container."""
        for fd, (name, key) in self.counters.items():
            if name not in self.hit and _acted(fd, key):
                self.hit.append(name)
        if not self.ended and _readable(self.pidfd):
            self.ended = time.monotonic()
            if self.stream:
                # an engine waits for the end of the input, too
                with contextlib.suppress(OSError):
                    self.stream.shutdown(socket.SHUT_WR)
        if not self.pumped and self.pump >= 0 and _readable(self.pump):
            self.pumped = True
            if not self.ended:
                self.kill(signal.SIGKILL)  # nobody carries its bytes any more

    def over(self, patience: float) -> bool:
        """Whether it has ended, and what it had said is read, or will not be."""
        read = self.pumped or self.pump < 0
        return bool(self.ended) and (read or time.monotonic() - self.ended > patience)

    def kill(self, number: int) -> None:
        """Signal its first process; SIGKILL ends everything in its pid namespace."""
        if self.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, number)

    def go(self) -> None:
        """Open the gate, and let a pump carry what follows."""
        if self.stream is None or self.pump >= 0:
            raise OSError(errno.EALREADY, "it has been let go")
        stdin, stdout, stderr = os.pipe(), os.pipe(), os.pipe()
        theirs, self.pipes = [stdin[0], stdout[1], stderr[1]], [stdin[1], stdout[0], stderr[0]]
        program = base64.b64decode(str(described.engine(self.document)["pump"]))
        try:
            pid = pump.start(self.stream, theirs, program, self._environment)
            self.pump = os.pidfd_open(pid)
        finally:
            for fd in theirs:
                os.close(fd)

    def _environment(self) -> bytes:
        """In the fork: what opens the gate, with the secrets among it."""
        env = enter.texts(self.document, "env")
        if self.secrets >= 0:
            env |= inside.bundle(self.secrets)["env"]
        return gate.environment(env)

    def release(self) -> None:
        """Close what was handed over."""
        for fd in (*self.pipes, *([self.secrets] if self.secrets >= 0 else [])):
            os.close(fd)
        self.pipes, self.secrets = [], -1

    def forget_donated(self) -> None:
        """Close its sockets: one that stayed here would keep its network namespace."""
        for fd in self.donated:
            os.close(fd)
        self.donated = []

    def code(self) -> int | None:
        """What the engine says its first process has ended with; None when it does not know."""
        deadline = time.monotonic() + _PATIENCE
        with contextlib.suppress(ApiError):
            while (state := self.engine.state(self.name)).get("Running") and time.monotonic() < deadline:
                time.sleep(0.01)
            if state.get("OOMKilled") is True and "memory" not in self.hit:
                self.hit.append("memory")
            code = state.get("ExitCode")
            return code if isinstance(code, int) and not state.get("Running") else None
        return None

    def close(self) -> None:
        """Close everything, end the pump."""
        self.release()
        self.forget_donated()
        if self.stream:
            self.stream.close()
            self.stream = None
        for fd in self.counters:
            os.close(fd)
        self.counters = {}
        if self.pump >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pump, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PIDFD, self.pump, os.WEXITED)
        for fd in (self.pump, self.pidfd):
            if fd >= 0:
                os.close(fd)
        self.pump = self.pidfd = -1


def fresh(kept: Kept) -> Kept:
    """A container whose gate waits. StepError names what failed; then nothing of it is open here."""
    engine, name = kept.engine, kept.name
    step = "create its container"
    try:
        with engine.making():
            engine.create(name, kept.document)
            step = "attach to its container"
            kept.stream = engine.attach(name)
            step = "start its container"
            engine.start(name)
        step = "find its first process"
        _find(kept)
        step = "mount its own folders and secrets"
        if kept.secrets >= 0 or held.late(kept.document, engine.name):
            forked(lambda: _show(kept))
        step = "make its addresses and the sockets for the egress broker"
        kept.donated = _donated(kept)
        step = "start its gate"
        _let(kept)
    except OSError as error:
        kept.kill(signal.SIGKILL)
        kept.close()
        raise StepError(error, f"{step} in {engine.name}") from None
    return kept


def _find(kept: Kept) -> None:
    """Hold on to the first process, when it has become the gate."""
    pid = kept.engine.state(kept.name).get("Pid")
    if not isinstance(pid, int) or pid <= 1:
        raise _over(kept)
    kept.pid, kept.pidfd = pid, os.pidfd_open(pid)
    if kept.engine.state(kept.name).get("Pid") != pid:
        raise _over(kept)
    ours = os.stat(held.gate_of(kept.engine, kept.document))
    deadline = time.monotonic() + _PATIENCE
    while not _waits(pid, ours):
        if _readable(kept.pidfd) or time.monotonic() > deadline:
            raise _over(kept)
        time.sleep(0.001)
    for name, (path, key) in groups.counters(pid).items():
        # a user's engine may have put it where there are no limits, or others, or beside others
        if name not in enter.numbers(kept.document, "cgroup"):
            continue
        with contextlib.suppress(FileNotFoundError):
            kept.counters[os.open(path, os.O_RDONLY | os.O_CLOEXEC)] = name, key


def _over(kept: Kept) -> OSError:
    """What it has not done, by its exit status."""
    kept.kill(signal.SIGKILL)
    return OSError(errno.ESRCH, f"it has ended: it could not {gate.FAILED.get(kept.code(), 'execute the gate')}")


def _waits(pid: int, ours: os.stat_result) -> bool:
    """Whether it has become the gate and waits: before, it is the engine's own runtime."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
        return os.path.samestat(os.stat(f"/proc/{pid}/exe"), ours) and _sleeps(pid) >= 0
    return False


def _sleeps(pid: int) -> int:
    """How often it has gone to sleep, while it does; -1 otherwise. The gate does that to read, and never else."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{pid}/status", "rb") as file:
        said = dict(line.partition(b":\t")[::2] for line in file.read().splitlines())
        return int(said[b"voluntary_ctxt_switches"]) if said[b"State"].startswith(b"S") else -1
    return -1


def _acted(fd: int, key: str) -> bool:
    """Whether a counter is not zero; one whose group is gone says nothing more."""
    with contextlib.suppress(OSError):
        lines = [line.split() for line in os.pread(fd, 4096, 0).decode().splitlines()]
        return any(line[0] == key and line[1] != "0" for line in lines if len(line) == 2)
    return False


def _donated(kept: Kept) -> list[int]:
    """Sockets for the egress broker, born in the container's network namespace: a fork makes them there."""
    reach = network.Reach(kept.document)
    if not reach.addresses:
        return []
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def make() -> None:
        _enter(kept, "net", sc.CLONE_NEWNET)
        network.up()
        network.add(reach.addresses)
        network.donate(network.sockets(reach.udp, reach.tcp), there)

    with here:
        with there:
            forked(make)
        fds: list[int] = []
        donated(here, len(reach.udp) + len(reach.tcp), fds)
    return fds


def _show(kept: Kept) -> None:
    """Mount what is its own over the empty places that it has there: it belongs to its user inside."""
    root = _opened(kept, "root")
    with open(f"/proc/{kept.pid}/status", encoding="ascii") as file:
        user = next(int(line.split()[1]) for line in file if line.startswith("Uid:"))
    specs = held.late(kept.document, kept.engine.name)
    trees = [(each.target, mounts.detached(each, user)) for each in specs]
    _enter(kept, "mnt", sc.CLONE_NEWNS)
    if kept.secrets >= 0:
        # whoever makes a file has to be somebody there
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        trees.append((SECRETS, inside.secrets(kept.secrets, {}, int(str(kept.document["uid"])))))
    for target, tree in trees:
        place = sc.openat2(target[1:], os.O_PATH, root)
        sc.move_mount(tree, b"", place, b"", sc.MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH)


def _let(kept: Kept) -> None:
    """Let the gate apply its rules and its filter, and wait until it waits again."""
    before, deadline = _sleeps(kept.pid), time.monotonic() + _PATIENCE
    if kept.stream:
        kept.stream.sendall(b"\0")
    while _sleeps(kept.pid) in (-1, before):
        if _readable(kept.pidfd) or time.monotonic() > deadline:
            raise _over(kept)
        time.sleep(0.001)


def _enter(kept: Kept, name: str, kind: int) -> None:
    """Enter a namespace of its first process by way of its user namespace, whose owner may, root or not."""
    found = _opened(kept, f"ns/{name}")
    _setns(_opened(kept, "ns/user"), sc.CLONE_NEWUSER)
    _setns(found, kind)


def _opened(kept: Kept, name: str) -> int:
    """A namespace or the root of its first process, and of no other that got its number."""
    fd = os.open(f"/proc/{kept.pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    if _readable(kept.pidfd):
        raise OSError(errno.ESRCH, "it has ended")
    return fd


def _readable(fd: int) -> bool:
    poll = select.poll()  # select(2) takes no descriptor above 1023
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))
