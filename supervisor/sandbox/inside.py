"""Steps that are taken inside: from "become its user" on, with the capabilities of its own namespaces and no other.

Runs as the session's own uid, never as root: an error here could harm the session, whose sandbox is read back from
outside before its payload starts, and nothing else. Standard library only.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import socket
from typing import TYPE_CHECKING

from supervisor import wire
from supervisor.sandbox import mounts, network
from supervisor.sandbox import syscalls as sc

if TYPE_CHECKING:
    from supervisor.sandbox.enter import Context


def egress(ctx: Context, addresses: list[str], udp: list[network.Place], tcp: list[network.Place]) -> None:
    """The addresses that stand for names, and the sockets behind them."""
    if addresses:
        network.add(addresses)
        network.donate(network.sockets(udp, tcp), ctx.go)


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


def secrets(bundle: int, env: dict[str, str]) -> int:
    """A read-only tmpfs with the files of `bundle`, which is closed; its variables are added to `env`.

    Runs in the sandbox: whoever is its user there owns them.
    """
    with open(bundle, "rb") as file:
        found = json.load(file)
    env.update(found["env"])
    bits = sc.MOUNT_ATTR_NOSUID | sc.MOUNT_ATTR_NODEV | sc.MOUNT_ATTR_NOEXEC
    tree = mounts.filesystem("tmpfs", {"mode": "0555", "size": "4m", "nr_inodes": "64"}, bits)
    for name, value in found["file"].items():
        fd = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o400, dir_fd=tree)
        os.write(fd, os.fsencode(value))
        os.close(fd)
    sc.mount_setattr(tree, attributes=bits | sc.MOUNT_ATTR_RDONLY)
    return tree


def reap(status: int, payload: int, signals: set[signal.Signals]) -> None:
    """Reap, pass signals on, and end with the payload: the kernel kills whatever is left."""
    while True:
        number = signal.sigwait(signals)
        if number != signal.SIGCHLD:
            try:
                os.kill(payload, number)
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
