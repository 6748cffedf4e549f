"""The ordered list of steps from a fresh clone to the payload, and the init that stays behind as pid 1.

Runs in the sandbox: at first with every capability of its own user namespace and none outside, at the end with
nothing. The first step that fails ends the child and is reported with its name and errno; what each does in
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
    """One step: `what` it does, for errors, and `execute()` in the child, OSError on failure."""

    what: str

    def execute(self, ctx: Context) -> None:
        """Do it."""
        raise NotImplementedError


class JoinCgroup(Step):
    what = "join its cgroup, and cgroup and time namespaces of its own"

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
    what = "make its session, close every descriptor but its own"

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
    what = "become its user"

    def __init__(self, uid: int) -> None:
        self.uid = uid

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
    what = 'set its host name and "lo" up'

    def __init__(self, hostname: str) -> None:
        self.hostname = hostname

    def execute(self, ctx: Context) -> None:
        sc.sethostname(self.hostname)
        network.up()


class Egress(Step):
    what = "make its addresses and the sockets for the egress broker"

    def __init__(self, document: Document) -> None:
        self.addresses = [str(each) for each in items(document, "addresses")]
        self.udp, self.tcp = places(document, "udp"), places(document, "tcp")

    def execute(self, ctx: Context) -> None:
        if self.addresses:
            network.add(self.addresses)
            network.donate(network.sockets(self.udp, self.tcp), ctx.go)


class Root(Step):
    what = "attach its root"

    def execute(self, ctx: Context) -> None:
        sc.move_mount(ctx.root, b"", sc.AT_FDCWD, b"/", sc.MOVE_MOUNT_F_EMPTY_PATH)


class Mounts(Step):
    what = "attach its mounts"

    def __init__(self, specs: list[mounts.MountSpec]) -> None:
        self.specs = specs

    def execute(self, ctx: Context) -> None:
        if not self.specs:
            return
        # what is made anew for each session comes when there is one
        data, trees, flags, _ = socket.recv_fds(ctx.go, 16, 64)
        if data != b"mounts" or flags & socket.MSG_CTRUNC:
            os._exit(1)
        for spec, tree in zip(self.specs, trees, strict=True):
            try:
                if spec.target.startswith("/tmp/"):
                    mounts.make_mount_point(ctx.root, spec.target, is_file=spec.is_file)
                mounts.attach(tree, ctx.root, spec.target)
            except OSError as error:
                raise OSError(error.errno, f"{spec.target}: {os.strerror(error.errno or 0)}") from None


class Proc(Step):
    what = "mount its /proc"

    def execute(self, ctx: Context) -> None:
        bits = sc.MOUNT_ATTR_NOSUID | sc.MOUNT_ATTR_NODEV | sc.MOUNT_ATTR_NOEXEC
        tree = mounts.filesystem("proc", {"hidepid": "invisible", "subset": "pid"}, bits)
        mounts.attach(tree, ctx.root, "/proc")


class PrivateTmp(Step):
    what = "mount its private /tmp ([tmp] size, files)"

    def __init__(self, size: int, inodes: int, *, noexec: bool) -> None:
        self.size, self.inodes, self.noexec = size, inodes, noexec

    def execute(self, ctx: Context) -> None:
        bits = sc.MOUNT_ATTR_NOSUID | sc.MOUNT_ATTR_NODEV | (sc.MOUNT_ATTR_NOEXEC if self.noexec else 0)
        options = {"size": str(self.size), "nr_inodes": str(self.inodes), "mode": "1777"}
        mounts.attach(mounts.filesystem("tmpfs", options, bits), ctx.root, "/tmp")


class PivotRoot(Step):
    what = "pivot into its root"

    def execute(self, ctx: Context) -> None:
        os.fchdir(ctx.root)
        sc.pivot_root(b".", b".")
        sc.umount2(b".", sc.MNT_DETACH)
        os.close(ctx.root)
        os.chdir("/")


class Rlimits(Step):
    what = "set its resource limits"

    def __init__(self, limits: dict[str, int]) -> None:
        self.numbers = [(int(getattr(resource, f"RLIMIT_{name}")), value) for name, value in limits.items()]

    def execute(self, ctx: Context) -> None:
        for number, value in self.numbers:
            hard = resource.getrlimit(number)[1]
            bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(number, (bound, bound))


class Capabilities(Step):
    what = "drop all capabilities"

    def __init__(self, last: int) -> None:
        self.last = last

    def execute(self, ctx: Context) -> None:
        sc.drop_capabilities(self.last)


class NoNewPrivileges(Step):
    what = "set no_new_privs"

    def execute(self, ctx: Context) -> None:
        sc.prctl(sc.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


class Landlock(Step):
    """`rules` is [(path, "ro" | "rw" | "dev", noexec, is_file)]."""

    what = "apply its Landlock rules"

    def __init__(self, abi: int, rules: list[tuple[str, str, bool, bool]]) -> None:
        self.abi = abi
        self.known = sc.landlock_rights(abi)
        found = [(path, self.rights(mode, noexec=x, is_file=file)) for path, mode, x, file in rules]
        self.allowed = [("/", FS_READ_DIR), *found]  # the root itself may be listed

    def rights(self, mode: str, *, noexec: bool, is_file: bool) -> int:
        """The access rights of one rule, as far as this ABI knows them."""
        bits = {
            "rw": self.known & ~(FS_MAKE_CHAR | FS_MAKE_BLOCK | FS_IOCTL_DEV),
            "dev": FS_READ_FILE | FS_WRITE_FILE | FS_TRUNCATE,
            "ro": FS_READ_FILE | FS_READ_DIR | FS_EXECUTE,
        }[mode] & self.known
        return bits & (~FS_EXECUTE if noexec else -1) & (_FILE_RIGHTS if is_file else -1)

    def execute(self, ctx: Context) -> None:
        sc.landlock_only(self.abi, self.allowed)


class SeccompFilter(Step):
    what = "load its system call filter"

    def __init__(self, program: bytes) -> None:
        self.program = program

    def execute(self, ctx: Context) -> None:
        if self.program:
            sc.load_seccomp(self.program)


class Proof(Step):
    """What cannot be read from outside: tried from inside, by code that is still ours."""

    what = "prove the host name and Landlock from inside"

    def __init__(self, hostname: str, *, landlock: bool) -> None:
        self.hostname, self.landlock = hostname, landlock

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
    return sorted(
        (mounts.MountSpec(_table(each, key)) for each in items(document, key)), key=lambda spec: spec.target
    )


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
        JoinCgroup(),
        Descriptors(),
        Identity(int(str(document["uid"]))),
        Loopback(str(document["hostname"])),
        Egress(document),
        Root(),
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
