"""What a sandbox costs at start: our spawner and command line beside a plain spawn and bubblewrap.

Run from a checkout, `python benchmarks/cold_start.py [--runs N] [--json FILE]`, as root or as an ordinary user; as
root the spawner is measured once more as nobody. Three questions, each with its ratios: start to end of
/bin/true, start to the `initialize` reply of a Python server, and a whole command line. The cases take turns,
with a pause before each run, because the kernel puts work of one run off into the next (cgroup v1 waits
for RCU grace periods, which a tight loop hides).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks import own_image
from supervisor.errors import LaunchFailed
from supervisor.model import HostFacts, Registered, SandboxSpec
from supervisor.monitor import posture
from supervisor.monitor.children import Spawner
from supervisor.monitor.loop import Loop
from supervisor.monitor.requests import check
from supervisor.oci.store import Record
from supervisor.profile import host, load, plan
from supervisor.profile.entry import ServerEntry
from supervisor.runtimes import native
from supervisor.sandbox import cgroup

REPOSITORY = Path(__file__).resolve().parent.parent
SERVER = str(REPOSITORY / "images" / "filesystem" / "server.py")
OURS = str(Path(sys.executable).parent / "supervisor")
SERVER_GROUP = "start to initialize reply of a Python SDK server"
NOBODY = 65534
ENV = {"LANG": "C.UTF-8", "PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/tmp"}
INITIALIZE = (
    b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18",'
    b'"capabilities":{},"clientInfo":{"name":"cold_start","version":"1"}}}\n'
)
BWRAP = (
    *("bwrap", "--unshare-all", "--unshare-user", "--unshare-cgroup", "--uid", "1000", "--gid", "1000"),
    *("--hostname", "sandbox", "--new-session", "--die-with-parent", "--cap-drop", "ALL", "--clearenv"),
    *("--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib"),
    *("--symlink", "usr/lib64", "/lib64", "--tmpfs", "/tmp", "--dev", "/dev", "--proc", "/proc"),
)

Run = Callable[[], float]


class Case(NamedTuple):
    """One row of the table: `run` does it once and returns how many seconds it took."""

    group: str
    name: str
    run: Run


class Process(NamedTuple):
    """A started program with pipes; standard error is thrown away."""

    pid: int
    stdin: int
    stdout: int


def start(argv: tuple[str, ...], env: dict[str, str]) -> Process:
    """Start a program, found by PATH."""
    (theirs_in, ours_in), (ours_out, theirs_out) = os.pipe(), os.pipe()
    actions = [
        (os.POSIX_SPAWN_DUP2, theirs_in, 0),
        (os.POSIX_SPAWN_DUP2, theirs_out, 1),
        (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0),
    ]
    pid = os.posix_spawnp(argv[0], argv, env, file_actions=actions)
    os.close(theirs_in)
    os.close(theirs_out)
    return Process(pid, ours_in, ours_out)


def greet(stdin: int, stdout: int) -> None:
    """Send `initialize` and wait for its reply."""
    os.write(stdin, INITIALIZE)
    reply = b""
    while not reply.endswith(b"\n"):
        part = os.read(stdout, 65536)
        assert part, "the server ended before it answered"
        reply += part
    assert b'"result"' in reply, reply


def whole(*argv: str, env: dict[str, str] = ENV) -> Run:
    """From start to end of a program that must succeed."""

    def run() -> float:
        began = time.perf_counter()
        process = start(argv, env)
        _, status = os.waitpid(process.pid, 0)
        took = time.perf_counter() - began
        os.close(process.stdin)
        os.close(process.stdout)
        assert status == 0, f"{argv} ended with {os.waitstatus_to_exitcode(status)}"
        return took

    return run


def reply(*argv: str, env: dict[str, str] = ENV) -> Run:
    """From start to the initialize reply of a server."""

    def run() -> float:
        began = time.perf_counter()
        process = start(argv, env)
        greet(process.stdin, process.stdout)
        took = time.perf_counter() - began
        os.close(process.stdin)
        os.close(process.stdout)
        os.waitpid(process.pid, 0)
        return took

    return run


class Ready(NamedTuple):
    """A loaded document, and the spec that its sessions are compared with."""

    spec: SandboxSpec
    document: dict[str, object]


class Warm:
    """A spawner as a daemon's monitor holds one: started long before, documents loaded, posture read back."""

    def __init__(self, facts: HostFacts) -> None:
        self.facts = facts
        self.hierarchy = cgroup.probe()
        self.loop = Loop()
        self.spawner = Spawner()
        self.spawner.greet()
        self.spawner.serve(self.loop, self._exited, self._gone)
        self.sessions = self.live = 0

    def _exited(self, *_: object) -> None:
        self.live -= 1

    @staticmethod
    def _gone() -> None:
        raise AssertionError("the spawner ended")

    def load(
        self, profile: str, command: tuple[str, ...] = (), *, image: str = "", store: str = "", **params: str
    ) -> Ready:
        """Plan, check and load, as planner and monitor do."""
        entry = ServerEntry(
            name="bench",
            profile=profile,
            command=command,
            params=params,
            image=image,
            store=store,
            accept_missing=tuple(set(self.facts.missing) & set(native.OPTIONAL)),
            origin="cold_start",
        )
        found = own_image.found(entry) if image else None
        made = plan.plan(load.load(profile), entry, found.image if found else None)
        spec = check(Registered(entry=entry, plan=made), self.facts).plan.spec
        ready = Ready(spec, native.document(spec, self.facts))
        sealed = [found.sealed()] if found else []
        ready.document["sealed"] = [[os.fstat(fd).st_dev, os.fstat(fd).st_ino] for fd in sealed]
        self.spawner.load(spec.digest, ready.document, sealed)
        for fd in sealed:
            os.close(fd)
        return ready

    def open(self, ready: Ready) -> list[int]:
        """[stdin, stdout, stderr, pidfd] of a new session."""
        opened: list[list[int]] = []
        failed: list[Exception] = []

        def verify(pid: int, group: str) -> list[str]:
            return posture.differences(posture.Reader(pid, *ready), self.hierarchy, group)

        def done(error: LaunchFailed | None, fds: list[int]) -> None:
            if error:
                failed.append(error)
            else:
                opened.append(fds)

        self.sessions += 1
        self.live += 1
        self.spawner.spawn(self.sessions, ready.spec.digest, verify, done)
        while not opened:
            self.loop.once()
            if failed:
                raise failed[0]
        return opened[0]

    def close(self, fds: list[int]) -> None:
        """End a session and wait until it and every other is gone, with its cgroup."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(fds[3], signal.SIGKILL)
        for fd in fds:
            os.close(fd)
        while self.live:
            self.loop.once()

    def until_end(self, ready: Ready) -> Run:
        """From the request to the end of the session's pid namespace."""

        def run() -> float:
            began = time.perf_counter()
            fds = self.open(ready)
            poll = select.poll()
            poll.register(fds[3], select.POLLIN)
            poll.poll()
            took = time.perf_counter() - began
            self.close(fds)
            return took

        return run

    def at_once(self, ready: Ready) -> Run:
        """As `until_end`, right after another session was opened: nothing can have been made ahead."""
        run = self.until_end(ready)

        def after_another() -> float:
            other = self.open(ready)
            took = run()
            self.close(other)
            return took

        return after_another

    def until_reply(self, ready: Ready) -> Run:
        """From the request to the initialize reply."""

        def run() -> float:
            began = time.perf_counter()
            fds = self.open(ready)
            greet(fds[0], fds[1])
            took = time.perf_counter() - began
            self.close(fds)
            return took

        return run

    def memory(self, ready: Ready) -> dict[str, dict[str, int]]:
        """KiB of the spawner and of one session's init (pid 1 inside)."""
        fds = self.open(ready)
        line = Path(f"/proc/self/fdinfo/{fds[3]}").read_text(encoding="ascii").split("Pid:")[1]
        found = {"spawner": kibibytes(self.spawner.pid), "a session's init": kibibytes(int(line.split()[0]))}
        self.close(fds)
        return found


def kibibytes(pid: int) -> dict[str, int]:
    """Proportional and private memory of a process; nothing where it may not be read."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except PermissionError:
        return {}
    rows = {line.split()[0].rstrip(":"): int(line.split()[1]) for line in text.splitlines()[1:]}
    return {"pss": rows["Pss"], "private": rows["Private_Clean"] + rows["Private_Dirty"]}


def true_cases(warm: Warm, who: str) -> list[Case]:
    """/bin/true, for root and, separately, for an ordinary user."""
    group = f"start to end of /bin/true, as {who}"
    ready = warm.load("none", ("/bin/true",))
    return [
        Case(group, "plain", whole("/bin/true")),
        Case(group, "bwrap", whole(*BWRAP, "/bin/true")),
        Case(group, "spawner", warm.until_end(ready)),
        Case(group, "spawner, back to back", warm.at_once(ready)),
    ]


def image_cases(warm: Warm, folder: str, record: Record, store: str) -> list[Case]:
    """The server from its sealed image, which only root can mount."""
    image = ("--image", record.reference, "--store", store)
    run = (OURS, "run", "-q", *image, "--profile", "fs-readonly", "--param", f"root={folder}")
    loaded = warm.load("fs-readonly", image=record.reference, store=store, root=folder)
    return [
        Case(SERVER_GROUP, "spawner, from its sealed image", warm.until_reply(loaded)),
        Case(SERVER_GROUP, "supervisor run --image", reply(*run)),
    ]


def other_cases(warm: Warm, folder: str) -> list[Case]:
    """The server and the command line."""
    server = (sys.executable, "-I", SERVER)
    trees = {sys.prefix, sys.base_prefix, str(REPOSITORY / "images")}
    binds = [word for tree in sorted(trees) for word in ("--ro-bind", tree, tree)]
    gaps = ",".join(set(warm.facts.missing) & set(native.OPTIONAL))
    accept = ("--accept-missing", gaps) if gaps else ()
    run = (OURS, "run", "-q", *accept, "--profile", "fs-readonly", "--param", f"root={folder}")
    group = SERVER_GROUP
    lines = "whole command line"
    return [
        Case(group, "plain", reply(*server, folder)),
        Case(group, "bwrap", reply(*BWRAP, *binds, "--ro-bind", folder, "/data", *server, "/data")),
        Case(group, "spawner", warm.until_reply(warm.load("fs-readonly", root=folder))),
        Case(group, "supervisor run", reply(*run)),
        Case(lines, "plain", whole("/bin/true")),
        Case(lines, "bwrap", whole(*BWRAP, "/bin/true")),
        Case(lines, "python -c pass", whole(sys.executable, "-c", "pass")),
        Case(lines, "supervisor exec", whole(OURS, "exec", "-q", *accept, "--profile", "none", "--", "/bin/true")),
    ]


def measure(cases: list[Case], runs: int, pause: float) -> dict[str, dict[str, list[float]]]:
    """Seconds by group and case. The first round is not counted."""
    found: dict[str, dict[str, list[float]]] = {}
    for number in range(runs + 1):
        for case in cases:
            time.sleep(pause)
            took = case.run()
            if number:
                found.setdefault(case.group, {}).setdefault(case.name, []).append(took)
    return found


def table(found: dict[str, dict[str, list[float]]]) -> str:
    """Milliseconds and ratios, for people."""
    lines = []
    for group, cases in found.items():
        plain, bwrap = statistics.median(cases["plain"]), statistics.median(cases["bwrap"])
        lines.append(f"\n{group:52} {'p50 ms':>8} {'p95 ms':>8} {'/plain':>7} {'/bwrap':>7}")
        for name, taken in cases.items():
            middle = statistics.median(taken)
            late = sorted(taken)[round(0.95 * (len(taken) - 1))]
            ratios = f"{middle / plain:7.2f} {middle / bwrap:7.2f}"
            lines.append(f"  {name:50} {middle * 1000:8.2f} {late * 1000:8.2f} {ratios}")
    return "\n".join(lines)


def as_nobody(runs: int, pause: float) -> dict[str, dict[str, list[float]]]:
    """/bin/true as an ordinary user, in a child that gives root up; the interpreter must be open to all."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        if not os.access(sys.executable, os.X_OK):
            sys.executable = "/usr/bin/python3"
        answer = measure(true_cases(Warm(host.probe()), "nobody"), runs, pause)
        os.write(write, json.dumps(answer).encode())
        os._exit(0)
    os.close(write)
    with open(read, "rb") as file:
        text = file.read()
    os.waitpid(pid, 0)
    result: dict[str, dict[str, list[float]]] = json.loads(text or b"{}")
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What a sandbox costs at start.")
    parser.add_argument("--runs", type=int, default=40, help="rounds (default 40)")
    parser.add_argument("--pause", type=float, default=0.06, help="seconds before each run (default 0.06)")
    parser.add_argument("--only", choices=["true"], help="nothing but /bin/true")
    parser.add_argument("--json", metavar="FILE", help="write every single time, in seconds")
    options = parser.parse_args()
    root = os.geteuid() == 0
    facts = host.probe()
    nobody = as_nobody(options.runs, options.pause) if root else {}
    warm = Warm(facts)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as images:
        cases = true_cases(warm, "root" if root else "this user")
        cases += [] if options.only else other_cases(warm, folder)
        if root and not options.only:
            cases += image_cases(warm, folder, own_image.make(Path(images)), f"{images}/store")
        found = measure(cases, options.runs, options.pause) | nobody
        memory = warm.memory(warm.load("fs-readonly", root=folder))
    print(table(found))
    print("\nmemory, KiB")
    for name, sizes in memory.items():
        print(f"  {name:50} " + (", ".join(f"{k} {v}" for k, v in sizes.items()) or "not readable by this user"))
    if options.json:
        text = json.dumps({"seconds": found, "memory_kib": memory, "host": list(os.uname())}, indent=2)
        Path(options.json).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
