"""The ordered list of steps from a fresh clone to the payload, and the init that stays behind as pid 1.

Runs in the sandbox: at first with every capability of its own user namespace and none outside, at the end with
nothing. The first step that fails ends the child and is reported with what it does and its errno; what each does in
detail is told by supervisor.profile.explain. Standard library only: what is imported here is what the sandbox's
pid 1 carries.
"""

from __future__ import annotations

import base64
import os
import signal
import socket
import time
from collections.abc import Callable

from supervisor.errors import WireError
from supervisor.sandbox import inside, mounts, rights
from supervisor.sandbox import syscalls as sc

Document = dict[str, object]

_EGRESS = "make its addresses and the sockets for the egress broker"


class Context:
    """What the child inherits from the spawner, by descriptor; `env`: variables that are the session's alone."""

    def __init__(self, status: int, go: socket.socket, root: int, stdio: list[int], tasks: list[int]) -> None:
        self.status, self.go, self.root = status, go, root
        self.stdio, self.tasks = stdio, tasks
        self.env: dict[str, str] = {}


class Step:
    """One step: its name, `what` it does, for errors, and `execute` in the child, OSError on failure."""

    def __init__(self, name: str, what: str, execute: Callable[[Context], object]) -> None:
        self.name, self.what, self.execute = name, what, execute


def join_cgroup(ctx: Context) -> None:
    """And unshare the namespaces that depend on it."""
    for fd in ctx.tasks:
        os.write(fd, b"0")
    # only after joining, or /proc/self/cgroup would show the host's path
    sc.unshare(sc.CLONE_NEWCGROUP | sc.CLONE_NEWTIME)
    # how long the host is up is not its business; only whoever is executed from here on gets these clocks
    text = "".join(f"{at} -{int(time.clock_gettime(at))} 0\n" for at in (time.CLOCK_MONOTONIC, time.CLOCK_BOOTTIME))
    mounts.write("/proc/self/timens_offsets", text)
    # what the kernel counts for nobody (locks of files) can use up the host's memory: then this ends, nobody else
    mounts.write("/proc/self/oom_score_adj", "1000")


def descriptors(ctx: Context) -> None:
    """Its own session, and nothing open but what it needs."""
    os.setsid()
    os.umask(0o022)
    for number, fd in enumerate(ctx.stdio):
        os.dup2(fd, number, inheritable=True)
    first = 3
    for kept in sorted((ctx.status, ctx.go.fileno(), ctx.root)):
        if kept > first:
            sc.close_range(first, kept - 1, 0)
        first = kept + 1
    sc.close_range(first, 0x7FFFFFFF, 0)


def identity(ctx: Context, uid: int, *, privileged: bool) -> None:
    """Wait for the map, become the user in it."""
    if ctx.go.recv(16) != b"mapped":
        os._exit(1)  # the spawner is gone, or gave up
    if privileged:
        os.setgroups([])
    os.setresgid(uid, uid, uid)
    # no uid 0 in the map: the namespace's capabilities survive this, and are dropped below
    os.setresuid(uid, uid, uid)
    # a change of uid clears it, so not earlier
    sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def specs(document: Document, key: str) -> list[mounts.MountSpec]:
    """The mounts under `key` of a document, in the order in which they can be attached."""
    return sorted(map(mounts.MountSpec, items(document, key)), key=lambda spec: spec.target)


def items(document: Document, key: str) -> list[object]:
    """The list under `key`."""
    value = document[key]
    if not isinstance(value, list):
        raise WireError(f"document: {key} is not a list")
    return value


def texts(document: Document, key: str) -> dict[str, str]:
    """The table of strings under `key`."""
    value = document[key]
    if not isinstance(value, dict):
        raise WireError(f"document: {key} is not a table")
    return {name: str(each) for name, each in value.items()}


def numbers(document: Document, key: str) -> dict[str, int]:
    """The table of numbers under `key`."""
    return {name: int(value) for name, value in texts(document, key).items()}


def _allowed(document: Document, trees: list[mounts.MountSpec]) -> list[rights.Rule]:
    """Landlock's rules."""
    seen = trees + specs(document, "mounts")
    rules = [(spec.target, spec.mode, spec.noexec, spec.is_file) for spec in seen]
    rules += [(f"/dev/{name}", "dev", True, True) for name in mounts.DEVICES]
    noexec = bool(numbers(document, "tmp")["noexec"])
    rules += [("/tmp", "rw", noexec, False), ("/proc", "ro", True, False), ("/etc", "ro", True, False)]
    # the root itself may be listed
    return [("/", "list", True, False), *rules]


def plan(document: Document, trees: list[mounts.MountSpec]) -> list[Step]:
    """The steps, in the order in which they are executed. `trees` are what its root shows from the beginning.

    Whatever they need is made here, in the spawner: what the child does first, it pays for with copied pages.
    """
    # only root can, and none else has any but its own
    privileged = os.geteuid() == 0
    uid, hostname, abi = int(str(document["uid"])), str(document["hostname"]), int(str(document["landlock"]))
    tmp, own = numbers(document, "tmp"), specs(document, "mounts")
    allowed, program = _allowed(document, trees), base64.b64decode(str(document["seccomp"]))
    last = sc.last_capability()
    return [
        Step("cgroup", "join its cgroup, and cgroup and time namespaces of its own", join_cgroup),
        Step("descriptors", "make its session, close every descriptor but its own", descriptors),
        Step("identity", "become its user", lambda ctx: identity(ctx, uid, privileged=privileged)),
        Step("loopback", 'set its host name and "lo" up', lambda _: inside.loopback(hostname)),
        Step("egress", _EGRESS, lambda ctx: inside.egress(ctx, document)),
        Step("root", "attach its root", inside.attach_root),
        Step("proc", "mount its /proc", inside.proc),
        Step("tmp", "mount its private /tmp ([tmp] size, files)", lambda ctx: inside.private_tmp(ctx, tmp)),
        # after /tmp: targets below it lie in the private one
        Step("mounts", "attach its mounts", lambda ctx: inside.attach_mounts(ctx, own)),
        Step("pivot_root", "pivot into its root", inside.pivot_root),
        Step("rlimits", "set its resource limits", lambda _: inside.rlimits(numbers(document, "rlimits"))),
        Step("capabilities", "drop all capabilities", lambda _: rights.drop_capabilities(last)),
        Step("no_new_privs", "set no_new_privs", lambda _: sc.prctl(sc.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)),
        Step("landlock", "apply its Landlock rules", lambda _: rights.landlock_rules(abi, allowed)),
        Step("seccomp", "load its system call filter", lambda _: rights.load_seccomp(program)),
        Step("proof", "prove the host name and Landlock from inside", lambda _: inside.proof(hostname, abi)),
    ]
