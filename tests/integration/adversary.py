"""What misbehaves in these tests: servers, launchers that take a layer of the kernel away, and their traces.

Runs as root. A program that runs inside carries a marker in its arguments, and everything that the command line
starts is a descendant of it: what survives is found by one or the other.
"""

from __future__ import annotations

import ctypes
import io
import json
import os
import re
import secrets
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path

from supervisor.cli.main import main
from tests.escape.arena import end

BINARY = str(Path(sys.executable).parent / "supervisor")
PYTHON = ("/usr/bin/python3", "-I", "-S", "-c")
MARKER = f"svtest-{secrets.token_hex(6)}"
SECONDS = 30.0

# argv: marker, then one word for each way to misbehave. It answers every request but the unanswerable ones.
SERVER = """
import json, os, signal, sys
_, marker, *ways = sys.argv
def say(data):
    os.write(1, data if isinstance(data, bytes) else json.dumps(data).encode() + b"\\n")
def stay():
    while True:
        signal.pause()
if "exit" in ways: sys.exit(3)
if "endless" in ways:
    while True: os.write(1, b"x" * 65536)
if "deaf" in ways:
    for number in set(range(1, 65)) - {signal.SIGCHLD}:
        try: signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError): pass
if "daemons" in ways:
    for _ in range(3):
        if os.fork() == 0:
            os.setsid()
            if os.fork(): os._exit(0)
            stay()
        os.wait()
if "silent" in ways: stay()
if "closed" in ways:
    os.close(1)
    stay()
if "garbage" in ways: say(b"hello\\x1b[31m, I am no JSON\\n" * 300)
if "flood" in ways:
    for _ in range(128): os.write(2, b"e" * 65536)
while line := sys.stdin.readline():
    request = json.loads(line)
    if not isinstance(request, dict) or "id" not in request: continue
    method = request.get("method")
    if method == "eat":
        held = []
        while True: held.append(b"x" * (1 << 20))
    if method == "quit": sys.exit(5)
    if method == "hang": continue
    say({"jsonrpc": "2.0", "id": request["id"], "result": {"method": method}})
if "deaf" in ways: stay()
"""


def server(*ways: str) -> list[str]:
    """The command of a server that misbehaves in these ways; outside of a sandbox it runs as well."""
    return [*PYTHON, SERVER, MARKER, *ways]


def program(code: str) -> list[str]:
    """A Python program by its text, with the marker in its arguments."""
    return [*PYTHON, code, MARKER]


def write_profile(folder: Path, name: str, body: str = "", *, extends: str = "none") -> Path:
    """A profile file of the test's own, that only its owner can write."""
    path = folder / f"{name}.toml"
    path.write_text(f'profile = 1\nname = "{name}"\nextends = "{extends}"\nsummary = "test"\n{body}')
    path.chmod(0o644)
    return path


def run(
    *argv: str | Path,
    cwd: Path | str = "/var/tmp",
    stdin: int | bytes = subprocess.DEVNULL,
    seconds: float = SECONDS,
) -> subprocess.CompletedProcess[str]:
    """The command line, to its end. Its output as text, whatever is in it."""
    data = stdin if isinstance(stdin, bytes) else None
    process = subprocess.Popen(
        [BINARY, *argv],
        stdin=subprocess.PIPE if isinstance(stdin, bytes) else stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=cwd,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(data, timeout=seconds)
    finally:
        end(process)
    return subprocess.CompletedProcess(
        process.args, process.returncode, out.decode(errors="replace"), err.decode(errors="replace")
    )


def assert_told(done: subprocess.CompletedProcess[str], status: int, *texts: str) -> None:
    """One message of ours with these texts, that status, and nothing else: no traceback, no output."""
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert done.stderr.count("supervisor: ") == 1, done.stderr
    for text in texts:
        assert re.search(text, done.stderr), f"{text!r} is not in {done.stderr!r}"


def assert_refused(status: int, *argv: str | Path, says: Sequence[str] = (), cwd: Path | str = "/var/tmp") -> None:
    """The command line refuses, without an account of a sandbox that it did not build."""
    assert_told(run(*argv, cwd=cwd), status, *says)


def explained(*argv: str | Path) -> subprocess.CompletedProcess[str]:
    """The command line in this process: for what plans or looks and starts nothing."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2)]
    status: object = None
    words = sys.argv
    try:
        sys.argv = ["supervisor", *(os.fsdecode(word) for word in argv)]
        with redirect_stdout(streams[0]), redirect_stderr(streams[1]):
            main()
    except SystemExit as ended:
        status = ended.code
    finally:
        sys.argv = words
    for stream in streams:
        stream.seek(0)
    return subprocess.CompletedProcess(argv, int(str(status or 0)), *(stream.read() for stream in streams))


@contextmanager
def started(*argv: str | Path, stderr: int = subprocess.PIPE) -> Iterator[subprocess.Popen[bytes]]:
    """The command line with pipes, ended whatever happens."""
    process = subprocess.Popen(
        [BINARY, *argv],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        cwd="/var/tmp",
        start_new_session=True,
    )
    try:
        yield process
    finally:
        end(process)


def send(process: subprocess.Popen[bytes], *lines: bytes) -> None:
    """Lines to its standard input."""
    assert process.stdin
    process.stdin.write(b"".join(line + b"\n" for line in lines))
    process.stdin.flush()


def receive(process: subprocess.Popen[bytes]) -> bytes:
    """One line of its standard output, or nothing at its end."""
    assert process.stdout
    return process.stdout.readline()


def stat_fields(pid: int) -> tuple[str, int] | None:
    """(state, parent) of a process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    state, parent = text.rpartition(") ")[2].split()[:2]
    return state, int(parent)


def below(pid: int) -> list[int]:
    """A process and all its descendants, parents first."""
    parents: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        fields = stat_fields(int(entry)) if entry.isdigit() else None
        if fields and fields[0] != "Z":
            parents.setdefault(fields[1], []).append(int(entry))
    found = [pid]
    for each in found:
        found += parents.get(each, [])
    return found


def command_of(pid: int) -> str:
    """The arguments of a process, joined."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
    return ""


def marked() -> list[int]:
    """The living processes with the marker in their arguments, except the command lines themselves."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and MARKER in command_of(int(entry)) and "/supervisor" not in command_of(int(entry)):
            found.append(int(entry))
    return found


class Watch:
    """Descriptors of processes, held while they are known to be the right ones: numbers are used again."""

    def __init__(self, pids: Sequence[int]) -> None:
        self.pids = list(pids)
        self.pidfds = {os.pidfd_open(pid): pid for pid in pids}

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self.pidfds:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
            os.close(fd)

    def reap(self, *, but: int) -> None:
        """Collect those that we adopted."""
        for pid in self.pids:
            if pid != but:
                with suppress(ChildProcessError):
                    os.waitpid(pid, 0)

    def assert_all_end(self, seconds: float) -> None:
        """Wait for the end of every one of them."""
        left = dict(self.pidfds)
        poll = select.poll()
        for fd in left:
            poll.register(fd, select.POLLIN)
        deadline = time.monotonic() + seconds
        while left:
            rest = deadline - time.monotonic()
            ended = poll.poll(max(0, rest) * 1000)
            assert ended, f"alive after {seconds} s: {[command_of(pid)[:80] for pid in left.values()]}"
            for fd, _ in ended:
                poll.unregister(fd)
                del left[fd]


@contextmanager
def adopting_orphans() -> Iterator[None]:
    """Be the init of what starts here: not every container has one that collects orphans."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    try:
        yield
    finally:
        libc.prctl(36, 0, 0, 0, 0)


def groups(spawner: int) -> list[str]:
    """The control groups that a spawner of that number made."""
    found = []
    for folder, names, _ in os.walk("/sys/fs/cgroup"):
        found += [f"{folder}/{name}" for name in names if name.startswith(f"supervisor-{spawner}-")]
    return found


def assert_groups_go(spawner: int, seconds: float) -> None:
    """Wait until they are removed: the kernel tells nobody when."""
    deadline = time.monotonic() + seconds
    while left := groups(spawner):
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.01)


class Processes:
    """The tree of one command in personal mode, by role."""

    def __init__(self, proxy: int) -> None:
        self.all = below(proxy)
        commands = {pid: command_of(pid) for pid in self.all}
        self.proxy = proxy
        self.monitor = next(pid for pid in self.all if "monitor.main" in commands[pid])
        spawners = [pid for pid in self.all if "sandbox.spawner" in commands[pid]]
        self.spawner, self.init = spawners
        # only for root: there is one where the kernel lets files be watched
        self.watcher = next((pid for pid in self.all if "touch.watch" in commands[pid]), 0)
        audit = [pid for pid in self.all if "supervisor.audit." in commands[pid]]
        ours = {proxy, self.monitor, *spawners, self.watcher, *audit}
        self.payloads = [pid for pid in self.all if pid not in ours]

    def role(self, name: str) -> int:
        """The number of the process with that role; `server` is the payload itself."""
        return {
            "proxy": self.proxy,
            "monitor": self.monitor,
            "spawner": self.spawner,
            "init": self.init,
            "watcher": self.watcher,
            "server": self.payloads[0],
        }[name]


class Daemon:
    """A daemon of root's in a folder of the test's own."""

    def __init__(self, folder: Path, config: str) -> None:
        self.folder = folder / "run"
        self.config = folder / "servers.toml"
        self.config.write_text(config)
        self.config.chmod(0o644)
        argv = [BINARY, "daemon", "--config", str(self.config), "--runtime-dir", str(self.folder)]
        self.process = subprocess.Popen(argv, stderr=subprocess.PIPE, cwd="/var/tmp", start_new_session=True)
        assert self.process.stderr
        line = self.process.stderr.readline()
        assert b"listening" in line, line + self.process.stderr.read()

    def inspect(self) -> dict[str, object]:
        """What the daemon says it runs."""
        done = run("admin", "inspect", "--runtime-dir", self.folder)
        assert done.returncode == 0, done.stderr
        found: dict[str, object] = json.loads(done.stdout)
        return found

    def spawner(self) -> int:
        """The pid of what forks its sandboxes."""
        return next(pid for pid in below(self.process.pid) if "sandbox.spawner" in command_of(pid))

    def until(self, count: int) -> None:
        """Wait until it has so many sessions."""
        deadline = time.monotonic() + 10
        while (seen := self.inspect())["total"] != count:
            assert time.monotonic() < deadline, seen

    def until_idle(self) -> None:
        """Wait until it has no session."""
        self.until(0)

    def close(self) -> str:
        """End it; what it said."""
        if self.process.poll() is None:
            self.process.terminate()
        _, err = self.process.communicate(timeout=10)
        return err.decode(errors="replace")


@contextmanager
def daemon(folder: Path, config: str) -> Iterator[Daemon]:
    """A running daemon, which must end without a complaint about itself and leave no socket."""
    host = Daemon(folder, config)
    try:
        yield host
        alive = host.process.poll() is None
        said = host.close()
        assert "Traceback" not in said, said
        assert not alive or host.process.returncode == 0, said
        assert not alive or list(host.folder.iterdir()) == []
    finally:
        end(host.process)
