"""Steps that are taken inside: from "become its user" on, with the capabilities of its own namespaces and no other.

Runs as the session's own uid, never as root: an error here could harm the session, whose sandbox is read back from
outside before its payload starts, and nothing else. Standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import resource
import signal
import socket

from supervisor import wire
from supervisor.sandbox import mounts, network, rights
from supervisor.sandbox import syscalls as sc

_pivot_root = sc.Call("pivot_root", ctypes.c_char_p, ctypes.c_char_p)

TYPE_CHECKING = False  # an import of typing takes as long as three of this process's other modules
if TYPE_CHECKING:
    from supervisor.sandbox.enter import Context
    from supervisor.sandbox.session import Loaded


def egress(ctx: Context, document: dict[str, object]) -> None:
    """The addresses that stand for names, and the sockets behind them."""
    reach = network.Reach(document)
    if reach.addresses:
        network.add(reach.addresses)
        network.donate(network.sockets(reach.udp, reach.tcp), ctx.go)


def attach_mounts(ctx: Context, specs: list[mounts.MountSpec]) -> None:
    """What is made anew for each session comes when there is one."""
    if not specs:
        return
    data, trees, flags = wire.take(ctx.go, 16, 65)
    if data != b"mounts" or flags & socket.MSG_CTRUNC:
        os._exit(1)
    for spec, tree in zip(specs, trees, strict=True):
        try:
            if spec.target.startswith("/tmp/"):
                mounts.make_mount_point(ctx.root, spec.target, is_file=spec.is_file)
            made = secrets(tree, ctx.env) if spec.target == mounts.SECRETS else tree
            mounts.attach(made, ctx.root, spec.target)
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
    _pivot_root(b".", b".")
    sc.umount2(b".", sc.MNT_DETACH)
    os.close(ctx.root)
    os.chdir("/")


def rlimits(limits: dict[str, int]) -> None:
    """Soft and hard, never above what is allowed already."""
    for name, value in limits.items():
        number = int(getattr(resource, f"RLIMIT_{name}"))
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


def bundle(given: int) -> dict[str, dict[str, str]]:
    """What the process that reads secrets has written: "env" and "file", values by name. `given` is closed."""
    # not from where somebody else has read to
    found: dict[str, dict[str, str]] = json.loads(os.pread(given, os.fstat(given).st_size, 0))
    os.close(given)
    return found


def secrets(given: int, env: dict[str, str], owner: int = -1) -> int:
    """A read-only tmpfs with the files of a bundle, which is closed; its variables are added to `env`.

    Runs in the sandbox: whoever is its user there owns them; or in a fork of an engine's keeper, for `owner`.
    """
    found = bundle(given)
    env.update(found["env"])
    bits = sc.MOUNT_ATTR_NOSUID | sc.MOUNT_ATTR_NODEV | sc.MOUNT_ATTR_NOEXEC
    tree = mounts.filesystem("tmpfs", {"mode": "0555", "size": "4m", "nr_inodes": "64"}, bits)
    for name, value in found["file"].items():
        fd = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o400, dir_fd=tree)
        os.write(fd, os.fsencode(value))
        os.fchown(fd, owner, owner)
        os.close(fd)
    sc.mount_setattr(tree, attributes=bits | sc.MOUNT_ATTR_RDONLY)
    return tree


def start(plan: Loaded, env: dict[str, str]) -> int:
    """Start the payload; its pid."""
    # not earlier: a monitor without root could not have read it; from now on nobody inside can
    sc.prctl(rights.PR_SET_DUMPABLE, 0, 0, 0, 0)
    # where a program of an image is, its own PATH says
    os.putenv("PATH", plan.env.get("PATH", ""))
    os.chdir(plan.cwd)
    return os.posix_spawnp(plan.argv[0], plan.argv, plan.env | env, setsigmask=[], setsigdef=plan.signals)


def reap(status: int, payload: int, plan: Loaded) -> None:
    """Say that it runs, reap, pass signals on, and end with the payload: the kernel kills whatever is left."""
    os.write(status, b"R")
    sc.close_range(0, status - 1, 0)
    sc.close_range(status + 1, 0x7FFFFFFF, 0)
    while True:
        number = signal.sigwait(plan.signals)
        if number != signal.SIGCHLD:
            try:
                plan.signal(payload, number)
            except ProcessLookupError:
                continue
            continue
        while True:
            pid, code = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == payload:
                os.write(status, b"X%d" % os.waitstatus_to_exitcode(code))
                os._exit(0)
