"""`profile learn`: a command in the sandbox of a bound, watched from outside, and the profile that it needed.

Runs as whoever types it, with that user's rights until the profile is written; the command's bytes pass through a
child that has given up all of them, as in `exec`. strace is attached to the spawner before anything is planned, so
that it sees a sandbox from its first instruction; nothing that runs as root knows of it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NoReturn

from supervisor.cli import entry, personal, start
from supervisor.cli.sampler import Sampler
from supervisor.errors import FAILED, ConfigError, SupervisorError
from supervisor.model import Plan
from supervisor.profile import load, offers, plan, toml
from supervisor.profile.admits import Admission
from supervisor.profile.entry import ServerEntry
from supervisor.profile.learned import Lesson
from supervisor.profile.observed import Watch
from supervisor.profile.strace import Ended, Reader
from supervisor.proxy import pump
from supervisor.runtimes import native
from supervisor.shown import printable

_SECONDS = 20
_NAME = "abcdefghijklmnopqrstuvwxyz0123456789-"


class Attached:
    """strace over the spawner, and what it writes."""

    def __init__(self) -> None:
        self.spawner = 0
        self.strace: subprocess.Popen[bytes] | None = None
        self.lines = -1

    def attach(self, monitor: int) -> None:
        """Follow the monitor's spawner and everything it forks; SupervisorError when that is not possible."""
        self.spawner = _wait(lambda: next(_children(monitor), 0), "the spawner did not start")
        self.lines, there = os.pipe()
        argv = ["strace", "-f", "-qq", "-y", "-X", "raw", "-s", "64", "-o", f"/proc/self/fd/{there}"]
        self.strace = subprocess.Popen(
            [*argv, "-p", str(self.spawner)],
            pass_fds=[there],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        os.close(there)
        _wait(self._holds, "strace did not attach")

    def _holds(self) -> int:
        if self.strace and self.strace.poll() is not None:
            said = self.strace.stderr.read().decode(errors="replace").strip() if self.strace.stderr else ""
            hint = "see /proc/sys/kernel/yama/ptrace_scope"
            raise SupervisorError(f"strace cannot watch: {printable(said)}; {hint}")
        with open(f"/proc/{self.spawner}/status", encoding="ascii", errors="replace") as file:
            return int(next(line for line in file if line.startswith("TracerPid:")).split()[1])

    def end(self) -> None:
        """Its end: all that it follows has ended."""
        if self.strace:
            os.waitpid(self.strace.pid, 0)
            self.strace.returncode = 0


def _wait(ready: Callable[[], int], problem: str) -> int:
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        if found := ready():
            return found
        # no event tells of either
        time.sleep(0.002)
    raise SupervisorError(problem)


def _parent(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rsplit(b") ", 1)[1].split()[1])
    except (OSError, IndexError):
        return 0


def _children(pid: int) -> Iterator[int]:
    for each in os.listdir("/proc"):
        if each.isdigit() and _parent(int(each)) == pid:
            yield int(each)


def learn(options: argparse.Namespace, command: list[str]) -> int:
    """Run, watch, write; the command's own exit status."""
    if not shutil.which("strace"):
        raise SupervisorError("strace is not here, and nothing can be watched without it: apt-get install strace")
    if options.runtime not in (None, "auto", "native"):
        raise ConfigError(f"profile learn watches native sandboxes, and none of {options.runtime}'s")
    output, name = _output(options.output)
    options.profile = options.profile or "ci-runner"
    built = entry.build(options, command) | {"runtime": "native"}
    written = toml.made(built, ServerEntry)
    chain = load.load(written.profile)
    ready = _planned(chain, written)
    native.check(ready, offers.probe(), written.accept_missing)
    attached = Attached()
    tree = personal.start(built, before=attached.attach)
    heard, tells = os.pipe()
    # a client may kill what it has started: what was learned until then is written all the same
    watcher = os.fork()
    if watcher == 0:
        os.close(tells)
        tree.monitor.close()
        _learn(options, attached, Lesson(chain, ready, written, name=name, output=output), heard)
    os.close(heard)
    os.close(attached.lines)
    return _serve(options, tree, attached, watcher, tells)


def _planned(chain: load.Chain, written: ServerEntry) -> Plan:
    if not written.image:
        return plan.plan(chain, written)
    from supervisor.registry import images

    found = images.find(written)
    ready = plan.plan(chain, written, found.image if found else None)
    return ready.model_copy(update={"gaps": ready.gaps | offers.no_image()})


def _output(path: str) -> tuple[str, str]:
    """(where to write, the profile's name); ConfigError when it cannot be written so."""
    stem, kind = os.path.splitext(os.path.basename(path))
    if kind != ".toml" or not stem or stem[0] not in _NAME[:26] or set(stem) - set(_NAME) or len(stem) > 63:
        raise ConfigError(f'--output "{path}": a profile is called like its file: NAME.toml, of a-z, 0-9 and "-"')
    if os.path.lexists(path):
        raise ConfigError(f"--output {path}: it is there already; take it away, or name another")
    folder = os.path.dirname(os.path.abspath(path))
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"--output {path}: {folder} cannot be written")
    if "/" not in path:
        path = f"./{path}"
    return path, stem


def _serve(options: argparse.Namespace, tree: personal.Tree, attached: Attached, watcher: int, tells: int) -> int:
    """Carry the command's bytes, with no power of its own, and wait for whoever writes the profile."""
    os.set_blocking(tells, False)

    def refused(text: str) -> None:
        said = printable(text)
        pump.note(said)
        with contextlib.suppress(OSError):
            os.write(tells, f"{said[:1000]}\n".encode())

    try:
        status = start.execute(options, tree, refused)
    finally:
        os.close(tells)
        failed = os.waitpid(watcher, 0)[1]
        attached.end()
    return FAILED if failed else status


def _learn(options: argparse.Namespace, attached: Attached, lesson: Lesson, heard: int) -> NoReturn:
    """The child that watches and writes, out of reach of the terminal's signals."""
    status = FAILED
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1):
            os.dup2(null, number)
        sampler = Sampler()
        watch = _watch(attached, sampler, lesson.chain, lesson.plan)
        lesson = replace(lesson, observed=watch.observed, peaks=sampler.end(), told=_told(heard))
        if watch.observed.ran:
            _write(lesson.output, lesson.text(_kind))
            if not options.quiet:
                pump.note(f"what it needed is in {lesson.output}: read it before you use it")
        else:
            pump.note("the command was not started, so nothing was learned")
        status = 0
    except (SupervisorError, OSError) as error:
        pump.note(printable(str(error)))
    finally:
        os._exit(status)


def _watch(attached: Attached, sampler: Sampler, chain: load.Chain, ready: Plan) -> Watch:
    """Take everything that strace writes, until it has nothing to follow any more."""
    admission = Admission(load.load("none").profile.seccomp.groups, chain.profile.seccomp.groups)

    def ours(pid: int) -> bool:
        if pid == attached.spawner:
            return True
        if _parent(pid) == attached.spawner:
            sampler.begin(pid)
            return True
        return False

    watch, reader = Watch(ready.spec.cwd, admission.of, ours), Reader()
    sampler.live = watch.live
    with open(attached.lines, encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            seen = reader.read(line.rstrip("\n"))
            if isinstance(seen, Ended):
                sampler.look()
            if seen:
                watch.take(seen)
    return watch


def _told(fd: int) -> list[str]:
    with open(fd, encoding="utf-8", errors="replace") as file:
        return file.read(1 << 20).splitlines()


def _kind(path: str) -> str:
    """What is at a path on this host."""
    try:
        return "folder" if os.path.isdir(path) else "file" if os.path.lexists(path) else ""
    except ValueError:
        return ""


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    with open(fd, "w", encoding="utf-8") as file:
        file.write(text)
