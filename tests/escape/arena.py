"""The ground the escape tests stand on: two callers, their files, and the two ways to start a program.

Runs as root. Makes one ordinary user, folders for that user and for root, and starts programs outside the
sandbox (as a control) and inside it (through the command line). Everything made here is removed at the end,
and nothing that was there before is touched.
"""

from __future__ import annotations

import fcntl
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pydantic

CHECKOUT = Path(__file__).resolve().parents[2]
PYTHON = ("/usr/bin/python3", "-I", "-S")
MODES = ("root", "user")
MARKER = f"svtest-{secrets.token_hex(6)}"
BAIT = f"BAIT {MARKER}\n"
# Harmless to the host: whatever a control mounts or renames stays in namespaces of its own.
APART = ("/usr/bin/unshare", "--mount", "--uts", "--propagation", "private")


@dataclass(frozen=True)
class Plot:
    """What belongs to one caller. Only `folder` and `scope` are ever given to a sandbox."""

    mode: str
    uid: int
    gid: int
    base: Path

    @property
    def home(self) -> Path:
        return self.base / "home"

    @property
    def key(self) -> Path:
        return self.home / ".ssh" / "id_ed25519"

    @property
    def folder(self) -> Path:
        return self.home / "project" / "folder"

    @property
    def scope(self) -> Path:
        return self.home / "project" / "scope"

    @property
    def outside(self) -> Path:
        return self.home / "project" / "outside"

    def reset(self) -> None:
        """Everything as at the beginning, whatever the last program did to it."""
        for directory in (self.folder, self.scope, self.outside, self.home / "tmp"):
            make_mutable(directory)
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True)
        self.key.parent.mkdir(exist_ok=True, mode=0o700)
        self.key.write_text(BAIT)
        self.key.chmod(0o600)
        for name in ("hello.txt", *(f"victim-{number}" for number in range(20))):
            (self.folder / name).write_text("nothing secret\n")
        (self.outside / "secret.txt").write_text(BAIT)
        (self.outside / "target.txt").write_text("untouched\n")
        (self.scope / "own.txt").write_text("own\n")
        for directory in (self.folder, self.scope):
            (directory / "link").symlink_to(self.outside / "secret.txt")
            (directory / "target-link").symlink_to(self.outside / "target.txt")
            (directory / "outside-link").symlink_to(self.outside)
        for path in (self.base, *self.base.rglob("*")):
            os.chown(path, self.uid, self.gid, follow_symlinks=False)
        self.home.chmod(0o700)


@dataclass(frozen=True)
class Place:
    """Where a program runs: outside (`profile` is None) or in a sandbox, for which caller."""

    arena: Arena
    profile: str | None
    mode: str

    @property
    def plot(self) -> Plot:
        return self.arena.plots[self.mode]

    @property
    def folder(self) -> str:
        """The folder that may be read, under the name it has there."""
        return str(self.plot.folder) if self.profile is None else "/data"

    @property
    def scope(self) -> str:
        return str(self.plot.scope)

    @property
    def tmp(self) -> str:
        """Where a program may leave what it likes."""
        return str(self.plot.home / "tmp") if self.profile is None else "/tmp"


@dataclass(frozen=True)
class Companion:
    """A process of the host: its number, and the line with which it said that it is ready."""

    pid: int
    said: str


@dataclass
class Arena:
    """The whole ground. `stack` holds what must be undone at the end."""

    base: Path
    plots: dict[str, Plot]
    account: str
    stack: ExitStack
    network: str = ""
    gaps: dict[str, tuple[str, ...]] = field(default_factory=dict)
    commands: dict[str, tuple[str, ...]] = field(default_factory=dict)
    companions: dict[tuple[str, str], Companion] = field(default_factory=dict)
    verdicts: dict[tuple[str, str | None, str], dict[str, str]] = field(default_factory=dict)

    def environment(self, mode: str) -> dict[str, str]:
        """What the caller's shell would export, with one variable that nobody inside may see."""
        return {
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": str(self.plots[mode].home),
            # the audit log: of root and of the user
            "LOGS_DIRECTORY": str(self.logs(mode)),
            "XDG_STATE_HOME": str(self.logs(mode)),
            "LANG": "C.UTF-8",
            "SVTEST_TOKEN": MARKER,
        }

    def logs(self, mode: str) -> Path:
        """Where the caller's audit log is: in a folder that is not its home."""
        return self.base / f"logs-{mode}"

    def audit(self, mode: str) -> Path:
        """That log itself."""
        return self.logs(mode) / ("audit" if mode == "root" else "supervisor/audit")

    def command(self, profile: str, mode: str, argv: Sequence[str], *, options: Sequence[str] = ()) -> list[str]:
        """The command line that runs `argv` in the sandbox, with the caller's own folders as params."""
        plot = self.plots[mode]
        params = [] if profile in {"none", "net-allowlist"} else ["--param", f"root={plot.folder}"]
        if profile in {"fs-scoped", "ci-runner"}:
            params += ["--param", f"scope={plot.scope}"]
        head = [*self.commands[mode], "exec", "--profile", profile]
        return [*head, *params, *self.accept(mode), *options, "--", *argv]

    def accept(self, mode: str) -> tuple[str, ...]:
        """What this host cannot give that caller (an ordinary user without a cgroup: memory and CPU limits).

        Asked of the command line itself, and taken only if it is one of the limits: anything else missing
        stays missing, and the tests fail.
        """
        if mode not in self.gaps:
            refused = self.finish(
                self.start([*self.commands[mode], "exec", "--profile", "none", "--", "/usr/bin/true"], mode)
            )
            named = re.search(r"--accept-missing (\S+)", refused.stderr) if refused.returncode == 4 else None
            limits = named and all(name.startswith("limits.") for name in named[1].split(","))
            self.gaps[mode] = ("--accept-missing", named[1]) if named and limits else ()
        return self.gaps[mode]

    def start(
        self,
        argv: Sequence[str],
        mode: str,
        *,
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.PIPE,
        extra_env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        new_session: bool = True,
    ) -> subprocess.Popen[bytes]:
        """Start a program (the control, or the command line) as the caller of that mode."""
        plot = self.plots[mode]
        return subprocess.Popen(
            argv,
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            env=self.environment(mode) | dict(extra_env or {}),
            cwd=plot.home / "project",
            pass_fds=pass_fds,
            start_new_session=new_session,
            user=None if mode == "root" else plot.uid,
            group=None if mode == "root" else plot.gid,
            extra_groups=None if mode == "root" else [],
        )

    def finish(
        self, process: subprocess.Popen[bytes], *, text: str = "", seconds: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Feed it, wait for its end, and leave nothing of its session behind."""
        try:
            out, err = process.communicate(text.encode() if text else None, timeout=seconds)
        finally:
            end(process)
        said, complained = (stream.decode(errors="replace") for stream in (out or b"", err))
        return subprocess.CompletedProcess(process.args, process.returncode, said, complained)

    def within(self, mode: str) -> tuple[str, ...]:
        """What starts a program as that caller in the network namespace of the tests."""
        plot = self.plots[mode]
        enter = ("/usr/bin/nsenter", f"--net={self.network}", "--")
        become = ("setpriv", f"--reuid={plot.uid}", f"--regid={plot.gid}", "--clear-groups", "--")
        return enter if mode == "root" else (*enter, *become)

    def outside(
        self, argv: Sequence[str], mode: str, *, text: str = "", networked: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """The control: the same program as the same caller, with everything that caller has."""
        prefix = APART if mode == "root" else ()
        return self.feed([*prefix, *argv], mode, text, networked)

    def inside(
        self,
        profile: str,
        mode: str,
        argv: Sequence[str],
        *,
        text: str = "",
        options: Sequence[str] = (),
        networked: bool = False,
    ) -> subprocess.CompletedProcess[str]:
        """The same program in a sandbox that this caller started."""
        return self.feed(self.command(profile, mode, argv, options=options), mode, text, networked)

    def feed(self, argv: Sequence[str], mode: str, text: str, networked: bool) -> subprocess.CompletedProcess[str]:
        if networked:
            home = self.environment(mode)
            process = self.start([*self.within(mode), *argv], "root", stdin=subprocess.PIPE, extra_env=home)
        else:
            process = self.start(argv, mode, stdin=subprocess.PIPE)
        return self.finish(process, text=text)

    def compile(self, name: str, source: str) -> Path:
        """A static C program that every caller may execute."""
        binary = self.base / "bin" / name
        if not binary.exists():
            command = ["gcc", "-O1", "-static", "-Wall", "-x", "c", "-o", str(binary), "-"]
            subprocess.run(command, input=source, text=True, check=True, timeout=60)
        return binary

    def companion(self, name: str, argv: Sequence[str], mode: str) -> Companion:
        """A process of the host that lives until the end of the tests; ready once it wrote one line.

        Its standard input stays open until then, so it can wait on that and end with the tests.
        """
        key = (name, mode)
        if key not in self.companions:
            process = self.start(argv, mode, stdin=subprocess.PIPE)
            self.stack.callback(dismiss, process)
            assert process.stdout
            said = process.stdout.readline().decode().rstrip("\n")
            assert process.poll() is None, f"{argv} did not start"
            self.companions[key] = Companion(process.pid, said)
        return self.companions[key]


def dismiss(process: subprocess.Popen[bytes]) -> None:
    """The end of a companion's input, time to clean up after itself, and then its end."""
    assert process.stdin
    process.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(5)
    end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a program and its process group, and collect it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()
    process.wait(10)
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream and not stream.closed:
            try:
                stream.close()
            except BrokenPipeError:
                continue


def make_mutable(directory: Path) -> None:
    """Take back the flags that keep even root from removing a file."""
    subprocess.run(["chattr", "-R", "-ia", directory], capture_output=True, check=False, timeout=20)


def permitted(path: Path | str, plot: Plot, right: str) -> bool:
    """Whether that user gets at a path, with every directory above it."""
    test = ["test", right, str(path)]
    return subprocess.run(test, user=plot.uid, group=plot.gid, extra_groups=[], check=False).returncode == 0


def launcher(base: Path, plot: Plot) -> tuple[str, ...]:
    """How the ordinary user starts the command line.

    The installed script when that user can execute it; otherwise (an interpreter that lies in root's home)
    a virtual environment of the system's interpreter over the same packages, copied if need be.
    """
    script = Path(sys.executable).parent / "supervisor"
    needed = ((script, "-x"), (Path(sys.executable).resolve(), "-x"), (CHECKOUT / "supervisor", "-r"))
    if all(permitted(path, plot, right) for path, right in needed):
        return (str(script),)
    packages, checkout = Path(str(pydantic.__file__)).parents[1], CHECKOUT
    if not (permitted(packages, plot, "-r") and permitted(CHECKOUT / "supervisor", plot, "-r")):
        shutil.copytree(packages, base / "packages", symlinks=True)
        for part in ("supervisor", "profiles", "images"):
            shutil.copytree(CHECKOUT / part, base / "checkout" / part)
        packages, checkout = base / "packages", base / "checkout"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    own = base / "venv" / "lib" / version / "site-packages"
    own.mkdir(parents=True)
    (own / "svtest.pth").write_text(f"{checkout}\n{packages}\n")
    (base / "venv" / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    (base / "venv" / "bin").mkdir()
    (base / "venv" / "bin" / "python").symlink_to(f"/usr/bin/{version}")
    target = base / "venv" / "bin" / "supervisor"
    entry = "import sys\nfrom supervisor.cli.main import main\nsys.exit(main())\n"
    target.write_text(f"#!{base}/venv/bin/python\n{entry}")
    target.chmod(0o755)
    return (str(target),)


def account(*argv: str) -> None:
    """Change the accounts of this host, one process of the tests at a time: the tools do not wait."""
    folder = os.open("/etc", os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        subprocess.run(argv, check=True, capture_output=True, timeout=20)
    finally:
        os.close(folder)


def make_arena(stack: ExitStack) -> Arena:
    """Build the ground; `stack` takes it down."""
    base = Path(tempfile.mkdtemp(prefix="svtest-", dir="/var/tmp"))
    stack.callback(shutil.rmtree, base)
    # a control may have left an immutable file
    stack.callback(make_mutable, base)
    base.chmod(0o755)
    (base / "bin").mkdir()
    name = base.name.lower().replace("_", "x")
    home = base / "user" / "home"
    account("useradd", "-M", "-d", str(home), "-s", "/bin/sh", name)
    stack.callback(account, "userdel", "--force", name)
    entry = pwd.getpwnam(name)
    plots = {
        "root": Plot("root", 0, 0, base / "root"),
        "user": Plot("user", entry.pw_uid, entry.pw_gid, base / "user"),
    }
    for plot in plots.values():
        plot.reset()
    arena = Arena(base, plots, name, stack)
    for plot in plots.values():
        arena.logs(plot.mode).mkdir(mode=0o755)
        os.chown(arena.logs(plot.mode), plot.uid, plot.gid)
    arena.commands["root"] = (str(Path(sys.executable).parent / "supervisor"),)
    arena.commands["user"] = launcher(base, plots["user"])
    return arena
