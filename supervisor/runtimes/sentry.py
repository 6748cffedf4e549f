"""What gVisor's own processes are, by what the kernel says of each: the sentry, the gofer.

Runs as root, in the gvisor runtime's spawner, when the guest's first process is the gate and waits: not one
instruction of the stranger's runs before this. The sentry meets every system call of the stranger's, and has no
file; the gofer opens files for it, in a root that is the guest's. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

from supervisor.sandbox.syscalls import FIRST_UID

_CHOWN, _DAC_OVERRIDE, _DAC_READ_SEARCH, _FOWNER, _FSETID = 0, 1, 2, 3, 4
_SYS_CHROOT, _SYS_PTRACE, _SYS_ADMIN = 18, 19, 21


@dataclass(frozen=True)
class Kind:
    """A process of gVisor's: capabilities that it may have in its user namespace, namespaces of its own."""

    name: str
    capabilities: tuple[int, ...]
    apart: tuple[str, ...]


def kinds(*, reaches: bool) -> tuple[Kind, Kind]:
    """With a broker to reach, the sentry is in the session's own network namespace, which has `lo` alone."""
    files = (_CHOWN, _DAC_OVERRIDE, _DAC_READ_SEARCH, _FOWNER, _FSETID, _SYS_CHROOT)
    if reaches:
        sentry = Kind("runsc-sandbox", (_SYS_PTRACE,), ("mnt", "ipc", "uts"))
    else:
        sentry = Kind("runsc-sandbox", (_SYS_CHROOT, _SYS_ADMIN), ("user", "mnt", "ipc", "uts", "net"))
    return sentry, Kind("runsc-gofer", files, ("mnt", "ipc", "uts", "net", "pid"))


def differences(pid: int, *, reaches: bool) -> list[str]:
    """What the sentry and the gofer below this init are not; empty when both are there, and as they should be."""
    found = {_name(each): each for each in _below(pid)}
    wrong = []
    for kind in kinds(reaches=reaches):
        if kind.name not in found:
            wrong.append(f"{kind.name} is not there")
            continue
        try:
            wrong += [f"{kind.name}: {each}" for each in _wrong(kind, found[kind.name], pid)]
        except (OSError, KeyError, ValueError, IndexError) as error:
            wrong.append(f"{kind.name}: its state could not be read: {error!r}")
    return wrong


def _wrong(kind: Kind, pid: int, init: int) -> Iterator[str]:
    status = dict(line.partition(":\t")[::2] for line in _text(pid, "status").splitlines())
    if status["Seccomp"] != "2":
        yield f"Seccomp is {status['Seccomp']}"
    if status["NoNewPrivs"] != "1":
        yield "NoNewPrivs is not set"
    if beyond := int(status["CapEff"], 16) & ~sum(1 << each for each in kind.capabilities):
        yield f"it has the capabilities {beyond:x} as well"
    for name in ("Uid", "Gid"):
        if min(map(int, status[name].split())) < FIRST_UID:
            yield f"{name} is {status[name]}"
    for name in (*kind.apart, "user", "pid", "net", "mnt", "cgroup"):
        own = _namespace(pid, name)
        if own == _namespace(os.getpid(), name) or (name in kind.apart and own == _namespace(init, name)):
            yield f"the {name} namespace is not its own"
    if _text(pid, "cgroup") != _text(init, "cgroup"):
        yield "it is not in the session's cgroup"
    yield from _mounts(kind, pid)


def _mounts(kind: Kind, pid: int) -> Iterator[str]:
    """The sentry has an empty root, and perhaps a /proc; the gofer the guest's, in which /tmp alone is written."""
    for line in _text(pid, "mountinfo").splitlines():
        fields = line.split(" ")
        point, flags, system = fields[4], fields[5].split(","), fields[fields.index("-") + 1]
        if kind.name == "runsc-gofer":
            good = "ro" in flags or point.startswith("/dev/") or (point == "/tmp" and system == "tmpfs")
        else:
            # /proc: of the session's own processes; its filter lets it open nothing
            good = ("ro" in flags and point == "/") or (point, system) == ("/proc", "proc")
        if not good:
            yield f"mount {point} is {fields[5]}, {system}"


def _text(pid: int, name: str) -> str:
    with open(f"/proc/{pid}/{name}", encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def _namespace(pid: int, name: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{name}")


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return _text(pid, "cmdline").partition("\0")[0]
    return ""


def _below(pid: int) -> list[int]:
    """Every process that descends from it by its main threads, which is how runsc starts them."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                for each in map(int, file.read().split()):
                    found += [each, *_below(each)]
    return found
