"""The ordered list of steps from a fresh clone to the payload, and the init that stays behind as pid 1.

Runs in the sandbox: at first with every capability of its own user namespace and none outside, at the end with
nothing. The first step that fails ends the child and is reported with what it does and its errno; what each does in
detail is told by supervisor.profile.explain. Standard library only: what is imported here is what the sandbox's
pid 1 carries.
"""

from __future__ import annotations

import base64
import errno
import os
import resource
import signal
import socket
import time
from collections.abc import Callable

from supervisor.errors import WireError
from supervisor.sandbox import mounts, network
from supervisor.sandbox import syscalls as sc

Document = dict[str, object]
# (path, "ro" | "rw" | "dev", noexec, is_file)
Rule = tuple[str, str, bool, bool]

FS_EXECUTE, FS_WRITE_FILE, FS_READ_FILE, FS_READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
FS_MAKE_CHAR, FS_MAKE_SOCK, FS_MAKE_BLOCK = 1 << 6, 1 << 9, 1 << 11
FS_TRUNCATE, FS_IOCTL_DEV = 1 << 14, 1 << 15
_EGRESS = "make its addresses and the sockets for the egress broker"
_FILE_RIGHTS = FS_EXECUTE | FS_WRITE_FILE | FS_READ_FILE | FS_TRUNCATE


class Context:
    """What the child inherits from the spawner, by descriptor. -1 stands for none."""

    def __init__(
        self, *, status: int, go: socket.socket, root: int, stdio: list[int], tasks: list[int], privileged: bool
    ) -> None:
        self.status, self.go, self.root = status, go, root
        self.stdio, self.tasks, self.privileged = stdio, tasks, privileged


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
    clocks = {"monotonic": time.CLOCK_MONOTONIC, "boottime": time.CLOCK_BOOTTIME}
    offsets = "".join(f"{name} -{int(time.clock_gettime(clock))} 0\n" for name, clock in clocks.items())
    mounts.write("/proc/self/timens_offsets", offsets)


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


def identity(ctx: Context, uid: int) -> None:
    """Wait for the map, become the user in it."""
    if ctx.go.recv(16) != b"mapped":
        os._exit(1)  # the spawner is gone, or gave up
    if ctx.privileged:
        os.setgroups([])
    os.setresgid(uid, uid, uid)
    # no uid 0 in the map: the namespace's capabilities survive this, and are dropped below
    os.setresuid(uid, uid, uid)
    # a change of uid clears it, so not earlier
    sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def egress(ctx: Context, addresses: list[str], udp: list[network.Place], tcp: list[network.Place]) -> None:
    """The addresses that stand for names, and the sockets behind them."""
    if addresses:
        network.add(addresses)
        network.donate(network.sockets(udp, tcp), ctx.go)


def attach_mounts(ctx: Context, specs: list[mounts.MountSpec]) -> None:
    """What is made anew for each session comes when there is one."""
    if not specs:
        return
    data, trees, flags, _ = socket.recv_fds(ctx.go, 16, 64)
    if data != b"mounts" or flags & socket.MSG_CTRUNC:
        os._exit(1)
    for spec, tree in zip(specs, trees, strict=True):
        try:
            if spec.target.startswith("/tmp/"):
                mounts.make_mount_point(ctx.root, spec.target, is_file=spec.is_file)
            mounts.attach(tree, ctx.root, spec.target)
        except OSError as error:
            raise OSError(error.errno, f"{spec.target}: {os.strerror(error.errno or 0)}") from None


def loopback(hostname: str) -> None:
    """What its namespaces begin with."""
    socket.sethostname(hostname)
    network.up()


def attach_root(ctx: Context) -> None:
    """Over the host's: absolute paths keep resolving in the old one until the pivot."""
    sc.move_mount(ctx.root, b"", sc.AT_FDCWD, b"/", sc.MOVE_MOUNT_F_EMPTY_PATH)


def proc(ctx: Context) -> None:
    """A /proc of its own processes alone."""
    bits = sc.MOUNT_ATTR_NOSUID | sc.MOUNT_ATTR_NODEV | sc.MOUNT_ATTR_NOEXEC
    mounts.attach(mounts.filesystem("proc", {"hidepid": "invisible", "subset": "pid"}, bits), ctx.root, "/proc")


def private_tmp(ctx: Context, tmp: dict[str, int]) -> None:
    """A /tmp in memory."""
    bits = sc.MOUNT_ATTR_NOSUID | sc.MOUNT_ATTR_NODEV | (sc.MOUNT_ATTR_NOEXEC if tmp["noexec"] else 0)
    options = {"size": str(tmp["size"]), "nr_inodes": str(tmp["inodes"]), "mode": "1777"}
    mounts.attach(mounts.filesystem("tmpfs", options, bits), ctx.root, "/tmp")


def pivot_root(ctx: Context) -> None:
    """The host's tree is gone from here on."""
    os.fchdir(ctx.root)
    sc.pivot_root(b".", b".")
    sc.umount2(b".", sc.MNT_DETACH)
    os.close(ctx.root)
    os.chdir("/")


def rlimits(limits: list[tuple[int, int]]) -> None:
    """Soft and hard, never above what is allowed already."""
    for number, value in limits:
        hard = resource.getrlimit(number)[1]
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(number, (bound, bound))


def proof(hostname: str, abi: int) -> None:
    """What cannot be read from outside: tried from inside, by code that is still ours."""
    if os.uname().nodename != hostname:
        raise OSError(errno.EPROTO, "the host name is not the one that was set")
    if abi:
        try:
            # everybody may read it, and no Landlock rule covers it
            os.close(os.open(mounts.CANARY, os.O_RDONLY))
        except PermissionError:
            return
        raise OSError(errno.EPROTO, "Landlock does not hold")


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


def places(document: Document, key: str) -> list[network.Place]:
    """The [address, port] pairs under `key`."""
    pairs = [each for each in items(document, key) if isinstance(each, list)]
    return [(str(address), int(str(port))) for address, port in pairs]


def landlock_rights(abi: int, rule: Rule) -> int:
    """The access rights of one rule, as far as this ABI knows them."""
    _, mode, noexec, is_file = rule
    known = sc.landlock_rights(abi)
    bits = {
        "rw": known & ~(FS_MAKE_CHAR | FS_MAKE_BLOCK | FS_IOCTL_DEV),
        "dev": FS_READ_FILE | FS_WRITE_FILE | FS_TRUNCATE,
        "ro": FS_READ_FILE | FS_READ_DIR | FS_EXECUTE,
    }[mode] & known
    return bits & (~FS_EXECUTE if noexec else -1) & (_FILE_RIGHTS if is_file else -1)


def _allowed(document: Document, trees: list[mounts.MountSpec], abi: int) -> list[tuple[str, int]]:
    """Landlock's rules: (path, access rights)."""
    seen = trees + specs(document, "mounts")
    rules: list[Rule] = [(spec.target, spec.mode, spec.noexec, spec.is_file) for spec in seen]
    rules += [(f"/dev/{name}", "dev", True, True) for name in mounts.DEVICES]
    noexec = bool(numbers(document, "tmp")["noexec"])
    rules += [("/tmp", "rw", noexec, False), ("/proc", "ro", True, False), ("/etc", "ro", True, False)]
    # the root itself may be listed
    return [("/", FS_READ_DIR), *((rule[0], landlock_rights(abi, rule)) for rule in rules)]


def plan(document: Document, trees: list[mounts.MountSpec]) -> list[Step]:
    """The steps, in the order in which they are executed. `trees` are what its root shows from the beginning.

    Whatever they need is made here, in the spawner: what the child does first, it pays for with copied pages.
    """
    uid, hostname, abi = int(str(document["uid"])), str(document["hostname"]), int(str(document["landlock"]))
    addresses = [str(each) for each in items(document, "addresses")]
    udp, tcp = places(document, "udp"), places(document, "tcp")
    tmp, own = numbers(document, "tmp"), specs(document, "mounts")
    limits = [
        (int(getattr(resource, f"RLIMIT_{key}")), value) for key, value in numbers(document, "rlimits").items()
    ]
    last, allowed, program = (
        sc.last_capability(),
        _allowed(document, trees, abi),
        base64.b64decode(str(document["seccomp"])),
    )
    return [
        Step("cgroup", "join its cgroup, and cgroup and time namespaces of its own", join_cgroup),
        Step("descriptors", "make its session, close every descriptor but its own", descriptors),
        Step("identity", "become its user", lambda ctx: identity(ctx, uid)),
        Step("loopback", 'set its host name and "lo" up', lambda _: loopback(hostname)),
        Step("egress", _EGRESS, lambda ctx: egress(ctx, addresses, udp, tcp)),
        Step("root", "attach its root", attach_root),
        Step("proc", "mount its /proc", proc),
        Step("tmp", "mount its private /tmp ([tmp] size, files)", lambda ctx: private_tmp(ctx, tmp)),
        # after /tmp: targets below it lie in the private one
        Step("mounts", "attach its mounts", lambda ctx: attach_mounts(ctx, own)),
        Step("pivot_root", "pivot into its root", pivot_root),
        Step("rlimits", "set its resource limits", lambda _: rlimits(limits)),
        Step("capabilities", "drop all capabilities", lambda _: sc.drop_capabilities(last)),
        Step("no_new_privs", "set no_new_privs", lambda _: sc.prctl(sc.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)),
        Step("landlock", "apply its Landlock rules", lambda _: sc.landlock_only(abi, allowed)),
        Step("seccomp", "load its system call filter", lambda _: sc.load_seccomp(program)),
        Step("proof", "prove the host name and Landlock from inside", lambda _: proof(hostname, abi)),
    ]
