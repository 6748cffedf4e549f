"""What the hostile programs share: system calls by number, and the runner that tries them in turn.

The source of this file stands in front of every batch of programs and travels with it into the sandbox, so
it uses the standard library only and knows nothing of the tests. Runs as whoever starts it.
A program ends in one of three ways: it returns what it got hold of (CROSSED), it is refused (HELD), or it is
wrong itself (BROKEN), which proves nothing and fails the test.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import select
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

PROFILES = ("none", "fs-readonly", "fs-scoped", "net-allowlist", "ci-runner")
FOLDER = ("fs-readonly", "fs-scoped", "ci-runner")
SCOPE = ("fs-scoped", "ci-runner")
CI = ("ci-runner",)
STRICT = ("none", "fs-readonly", "fs-scoped", "net-allowlist")
OFFLINE = ("none", "fs-readonly", "fs-scoped")

NEWTIME, NEWNS, NEWCGROUP, NEWUTS = 0x80, 0x00020000, 0x02000000, 0x04000000
NEWIPC, NEWUSER, NEWPID, NEWNET = 0x08000000, 0x10000000, 0x20000000, 0x40000000
AT_FDCWD, AT_EMPTY_PATH = -100, 0x1000


class Held(Exception):
    """The boundary held, and the program says how."""


class Bait:
    """Names, numbers and paths that the test laid out; programs are told, as if they had guessed."""

    def __init__(self, values: dict[str, str | int]) -> None:
        self._values = values

    def text(self, name: str) -> str:
        return str(self._values[name])

    def number(self, name: str) -> int:
        return int(self._values[name])


@dataclass(frozen=True)
class Program:
    """One attempt: `control` says who must succeed with it outside, `profiles` where it is tried."""

    name: str
    attack: Callable[[Bait], str]
    control: str
    profiles: tuple[str, ...]


def hostile(
    *, control: str = "same", profiles: tuple[str, ...] = PROFILES
) -> Callable[[Callable[[Bait], str]], Program]:
    """Make a program of a function. `control`: who must succeed outside, the "same" user as
    the sandbox's caller, always "root", or always the ordinary "user"."""

    def wrap(attack: Callable[[Bait], str]) -> Program:
        return Program(attack.__name__, attack, control, profiles)

    return wrap


def syscall(number: int, *arguments: int | bytes | None) -> int:
    """A raw system call; OSError when the kernel (or a filter) says no."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    words = [ctypes.c_char_p(a) if isinstance(a, bytes) else ctypes.c_long(a or 0) for a in arguments]
    result = int(libc.syscall(ctypes.c_long(number), *words))
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def address(buffer: ctypes.Array[ctypes.c_char]) -> int:
    """Where a buffer lies, for a system call that wants a pointer."""
    return ctypes.addressof(buffer)


@contextmanager
def prepared() -> Iterator[None]:
    """Steps before the attack: when one of them fails, the program is broken and nothing is proved."""
    try:
        yield
    except OSError as error:
        raise RuntimeError(f"preparation failed: {error}") from error


def taken(condition: object, evidence: str, otherwise: str) -> str:
    """The evidence if there is any, Held if not."""
    if not condition:
        raise Held(otherwise)
    return evidence


def slurp(path: str, *, limit: int = 65536) -> bytes:
    """The beginning of a file."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        return os.read(fd, limit)
    finally:
        os.close(fd)


def secret(path: str) -> str:
    """The bait's content; anything else at that path is not what was looked for."""
    content = slurp(path)
    return taken(b"BAIT" in content, f"{path} holds {content[:40]!r}", f"{path} is something else")


def others() -> list[int]:
    """Every process number worth a try, except this program's own family."""
    mine = {os.getpid()} if os.getppid() == 0 else {os.getpid(), os.getppid()}
    listed = {int(name) for name in os.listdir("/proc") if name.isdigit()}
    return sorted((listed | {1, 2, 3, 4}) - mine)


def descriptor_of(pid: int, number: int) -> str:
    """Copy a descriptor out of a process, through a pidfd."""
    return str(syscall(438, syscall(434, pid, 0), number, 0))


def peek(pid: int) -> str:
    """process_vm_readv(2) at the address where the process's own list of mappings begins."""
    where = int(slurp(f"/proc/{pid}/maps", limit=64).split(b"-")[0], 16)
    buffer = ctypes.create_string_buffer(16)
    local, remote = struct.pack("QQ", address(buffer), 16), struct.pack("QQ", where, 16)
    return f"{syscall(310, pid, local, 1, remote, 1, 0)} bytes"


def in_child(action: Callable[[], str]) -> str:
    """Run an action that may end the process in a child of its own and give back what it said."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.write(writer, verdict(lambda _: action(), Bait({})).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        said = stream.read()
    status = os.waitpid(child, 0)[1]
    if said.startswith("CROSSED "):
        return said.removeprefix("CROSSED ")
    raise Held(said or f"ended with {status}")


def verdict(attack: Callable[[Bait], str], bait: Bait) -> str:
    try:
        return f"CROSSED {attack(bait)}"
    except Held as reason:
        return f"HELD {reason}"
    except OSError as error:
        return f"HELD {errno.errorcode.get(error.errno or 0, type(error).__name__)}"
    except BaseException:  # noqa: BLE001  (whatever it is, the test must see it)
        return f"BROKEN {traceback.format_exc()}"


def attempt(attack: Callable[[Bait], str], bait: Bait, *, seconds: float = 15) -> str:
    """Run one program in a child of its own, in a process group of its own, and read its verdict."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.setpgid(0, 0)
        os.write(writer, verdict(attack, bait).encode()[:3000] + b"\n")
        os._exit(0)
    os.close(writer)
    said, deadline = b"", time.monotonic() + seconds
    while not said.endswith(b"\n"):
        if not select.select([reader], [], [], max(0, deadline - time.monotonic()))[0]:
            said = b"BROKEN still running"
            break
        chunk = os.read(reader, 4096)
        if not chunk:
            break
        said += chunk
    os.close(reader)
    for target in (child, -child):
        try:
            os.kill(target, signal.SIGKILL)
        except OSError:
            continue
    status = os.waitpid(child, 0)[1]
    if said:
        return said.decode(errors="replace").strip()
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) in {signal.SIGKILL, signal.SIGSYS}
    return f"{'HELD' if killed else 'BROKEN'} status {status}"


def run(programs: list[Program], values: dict[str, str | int]) -> None:
    """Try every program; one JSON object of verdicts goes to stdout."""
    bait = Bait(values)
    report = {program.name: attempt(program.attack, bait) for program in programs}
    sys.stdout.write(json.dumps(report) + "\n")
