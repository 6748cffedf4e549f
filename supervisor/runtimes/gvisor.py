"""The gvisor runtime: the spawner's own sandbox, in which runsc runs the payload on a kernel of its own.

Runs as root, as the spawner does and obeying the same protocol. Namespaces, control group, sealed image, broker's
sockets and the end of everything are the native runtime's: runsc has a user namespace of the session's and no power
outside, and whatever it makes goes with its pid namespace. What the host's filter and Landlock are natively, the
sentry is here, gVisor's kernel; the profile's filter is loaded in the guest, by the gate. The sentry and the gofer
are read back before the payload starts. Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time

from supervisor import wire
from supervisor.runtimes import bundle, gate, sentry
from supervisor.runtimes.forks import forked
from supervisor.sandbox import enter, inside, mounts, session, spawner
from supervisor.sandbox import syscalls as sc
from supervisor.sandbox.session import Child, StepError, reported

# beside the session's own: who runsc is in its user namespace, and whom it makes the sentry; of nobody else
_ROOT, _NOBODY = 0, 65534
_PATIENCE, _LOOK = 20.0, 0.002
_FLAGS = sc.MOUNT_ATTR_NOSUID | sc.MOUNT_ATTR_NODEV | sc.MOUNT_ATTR_NOEXEC


def _raw(target: str, source: str = "") -> enter.Document:
    """A mount as a document has it: of a file, where there is a source, or a place for one."""
    flags = {"mode": "ro", "noexec": False, "is_file": bool(source), "map_owner": False}
    return {"source": source, "target": target} | flags


class Loaded(session.Loaded):
    """A guest's root as the native runtime makes it, in the root of a sandbox for runsc."""

    def __init__(self, document: enter.Document, image: int | None) -> None:
        points = [*enter.items(document, "mounts"), _raw(bundle.GATE)]
        super().__init__(document | {"mounts": points}, image)
        self.mounts = [each for each in self.mounts if each.target != bundle.GATE]
        mounts.attach(_gate(document), self.template, bundle.GATE)
        trees = enter.specs(document, "trees")
        text = bundle.config(document, trees + self.mounts)
        places = [mounts.MountSpec(_raw(each)) for each in (bundle.ROOT, bundle.STATE)]
        runsc = mounts.MountSpec(_raw(bundle.PROGRAM, bundle.RUNSC))
        outer = mounts.template([runsc], places, {}, {f"{bundle.BUNDLE}/config.json": text})
        mounts.attach(sc.copy_tree(self.template), outer, bundle.ROOT)
        mounts.unpark(self.template)
        self.template, self.steps = outer, _steps(document, self.mounts)
        self.argv, self.cwd, self.env = bundle.argv(document, bundle.platform()), "/", {"PATH": "/"}

    @staticmethod
    def signal(_payload: int, number: int) -> None:
        """runsc itself passes none on; another one does, to the gate."""
        os.posix_spawn(bundle.PROGRAM, [bundle.PROGRAM, f"--root={bundle.STATE}", "kill", "guest", str(number)], {})

    def ids(self, own: int) -> str:
        """The session's user as natively, and two for runsc."""
        return f"{super().ids(own)}\n{_ROOT} {own + sc.APART} 1\n{_NOBODY} {own + 2 * sc.APART} 1"


def _gate(document: enter.Document) -> int:
    """A detached file system with the gate of a document: the profile's filter is loaded in the guest."""
    tree = mounts.filesystem("tmpfs", {"mode": "0555", "size": "1m", "nr_inodes": "4"}, 0)
    fd = os.open("gate", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o555, dir_fd=tree)
    os.write(fd, gate.made(document | {"landlock": 0}))
    os.close(fd)
    bits = sc.MOUNT_ATTR_NOSUID | sc.MOUNT_ATTR_NODEV | sc.MOUNT_ATTR_RDONLY
    sc.mount_setattr(tree, attributes=bits)
    return tree


def _steps(document: enter.Document, own: list[mounts.MountSpec]) -> list[enter.Step]:
    """What the init of such a sandbox does: runsc needs its capabilities there, and to mount."""
    hostname, tmp, uid = str(document["hostname"]), enter.numbers(document, "tmp"), int(str(document["uid"]))
    privileged = os.geteuid() == 0
    return [
        enter.Step("cgroup", "join its cgroup, and cgroup and time namespaces of its own", enter.join_cgroup),
        enter.Step("descriptors", "make its session, close every descriptor but its own", enter.descriptors),
        enter.Step("identity", "become its user", lambda ctx: enter.identity(ctx, _ROOT, privileged=privileged)),
        enter.Step("loopback", 'set its host name and "lo" up', lambda _: inside.loopback(hostname)),
        enter.Step("egress", "make the sockets for the egress broker", lambda ctx: inside.egress(ctx, document)),
        enter.Step("root", "attach its root", inside.attach_root),
        enter.Step("proc", "mount its /proc", _proc),
        enter.Step("tmp", "mount the guest's /tmp and runsc's state", lambda ctx: _memory(ctx, tmp)),
        enter.Step("mounts", "attach the guest's mounts", lambda ctx: _attach(ctx, own, uid)),
        enter.Step("pivot_root", "pivot into its root", inside.pivot_root),
        enter.Step("rlimits", "set its resource limits", lambda _: inside.rlimits({"CORE": 0})),
        enter.Step("no_new_privs", "set no_new_privs", lambda _: sc.prctl(sc.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)),
    ]


def _proc(ctx: enter.Context) -> None:
    """Of its own processes; runsc wants to know how much memory there is, too."""
    mounts.attach(mounts.filesystem("proc", {}, _FLAGS), ctx.root, "/proc")


def _memory(ctx: enter.Context, tmp: dict[str, int]) -> None:
    bits = _FLAGS if tmp["noexec"] else _FLAGS & ~sc.MOUNT_ATTR_NOEXEC
    options = {"size": str(tmp["size"]), "nr_inodes": str(tmp["inodes"]), "mode": "1777"}
    mounts.attach(mounts.filesystem("tmpfs", options, bits), ctx.root, f"{bundle.ROOT}/tmp")
    state = mounts.filesystem("tmpfs", {"size": "4m", "nr_inodes": "64", "mode": "0700"}, _FLAGS)
    mounts.attach(state, ctx.root, bundle.STATE)


def _attach(ctx: enter.Context, own: list[mounts.MountSpec], uid: int) -> None:
    """What is made anew for each session."""
    data, trees, _ = wire.take(ctx.go, 16, 65) if own else (b"mounts", [], 0)
    if data != b"mounts":
        os._exit(1)
    for spec, tree in zip(own, trees, strict=True):
        if spec.target.startswith("/tmp/"):
            mounts.make_mount_point(ctx.root, f"{bundle.ROOT}{spec.target}", is_file=spec.is_file)
        # its variables are for the gate alone
        made = inside.secrets(tree, {}, uid) if spec.target == mounts.SECRETS else tree
        mounts.attach(made, ctx.root, f"{bundle.ROOT}{spec.target}")


class Gvisor(spawner.Spawner):
    """As the spawner; its children's payload is runsc, and the gate in the guest waits for the session's."""

    kind = Loaded

    def __init__(self, monitor: socket.socket, *, privileged: bool) -> None:
        super().__init__(monitor, privileged=privileged)
        self.given: dict[int, int] = {}

    def _load(self, digest: str, document: object, fds: list[int]) -> None:
        found = gaps(document) if isinstance(document, dict) else {}
        if found:
            event: wire.Message = {"event": "load-failed", "digest": digest, "runtime": "gvisor", "gaps": found}
            wire.send(self.monitor, event)
            return
        super()._load(digest, document, fds)

    def _admit(self, child: Child, plan: session.Loaded, secrets: list[int]) -> None:
        """Start runsc, and wait until the guest runs: its first process is the gate, which waits."""
        if secrets:
            self.given[child.pid] = os.dup(secrets[0])
        try:
            super()._admit(child, plan, secrets)
            child.go.send(b"go")
            report = child.report(1)
            if report != b"R":
                raise reported(report + child.report(4096))
            _booted(child)
        except OSError:
            self._forget(child)
            raise

    def _go(self, child: Child) -> None:
        """Open the gate; the monitor has read back what the kernel applied."""
        try:
            _told(child, self.given.get(child.pid, -1))
        except OSError as error:
            self._forget(child)
            child.end()
            del self.children[child.number]
            self._failed({"event": "failed", "id": child.number}, error, "start the payload")
            return
        self._forget(child)
        wire.send(self.monitor, {"event": "spawned", "id": child.number}, [*child.pipes, child.pidfd])
        child.release()

    def _ended(self, child: Child) -> None:
        self._forget(child)
        super()._ended(child)

    def _forget(self, child: Child) -> None:
        """Close its secrets."""
        if (fd := self.given.pop(child.pid, -1)) >= 0:
            os.close(fd)


def _told(child: Child, secrets: int) -> None:
    """The session's environment, written by a fork: the spawner reads no secret."""

    def tell() -> None:
        env = enter.texts(child.plan.document, "env")
        # a byte, on which the gate loads its filter, and what opens it
        data = b"\0" + gate.environment(env | (inside.bundle(secrets)["env"] if secrets >= 0 else {}))
        while data:
            data = data[os.write(child.pipes[0], data) :]

    forked(tell)


def _booted(child: Child) -> None:
    """Wait until the sentry and the gofer are what they stay; StepError with what runsc said, or is wrong."""
    deadline = time.monotonic() + _PATIENCE
    reaches = bool(enter.items(child.plan.document, "addresses"))
    while wrong := sentry.differences(child.pid, reaches=reaches):
        if not child.waits() or time.monotonic() > deadline:
            raise StepError(OSError(errno.EPROTO, _said(child) or "; ".join(wrong)), "start the sentry of gVisor")
        time.sleep(_LOOK)


def _said(child: Child) -> str:
    """What runsc has written to the standard error that the guest would get."""
    fd = child.pipes[2]
    os.set_blocking(fd, False)
    with contextlib.suppress(BlockingIOError):
        return os.read(fd, 4096).decode(errors="replace").strip()
    return ""


def gaps(document: enter.Document) -> dict[str, str]:
    """What it cannot hold of a document here."""
    found: dict[str, str] = {}
    if os.geteuid() != 0:
        found["runtime"] = 'gvisor needs users of its own, which root alone has: runtime = "native"'
    elif not bundle.there():
        found["runtime"] = f"gvisor is {bundle.RUNSC}, which is not there: install runsc, or name another runtime"
    elif not gate.here():
        found["runtime"] = gate.MISSING
    for each in (*enter.specs(document, "trees"), *enter.specs(document, "mounts")):
        if each.mode == "rw":
            found[f"mount {each.target}"] = (
                'what is written through gvisor is not counted on the way: runtime = "native"'
            )
    return found


def main(fd: int) -> None:
    """Serve the monitor on descriptor `fd` until it hangs up."""
    spawner.main(fd, Gvisor)
