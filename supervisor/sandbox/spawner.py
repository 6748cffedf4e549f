"""The spawner: the only process that ever forks a sandbox.

Runs as root (or as the owner of a user namespace of its own) with an empty environment, one thread and no
third-party import, because every sandbox is a fork of it. It obeys one peer, the monitor, over a wire socket;
its input is resolved documents, never a stranger's bytes. When the monitor is gone it kills every
session, removes their cgroups and ends; when it is gone itself the kernel kills every session.

Requests: load {digest, document} · spawn {id, digest} · go {id} · kill {id, signal}.
Events: loaded, ready (all but the payload), spawned (stdin, stdout, stderr, pidfd), failed, exited.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import sys

from supervisor import wire
from supervisor.errors import WireError
from supervisor.sandbox import cgroup, enter, init, mounts
from supervisor.sandbox import syscalls as sc

# Host uids of sessions: a range that nothing else allots, plus the host pid of the session's init,
# so that no two live sessions share one and nothing has to be remembered.
FIRST_UID = 0x70000000


class Loaded:
    """A document that is ready to be spawned: its root template and its steps."""

    def __init__(self, document: enter.Document) -> None:
        self.document = document
        self.steps = enter.plan(document)
        self.payload = init.Payload(document)
        self.mounts = enter.specs(document, "mounts")
        self.limits = enter.numbers(document, "cgroup")
        self.template = mounts.template(
            enter.specs(document, "trees"),
            self.mounts,
            enter.texts(document, "links"),
            enter.texts(document, "files"),
        )


class Child:
    """One session: its init, the pipe it reports on, its cgroup; `go` and `pipes` until its payload runs."""

    def __init__(
        self,
        number: int,
        pid: int,
        pidfd: int,
        *,
        status: int,
        group: cgroup.Group,
        go: socket.socket,
        pipes: list[int],
    ) -> None:
        self.number = number
        self.pid = pid
        self.pidfd = pidfd
        self.status = status
        self.group = group
        self.go = go
        self.pipes = pipes

    def release(self) -> None:
        """Close what only a session that waits for its payload has."""
        self.go.close()
        for fd in self.pipes:
            os.close(fd)
        self.pipes = []

    def kill(self, number: int) -> None:
        """Signal the init; SIGKILL ends everything in its pid namespace."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def reap(self) -> tuple[int | None, list[str]]:
        """Wait for the init, clean up; (the payload's exit code, None if it did not end by itself; limits)."""
        self.release()
        _, raw = os.waitpid(self.pid, 0)
        report = os.read(self.status, 64)
        os.close(self.status)
        os.close(self.pidfd)
        hit = self.group.limits_hit()
        self.group.remove()
        code = int(report[1:]) if report[:1] == b"X" else None
        return code if os.waitstatus_to_exitcode(raw) == 0 else None, hit


class Spawner:
    """Documents by digest, children by number."""

    def __init__(self, monitor: socket.socket, *, privileged: bool) -> None:
        self.monitor = monitor
        self.privileged = privileged
        self.hierarchy = cgroup.probe()
        name = f"{cgroup.PREFIX}{os.getpid()}-{cgroup.start_time(os.getpid())}"
        self.groups = cgroup.Groups(self.hierarchy, name)
        self.used: dict[str, int] | None = None
        self.last_capability = sc.last_capability()
        self.loaded: dict[str, Loaded] = {}
        self.children: dict[int, Child] = {}

    def serve(self) -> None:
        """Until the monitor hangs up; then nothing of ours is left."""
        self.hierarchy.sweep()
        poll = select.poll()
        poll.register(self.monitor, select.POLLIN)
        while True:
            watched = {child.pidfd: child for child in self.children.values()}
            for fd in watched:
                poll.register(fd, select.POLLIN)
            ready = [fd for fd, _ in poll.poll(None if self.used is None else 0)]
            for fd in watched:
                poll.unregister(fd)
            if not ready:
                self._restock()
            for fd in ready:
                if fd in watched:
                    self._ended(watched[fd])
            if self.monitor.fileno() in ready and not self._request():
                return

    def close(self) -> None:
        """Kill and reap every child."""
        for child in self.children.values():
            child.kill(signal.SIGKILL)
        for child in self.children.values():
            child.reap()
        self.children.clear()
        self.groups.close()

    def _restock(self) -> None:
        """Nobody waits: replace the cgroup that was taken. What goes wrong is told to whoever needs one."""
        with contextlib.suppress(OSError):
            self.groups.prepare(self.used or {})
        self.used = None

    def _request(self) -> bool:
        received = wire.receive(self.monitor)
        if received is None:
            return False
        message, _ = received
        kind = message.get("req")
        if kind == "load":
            self._load(str(message["digest"]), message["document"])
        elif kind == "spawn":
            self._spawn(int(str(message["id"])), str(message["digest"]))
        elif kind in ("go", "kill"):
            child = self.children.get(int(str(message["id"])))
            if child and kind == "go":
                self._go(child)
            elif child:
                child.kill(int(str(message["signal"])))
        else:
            raise WireError(f"unknown request {kind!r}")
        return True

    def _load(self, digest: str, document: object) -> None:
        if not isinstance(document, dict):
            raise WireError("a document is an object")
        step = "build the root"
        try:
            plan = Loaded(document)
            step = "make a cgroup"
            self.groups.prepare(plan.limits)
        except OSError as error:
            self._failed({"event": "load-failed", "digest": digest}, error, step)
            return
        self.loaded[digest] = plan
        # nothing that is here now is garbage, and a collection after a fork would copy all of it
        gc.freeze()
        wire.send(self.monitor, {"event": "loaded", "digest": digest})

    def _failed(self, message: wire.Message, error: OSError, step: str) -> None:
        reason = error.strerror or str(error)
        wire.send(self.monitor, message | {"step": step, "errno": error.errno or 0, "reason": reason})

    def _spawn(self, number: int, digest: str) -> None:
        plan = self.loaded[digest]
        try:
            group = self.groups.take(plan.limits)
        except OSError as error:
            self._failed({"event": "failed", "id": number}, error, "make a cgroup")
            return
        try:
            child = self._start(number, plan, group)
        except OSError as error:
            group.remove()
            step = getattr(error, "step", "create the namespaces")
            self._failed({"event": "failed", "id": number}, error, step)
            return
        self.children[number] = child
        self.used = plan.limits
        wire.send(self.monitor, {"event": "ready", "id": number, "pid": child.pid})

    def _go(self, child: Child) -> None:
        """Let the payload be started: the monitor has read back what the kernel applied."""
        with contextlib.suppress(BrokenPipeError):
            child.go.send(b"go")
        report = os.read(child.status, 1)
        if report == b"R":
            event: wire.Message = {"event": "spawned", "id": child.number}
            wire.send(self.monitor, event, [*child.pipes, child.pidfd])
            child.release()
            return
        failure = _reported(report + os.read(child.status, 4096))
        child.kill(signal.SIGKILL)
        child.reap()
        del self.children[child.number]
        self._failed({"event": "failed", "id": child.number}, failure, failure.step)

    def _start(self, number: int, plan: Loaded, group: cgroup.Group) -> Child:
        stdin, stdout, stderr, status = os.pipe(), os.pipe(), os.pipe(), os.pipe()
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        tasks, into = group.task_fds(), group.clone_fd()
        root = sc.open_tree(
            plan.template,
            b"",
            sc.AT_EMPTY_PATH | sc.AT_RECURSIVE | sc.OPEN_TREE_CLONE | sc.OPEN_TREE_CLOEXEC,
        )
        theirs = [stdin[0], stdout[1], stderr[1], status[1], root, *tasks, *([into] if into else [])]
        ours = [stdin[1], stdout[0], stderr[0]]
        # made before the fork: what the child does first, it pays for with copied pages
        ctx = enter.Context(
            status=status[1],
            go=there,
            root=root,
            stdio=(stdin[0], stdout[1], stderr[1]),
            tasks=tasks,
            privileged=self.privileged,
            last_capability=self.last_capability,
        )
        try:
            pid, pidfd = sc.clone3(sc.ALL_NAMESPACES, cgroup=into)
            if pid == 0:
                init.child(plan.steps, ctx, plan.payload)
        except OSError:
            for fd in [*ours, status[0]]:
                os.close(fd)
            raise
        finally:
            there.close()
            for fd in theirs:
                os.close(fd)
        child = Child(number, pid, pidfd, status=status[0], group=group, go=here, pipes=ours)
        try:
            self._admit(child, plan)
        except OSError:
            child.kill(signal.SIGKILL)
            child.reap()
            raise
        return child

    def _admit(self, child: Child, plan: Loaded) -> None:
        """Write the child's maps, hand it its mounts, wait until every step is taken or one failed."""
        uid = FIRST_UID + child.pid if self.privileged else os.geteuid()
        gid = uid if self.privileged else os.getegid()
        inside = str(plan.document["uid"])
        trees: list[int] = []
        try:
            mounts.write(f"/proc/{child.pid}/uid_map", f"{inside} {uid} 1")
            mounts.write(f"/proc/{child.pid}/gid_map", f"{inside} {gid} 1")
            for spec in plan.mounts:
                try:
                    trees.append(mounts.detached(spec, uid if self.privileged else None))
                except OSError as error:
                    raise StepError(error, f"mount {spec.source} at {spec.target}") from error
            # broken: an earlier step failed, and the status pipe says which
            with contextlib.suppress(BrokenPipeError):
                socket.send_fds(child.go, [b"go"], trees)
        finally:
            for fd in trees:
                os.close(fd)
        report = os.read(child.status, 1)
        if report != b"P":
            raise _reported(report + os.read(child.status, 4096))

    def _ended(self, child: Child) -> None:
        code, hit = child.reap()
        del self.children[child.number]
        event: wire.Message = {"event": "exited", "id": child.number, "code": code, "limits": hit}
        wire.send(self.monitor, event)


class StepError(OSError):
    """An OSError that knows which step it belongs to."""

    def __init__(self, error: OSError, step: str) -> None:
        super().__init__(error.errno, error.strerror)
        self.step = step


def _reported(report: bytes) -> StepError:
    if report[:1] != b"E":
        return StepError(OSError(5, "the sandbox ended before its payload was started"), "enter")
    number, _, step = report[1:].decode(errors="replace").partition(" ")
    what, _, reason = step.rpartition(": ")
    return StepError(OSError(int(number), reason), what)


def _own_namespaces(*, privileged: bool) -> None:
    """A mount namespace of its own; without root, a user namespace that owns it and all that follow."""
    uid, gid = os.geteuid(), os.getegid()
    sc.unshare(sc.CLONE_NEWNS if privileged else sc.CLONE_NEWNS | sc.CLONE_NEWUSER)
    if not privileged:
        mounts.write("/proc/self/setgroups", "deny")
        mounts.write("/proc/self/uid_map", f"{uid} {uid} 1")
        mounts.write("/proc/self/gid_map", f"{gid} {gid} 1")
    sc.mount(b"none", b"/", b"", sc.MS_REC | sc.MS_PRIVATE, b"")


def main(fd: int) -> None:
    """Serve the monitor on descriptor `fd` until it hangs up."""
    os.umask(0o022)
    gc.disable()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    monitor = socket.socket(fileno=fd)
    monitor.set_inheritable(False)
    privileged = os.geteuid() == 0
    try:
        _own_namespaces(privileged=privileged)
    except OSError as error:
        wire.send(monitor, {"event": "hello", "error": error.strerror or "", "errno": error.errno or 0})
        return
    spawner = Spawner(monitor, privileged=privileged)
    wire.send(monitor, {"event": "hello", "cgroup": spawner.hierarchy.version})
    try:
        spawner.serve()
    except (ConnectionError, BrokenPipeError):
        pass
    finally:
        spawner.close()


if __name__ == "__main__":
    main(int(sys.argv[1]))
