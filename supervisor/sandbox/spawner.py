"""The spawner: the only process that ever forks a sandbox.

Runs as root (or as the owner of a user namespace of its own) with an empty environment, one thread and no
third-party import, because every sandbox is a fork of it. It obeys one peer, the monitor, over a wire socket;
its input is resolved documents, never a stranger's bytes. When the monitor is gone it kills every
session, removes their cgroups and ends; when it is gone itself the kernel kills every session.

Requests: load {digest, document} · keep {digests} · spawn {id, digest}, perhaps with the descriptor of its secrets,
which is passed on unread · go {id} · kill {id, signal}.
Events: loaded, sockets (for the egress broker), ready (all but the payload), spawned (stdin, stdout, stderr,
pidfd), failed, exited.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import select
import signal
import socket

from supervisor import wire
from supervisor.errors import WireError
from supervisor.sandbox import cgroup, enter, init, mounts, session
from supervisor.sandbox import syscalls as sc
from supervisor.sandbox.session import Child, Loaded, StepError, reported

# how many sandboxes are made ahead (about 2 MB each), and how many milliseconds after the start of a payload
AHEAD, PAUSE = 8, 30


class Spawner:
    """Documents by digest, children by number. `kind`: what it makes of a document."""

    kind = Loaded

    def __init__(self, monitor: socket.socket, *, privileged: bool) -> None:
        self.monitor = monitor
        self.privileged = privileged
        self.hierarchy = cgroup.probe()
        self.name = f"{cgroup.PREFIX}{os.getpid()}-{cgroup.start_time(os.getpid())}"
        self.forks = 0
        self.wanted: list[Loaded] = []
        self.pause = 0
        self.loaded: dict[str, Loaded] = {}
        self.images: dict[str, int] = {}
        self.children: dict[int, Child] = {}

    def serve(self) -> None:
        """Until the monitor hangs up; then nothing of ours is left."""
        self.hierarchy.sweep()
        while True:
            watched = {child.pidfd: child for child in self.children.values()}
            poll = select.poll()
            for fd in (self.monitor.fileno(), *watched):
                poll.register(fd, select.POLLIN)
            ready = [fd for fd, _ in poll.poll(self.pause if self.wanted else None)]
            if not ready:
                self._park()
            for fd in ready:
                if fd in watched:
                    self._ended(watched[fd])
            if self.monitor.fileno() in ready and not self._request():
                return

    def close(self) -> None:
        """Kill and reap every child."""
        left = [*self.children.values(), *(plan.parked for plan in self.loaded.values() if plan.parked)]
        for child in left:
            child.kill(signal.SIGKILL)
        for child in left:
            child.reap()
        self.children.clear()

    def _park(self) -> None:
        """Nobody waits: fork ahead for a plan that is likely to be asked for.

        The child takes its steps up to the mounts that are made anew for each session. If that fails it will
        fail again when somebody asks, and is told then.
        """
        plan = self.wanted.pop(0)
        if sum(each.parked is not None for each in self.loaded.values()) < AHEAD and not plan.parked:
            with contextlib.suppress(OSError):
                plan.parked = self._fork(plan)

    def _take(self, plan: Loaded) -> Child:
        """The child that was made ahead for this plan, or a new one."""
        child, plan.parked = plan.parked, None
        self.wanted = [each for each in self.wanted if each is not plan]
        if child and child.waits():
            return child
        if child:
            child.end()
        return self._fork(plan)

    def _request(self) -> bool:
        received = wire.receive(self.monitor, max_fds=1)
        if received is None:
            return False
        message, fds = received
        kind = message.get("req")
        if kind == "load":
            self._load(str(message["digest"]), message["document"], fds)
        elif kind == "spawn":
            self._spawn(int(str(message["id"])), str(message["digest"]), fds)
        elif kind == "keep":
            self._keep(enter.items(message, "digests"))
        elif kind in ("go", "kill"):
            child = self.children.get(int(str(message["id"])))
            if child and kind == "go":
                self._go(child)
            elif child:
                child.kill(int(str(message["signal"])))
        else:
            raise WireError(f"unknown request {kind!r}")
        wire.close(fds)
        return True

    def _keep(self, digests: list[object]) -> None:
        """Forget every other document; sessions that run go on, in a copy of its root."""
        gone = [self.loaded.pop(digest) for digest in list(self.loaded) if digest not in digests]
        self.wanted = [plan for plan in self.wanted if plan not in gone]
        for plan in gone:
            if plan.parked:
                plan.parked.end()
            mounts.unpark(plan.template)
        used = [plan.document["image"] for plan in self.loaded.values()]
        for image in [each for each in self.images if each not in used]:
            mounts.unpark(self.images.pop(image))

    def _load(self, digest: str, document: object, fds: list[int]) -> None:
        if not isinstance(document, dict):
            raise WireError("a document is an object")
        if digest not in self.loaded:
            try:
                image = str(document["image"])
                if fds and image not in self.images:
                    self.images[image] = mounts.image(*fds)
                self.loaded[digest] = plan = self.kind(document, self.images.get(image))
            except OSError as error:
                self._failed({"event": "load-failed", "digest": digest}, error, "build the root")
                return
            self.wanted, self.pause = [*self.wanted, plan], 0
            # nothing that is here now is garbage, and a collection after a fork would copy all of it
            gc.freeze()
        wire.send(self.monitor, {"event": "loaded", "digest": digest})

    def _failed(self, message: wire.Message, error: OSError, step: str) -> None:
        wire.send(self.monitor, message | {"step": step, "reason": error.strerror or str(error)})

    def _spawn(self, number: int, digest: str, secrets: list[int]) -> None:
        child = None
        try:
            if (plan := self.loaded.get(digest)) is None:  # forgotten while its secrets were read
                raise OSError(errno.ESTALE, "its configuration has changed meanwhile; open it again")
            child = self._take(plan)
            self._admit(child, plan, secrets)
        except OSError as error:
            step = getattr(error, "step", "enter" if child else "make a cgroup")
            if child and (hit := child.end()):
                step += f" (limits.{hit[0]} is too small for the sandbox itself)"
            self._failed({"event": "failed", "id": number}, error, step)
            return
        child.number = number
        self.children[number] = child
        self._donate(child)
        wire.send(self.monitor, {"event": "ready", "id": number, "pid": child.pid, "group": child.group.name})

    def _donate(self, child: Child) -> None:
        """Pass its sockets on; none may stay here, or its network namespace would stay as well."""
        for start in range(0, len(child.donated), wire.CHUNK):
            chunk = child.donated[start : start + wire.CHUNK]
            wire.send(self.monitor, {"event": "sockets", "id": child.number}, chunk)
            wire.close(chunk)
        child.donated = []

    def _go(self, child: Child) -> None:
        """Let the payload be started: the monitor has read back what the kernel applied."""
        with contextlib.suppress(BrokenPipeError):
            child.go.send(b"go")
        try:
            report = child.report(1)
            failure = None if report == b"R" else reported(report + child.report(4096))
        except StepError as error:
            failure = error
        if failure is None:
            wire.send(self.monitor, {"event": "spawned", "id": child.number}, [*child.pipes, child.pidfd])
            child.release()
            if child.number > 1:
                # who asked twice will ask again, a single command does not; but the payload's start comes first
                self.wanted, self.pause = [*self.wanted, child.plan], PAUSE
            return
        child.end()
        del self.children[child.number]
        self._failed({"event": "failed", "id": child.number}, failure, failure.step)

    def _fork(self, plan: Loaded) -> Child:
        """A child in namespaces and a cgroup of its own, which goes on when it is admitted."""
        self.forks += 1
        group = cgroup.Group(self.hierarchy, f"{self.name}-{self.forks}", plan.limits)
        try:
            child = self._clone(plan, group)
        except OSError as error:
            group.remove()
            raise StepError(error, "create the namespaces") from error
        own = sc.FIRST_UID + child.pid
        uid, gid = (own, own) if self.privileged else (os.geteuid(), os.getegid())
        try:
            mounts.write(f"/proc/{child.pid}/uid_map", plan.ids(uid))
            mounts.write(f"/proc/{child.pid}/gid_map", plan.ids(gid))
            child.go.send(b"mapped")
        except OSError as error:
            child.end()
            raise StepError(error, "map its user") from error
        return child

    def _clone(self, plan: Loaded, group: cgroup.Group) -> Child:
        stdin, stdout, stderr, status = os.pipe(), os.pipe(), os.pipe(), os.pipe()
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        tasks, into = group.task_fds(), group.clone_fd()
        root = sc.copy_tree(plan.template)
        theirs = [stdin[0], stdout[1], stderr[1], status[1], root, *tasks, *([into] if into else [])]
        ours = [stdin[1], stdout[0], stderr[0]]
        # made before the fork: what the child does first, it pays for with copied pages
        ctx = enter.Context(status[1], there, root, [stdin[0], stdout[1], stderr[1]], tasks)
        try:
            pid, pidfd = sc.clone3(sc.ALL_NAMESPACES, cgroup=into)
            if pid == 0:
                init.child(plan, ctx)
        except OSError:
            here.close()
            wire.close((*ours, status[0]))
            raise
        finally:
            there.close()
            wire.close(theirs)
        return Child(plan, pid, pidfd, status=status[0], group=group, go=here, pipes=ours)

    def _admit(self, child: Child, plan: Loaded, secrets: list[int]) -> None:
        """Hand a child its mounts, wait until every step is taken or one failed."""
        trees: list[int] = []
        try:
            for spec in plan.mounts:
                if spec.target == mounts.SECRETS:
                    trees.append(secrets.pop())
                    continue
                try:
                    trees.append(mounts.detached(spec, sc.FIRST_UID + child.pid if self.privileged else None))
                except OSError as error:
                    raise StepError(error, f"mount {spec.source} at {spec.target}") from error
            if trees:
                # broken: an earlier step failed, and the status pipe says which
                with contextlib.suppress(BrokenPipeError):
                    socket.send_fds(child.go, [b"mounts"], trees)
        finally:
            wire.close(trees)
        report = child.report(1)
        if report != b"P":
            raise reported(report + child.report(4096))
        session.donated(child.go, plan.donated, child.donated)

    def _ended(self, child: Child) -> None:
        code, hit = child.reap()
        del self.children[child.number]
        wire.send(self.monitor, {"event": "exited", "id": child.number, "code": code, "limits": hit})
        # here nobody waits for it
        gc.collect()


def _own_namespaces(*, privileged: bool) -> None:
    """A mount namespace of its own; without root, a user namespace that owns it and all that follow."""
    uid, gid = os.geteuid(), os.getegid()
    sc.unshare(sc.CLONE_NEWNS if privileged else sc.CLONE_NEWNS | sc.CLONE_NEWUSER)
    if not privileged:
        mounts.write("/proc/self/setgroups", "deny")
        mounts.write("/proc/self/uid_map", f"{uid} {uid} 1")
        mounts.write("/proc/self/gid_map", f"{gid} {gid} 1")
    sc.mount(b"none", b"/", b"", sc.MS_REC | sc.MS_PRIVATE, b"")


def main(fd: int, kind: type[Spawner] = Spawner) -> None:
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
        # here and below: a monitor that has refused meanwhile hears no greeting any more
        with contextlib.suppress(ConnectionError):
            wire.send(monitor, {"event": "hello", "error": error.strerror or ""})
        return
    spawner = kind(monitor, privileged=privileged)
    try:
        with contextlib.suppress(ConnectionError):
            wire.send(monitor, {"event": "hello", "cgroup": spawner.hierarchy.version})
            spawner.serve()
    finally:
        spawner.close()
