"""The ordered list of steps from a fresh clone to the payload, and the init that stays behind as pid 1.

Runs in the sandbox: at first with every capability of its own user namespace and none outside, at the end with
nothing. Each step describes itself (that is what `supervisor explain` prints) and executes itself; the first
failure ends the child and is reported with its description and errno. Standard library only: what is
imported here is what the sandbox's pid 1 carries.
"""

from __future__ import annotations

import base64
import errno
import os
import resource
import signal
import socket
import time

from supervisor.errors import WireError
from supervisor.sandbox import mounts, network
from supervisor.sandbox import syscalls as sc

Document = dict[str, object]

FS_EXECUTE, FS_WRITE_FILE, FS_READ_FILE, FS_READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
FS_MAKE_CHAR, FS_MAKE_SOCK, FS_MAKE_BLOCK = 1 << 6, 1 << 9, 1 << 11
FS_TRUNCATE, FS_IOCTL_DEV = 1 << 14, 1 << 15
_FILE_RIGHTS = FS_EXECUTE | FS_WRITE_FILE | FS_READ_FILE | FS_TRUNCATE


class Context:
    """What the child inherits from the spawner, by descriptor. -1 stands for none."""

    def __init__(
        self, *, status: int, go: socket.socket, root: int, stdio: list[int], tasks: list[int], privileged: bool
    ) -> None:
        self.status = status
        self.go = go
        self.root = root
        self.stdio = stdio
        self.tasks = tasks
        self.privileged = privileged


class Step:
    """One step: `describe()` for people and errors, `execute()` in the child, OSError on failure."""

    def describe(self) -> str:
        """What this does, in one line."""
        raise NotImplementedError

    def execute(self, ctx: Context) -> None:
        """Do it."""
        raise NotImplementedError


class JoinCgroup(Step):
    def __init__(self, limits: dict[str, int]) -> None:
        self.limits = limits

    def describe(self) -> str:
        if not self.limits:
            return "no cgroup limits; clocks that begin now"
        limits = ", ".join(f"{name} {value}" for name, value in sorted(self.limits.items()))
        return f"join a cgroup of its own ({limits}) and new cgroup and time namespaces: clocks begin now"

    def execute(self, ctx: Context) -> None:
        for fd in ctx.tasks:
            os.write(fd, b"0")
        # only after joining, or /proc/self/cgroup would show the host's path
        sc.unshare(sc.CLONE_NEWCGROUP | sc.CLONE_NEWTIME)
        # how long the host is up is not its business; only whoever is executed from here on gets these clocks
        clocks = {"monotonic": time.CLOCK_MONOTONIC, "boottime": time.CLOCK_BOOTTIME}
        offsets = "".join(f"{name} -{int(time.clock_gettime(clock))} 0\n" for name, clock in clocks.items())
        mounts.write("/proc/self/timens_offsets", offsets)


class Descriptors(Step):
    def describe(self) -> str:
        return "new session; pipes as standard input, output and error; every other descriptor closed"

    def execute(self, ctx: Context) -> None:
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


class Identity(Step):
    def __init__(self, uid: int) -> None:
        self.uid = uid

    def describe(self) -> str:
        return f"user and group {self.uid} inside, an id of the session's own outside; dies with the spawner"

    def execute(self, ctx: Context) -> None:
        if ctx.go.recv(16) != b"mapped":
            os._exit(1)  # the spawner is gone, or gave up
        if ctx.privileged:
            os.setgroups([])
        os.setresgid(self.uid, self.uid, self.uid)
        # no uid 0 in the map: the namespace's capabilities survive this, and are dropped below
        os.setresuid(self.uid, self.uid, self.uid)
        # a change of uid clears it, so not earlier
        sc.prctl(sc.PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class Loopback(Step):
    def __init__(self, hostname: str) -> None:
        self.hostname = hostname

    def describe(self) -> str:
        return f'network namespace with "lo" and nothing else; host name "{self.hostname}"'

    def execute(self, ctx: Context) -> None:
        sc.sethostname(self.hostname)
        network.up()


class Egress(Step):
    def __init__(self, document: Document) -> None:
        self.addresses = [str(each) for each in items(document, "addresses")]
        self.udp, self.tcp = places(document, "udp"), places(document, "tcp")

    def describe(self) -> str:
        if not self.addresses:
            return "no way out of that namespace"
        sockets = f"{len(self.udp + self.tcp)} sockets on it for the egress broker, the only way out"
        return f'{", ".join(self.addresses)} on "lo"; {sockets}'

    def execute(self, ctx: Context) -> None:
        if self.addresses:
            network.add(self.addresses)
            network.donate(network.sockets(self.udp, self.tcp), ctx.go)


class Root(Step):
    def __init__(self, trees: list[mounts.MountSpec], files: dict[str, str]) -> None:
        self.trees, self.files = trees, files

    def describe(self) -> str:
        shown = ", ".join(tree.target for tree in self.trees)
        made = ", ".join(sorted(self.files))
        return f"read-only root: {shown}; {len(mounts.DEVICES)} devices in /dev; made up: {made}"

    def execute(self, ctx: Context) -> None:
        sc.move_mount(ctx.root, b"", sc.AT_FDCWD, b"/", sc.MOVE_MOUNT_F_EMPTY_PATH)


class Mounts(Step):
    def __init__(self, specs: list[mounts.MountSpec]) -> None:
        self.specs = specs

    def describe(self) -> str:
        shown = (f"{s.source} at {s.target} {s.mode}{',noexec' if s.noexec else ''}" for s in self.specs)
        return "mount " + ("; ".join(shown) or "nothing of the host's besides")

    def execute(self, ctx: Context) -> None:
        if not self.specs:
            return
        # what is made anew for each session comes when there is one
        data, trees, flags, _ = socket.recv_fds(ctx.go, 16, 64)
        if data != b"mounts" or flags & socket.MSG_CTRUNC:
            os._exit(1)
        for spec, tree in zip(self.specs, trees, strict=True):
            if spec.target.startswith("/tmp/"):
                mounts.make_mount_point(ctx.root, spec.target, is_file=spec.is_file)
            try:
                mounts.attach(tree, ctx.root, spec.target)
            except OSError as error:
                raise OSError(error.errno, f"{spec.target}: {os.strerror(error.errno or 0)}") from None


class Proc(Step):
    def describe(self) -> str:
        return "/proc of its own: only its own processes, nothing of the kernel's settings"

    def execute(self, ctx: Context) -> None:
        bits = sc.MOUNT_ATTR_NOSUID | sc.MOUNT_ATTR_NODEV | sc.MOUNT_ATTR_NOEXEC
        tree = mounts.filesystem("proc", {"hidepid": "invisible", "subset": "pid"}, bits)
        mounts.attach(tree, ctx.root, "/proc")


class PrivateTmp(Step):
    def __init__(self, size: int, inodes: int, *, noexec: bool) -> None:
        self.size, self.inodes, self.noexec = size, inodes, noexec

    def describe(self) -> str:
        flag = ", nothing in it can be executed" if self.noexec else ""
        return f"private /tmp in memory: {self.size >> 20} MiB, {self.inodes} files{flag}"

    def execute(self, ctx: Context) -> None:
        bits = sc.MOUNT_ATTR_NOSUID | sc.MOUNT_ATTR_NODEV | (sc.MOUNT_ATTR_NOEXEC if self.noexec else 0)
        options = {"size": str(self.size), "nr_inodes": str(self.inodes), "mode": "1777"}
        mounts.attach(mounts.filesystem("tmpfs", options, bits), ctx.root, "/tmp")


class PivotRoot(Step):
    def describe(self) -> str:
        return "pivot into the new root; the host's tree is detached"

    def execute(self, ctx: Context) -> None:
        os.fchdir(ctx.root)
        sc.pivot_root(b".", b".")
        sc.umount2(b".", sc.MNT_DETACH)
        os.close(ctx.root)
        os.chdir("/")


class Rlimits(Step):
    def __init__(self, limits: dict[str, int]) -> None:
        self.limits = limits
        self.numbers = [(int(getattr(resource, f"RLIMIT_{name}")), value) for name, value in limits.items()]

    def describe(self) -> str:
        return "limits: " + ", ".join(f"{name} {value}" for name, value in sorted(self.limits.items()))

    def execute(self, ctx: Context) -> None:
        for number, value in self.numbers:
            hard = resource.getrlimit(number)[1]
            bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(number, (bound, bound))


class Capabilities(Step):
    def __init__(self, last: int) -> None:
        self.last = last

    def describe(self) -> str:
        return "no capabilities: bounding, ambient, permitted, effective and inheritable empty; securebits locked"

    def execute(self, ctx: Context) -> None:
        sc.drop_capabilities(self.last)


class NoNewPrivileges(Step):
    def describe(self) -> str:
        return "no_new_privs"

    def execute(self, ctx: Context) -> None:
        sc.prctl(sc.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


class Landlock(Step):
    """`rules` is [(path, "ro" | "rw" | "dev", noexec, is_file)]."""

    def __init__(self, abi: int, rules: list[tuple[str, str, bool, bool]]) -> None:
        self.abi, self.rules = abi, rules
        self.known = sc.landlock_rights(abi)
        found = [(path, self.rights(mode, noexec=x, is_file=file)) for path, mode, x, file in rules]
        self.allowed = [("/", FS_READ_DIR), *found]  # the root itself may be listed

    def describe(self) -> str:
        if not self.abi:
            return "no Landlock"
        writable = ", ".join(path for path, mode, _, _ in self.rules if mode == "rw")
        return f"Landlock (ABI {self.abi}): write only {writable}; read only what is mounted"

    def rights(self, mode: str, *, noexec: bool, is_file: bool) -> int:
        """The access rights of one rule, as far as this ABI knows them."""
        if mode == "rw":
            bits = self.known & ~(FS_MAKE_CHAR | FS_MAKE_BLOCK | FS_IOCTL_DEV)
        elif mode == "dev":
            bits = FS_READ_FILE | FS_WRITE_FILE | FS_TRUNCATE
        else:
            bits = FS_READ_FILE | FS_READ_DIR | FS_EXECUTE
        if noexec:
            bits &= ~FS_EXECUTE
        return bits & self.known & (_FILE_RIGHTS if is_file else -1)

    def execute(self, ctx: Context) -> None:
        sc.landlock_only(self.abi, self.allowed)


class SeccompFilter(Step):
    def __init__(self, program: bytes) -> None:
        self.program = program

    def describe(self) -> str:
        if not self.program:
            return "no system call filter"
        return f"system call filter of {len(self.program) // 8} instructions, loaded last"

    def execute(self, ctx: Context) -> None:
        if self.program:
            sc.load_seccomp(self.program)


class Proof(Step):
    """What cannot be read from outside: tried from inside, by code that is still ours."""

    def __init__(self, hostname: str, *, landlock: bool) -> None:
        self.hostname, self.landlock = hostname, landlock

    def describe(self) -> str:
        return "prove the host name and Landlock from inside; wait until the rest has been read back from outside"

    def execute(self, ctx: Context) -> None:
        if os.uname().nodename != self.hostname:
            raise OSError(errno.EPROTO, "the host name is not the one that was set")
        if self.landlock:
            try:
                # everybody may read it, and no Landlock rule covers it
                os.close(os.open(mounts.CANARY, os.O_RDONLY))
            except PermissionError:
                return
            raise OSError(errno.EPROTO, "Landlock does not hold")


def specs(document: Document, key: str) -> list[mounts.MountSpec]:
    """The mounts under `key` of a document, in the order in which they can be attached."""
    found = [mounts.MountSpec(_table(each, key)) for each in items(document, key)]
    return sorted(found, key=lambda spec: spec.target)


def items(document: Document, key: str) -> list[object]:
    """The list under `key`."""
    value = document[key]
    if not isinstance(value, list):
        raise WireError(f"document: {key} is not a list")
    return value


def _table(value: object, key: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise WireError(f"document: {key} is not a table")
    return value


def numbers(document: Document, key: str) -> dict[str, int]:
    """The table of numbers under `key`."""
    return {name: int(str(value)) for name, value in _table(document[key], key).items()}


def texts(document: Document, key: str) -> dict[str, str]:
    """The table of strings under `key`."""
    return {name: str(value) for name, value in _table(document[key], key).items()}


def places(document: Document, key: str) -> list[tuple[str, int]]:
    """The [address, port] pairs under `key`."""
    pairs = [each for each in items(document, key) if isinstance(each, list)]
    return [(str(address), int(str(port))) for address, port in pairs]


def _landlock_rules(document: Document) -> list[tuple[str, str, bool, bool]]:
    seen = specs(document, "trees") + specs(document, "mounts")
    rules = [(spec.target, spec.mode, spec.noexec, spec.is_file) for spec in seen]
    devices = [(f"/dev/{name}", "dev", True, True) for name in mounts.DEVICES]
    noexec = bool(numbers(document, "tmp")["noexec"])
    private = [("/tmp", "rw", noexec, False), ("/proc", "ro", True, False), ("/etc", "ro", True, False)]
    return rules + devices + private


def plan(document: Document) -> list[Step]:
    """The steps, in the order in which they are executed."""
    tmp = numbers(document, "tmp")
    abi = int(str(document["landlock"]))
    return [
        JoinCgroup(numbers(document, "cgroup")),
        Descriptors(),
        Identity(int(str(document["uid"]))),
        Loopback(str(document["hostname"])),
        Egress(document),
        Root(specs(document, "trees"), texts(document, "files")),
        Proc(),
        PrivateTmp(tmp["size"], tmp["inodes"], noexec=bool(tmp["noexec"])),
        # after /tmp: targets below it lie in the private one
        Mounts(specs(document, "mounts")),
        PivotRoot(),
        Rlimits(numbers(document, "rlimits")),
        Capabilities(sc.last_capability()),
        NoNewPrivileges(),
        Landlock(abi, _landlock_rules(document)),
        SeccompFilter(base64.b64decode(str(document["seccomp"]))),
        Proof(str(document["hostname"]), landlock=abi > 0),
    ]
