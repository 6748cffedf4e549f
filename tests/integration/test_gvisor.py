"""Sessions of the command line under gVisor: chosen, given secrets, reaching out, killed; what they do not see.

What it holds of a profile is asked in test_runtimes, as of every runtime.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from supervisor.errors import LaunchFailed
from supervisor.profile import load
from supervisor.profile.entry import ServerEntry
from supervisor.registry import images
from supervisor.registry.planner import Planning
from supervisor.runtimes import bundle, gate, sentry
from supervisor.runtimes.docker import Docker
from supervisor.runtimes.podman import Podman
from tests.escape.arena import PYTHON as OUTSIDE
from tests.escape.arena import Arena
from tests.escape.arena import Place as Ground
from tests.escape.batch import prepare
from tests.integration import engines, imaging, remains
from tests.integration.adversary import write_profile
from tests.integration.caller import Caller, said_ready
from tests.integration.engine_image import image
from tests.integration.sessions import Bench, encoded
from tests.integration.test_engines import adopted
from tests.integration.test_secrets import descendants, of
from tests.unit.oci import making

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="users of its own: root's alone"),
    pytest.mark.skipif(not bundle.there(), reason="runsc is not installed"),
    pytest.mark.xdist_group("engines"),
]
REFERENCE = f"{making.NAME}@{image().digest}"
SECONDS = 30
PYTHON = "/usr/bin/python3"


@dataclass
class Place:
    """An image in a store of root's: signed, and added by its own command line."""

    bench: imaging.Bench

    @property
    def caller(self) -> Caller:
        return self.bench.caller

    def argv(self, *tail: str | Path, imaged: bool = False, profile: str = "none") -> list[str]:
        where = ("--store", self.bench.store, "--image", REFERENCE) if imaged else ()
        return self.caller.command("exec", "--runtime", "gvisor", "--profile", profile, *where, *tail)

    def runs(self, script: str, *options: str | Path, imaged: bool = False, profile: str = "none") -> str:
        """A Python program there: what it prints."""
        program = ("-c", f'exec python3 -I -S -c "{script}"') if imaged else (PYTHON, "-I", "-S", "-c", script)
        done = self.caller.finish(self.argv(*options, "--", *program, imaged=imaged, profile=profile))
        assert done.returncode == 0, done.stderr
        return done.stdout

    def session(
        self, *options: str | Path, imaged: bool = False
    ) -> AbstractContextManager[subprocess.Popen[bytes]]:
        """One that has said "ready", and waits."""
        program = ("-c", "echo ready; read line") if imaged else ("/bin/sh", "-c", "echo ready; read line")
        argv = self.argv(*options, "--", *program, imaged=imaged)
        return said_ready(self.caller, argv)


@pytest.fixture(scope="module")
def place(arena: Arena) -> Place:
    bench = imaging.Bench(Caller(arena, "root"), arena.base / "gvisor")
    bench.caller.reset()
    bench.folder.mkdir()
    imaging.signed_layout(bench, image(), making.key())
    assert bench.image("add", f"oci:{bench.folder}/layout:1.0", "--as", making.NAME).returncode == 0
    return Place(bench)


@pytest.mark.parametrize("imaged", [False, True], ids=["host's /usr", "image"])
def test_the_command_line_starts_it_and_leaves_nothing(place: Place, imaged: bool) -> None:
    with remains.nothing_left(place.caller):
        head = ("-c",) if imaged else ("/bin/sh", "-c")
        argv = place.argv("--", *head, "read line; echo got $line; exit 3", imaged=imaged)
        process = place.caller.process(argv, stdin=subprocess.PIPE)
        out, errors = process.communicate(b"it\n", SECONDS)
        assert (out, process.returncode) == (b"got it\n", 3), errors
        assert b", in gvisor\n" in errors


def test_nothing_of_the_host_s_kernel_is_seen(place: Place) -> None:
    script = """import os
print(os.uname().release)
print(sorted(each for each in os.listdir('/proc') if each.isdigit()))
print(sorted({os.path.basename(each) for each in os.listdir('/sys/class/net')}))
print(sum(os.path.exists(each) for each in ('/proc/kcore', '/proc/kallsyms', '/proc/config.gz', '/proc/modules')))
print(open('/proc/mounts').read())"""
    release, pids, devices, files, mounts = place.runs(script).split("\n", 4)
    assert release != os.uname().release
    assert pids == "['1', '2']"
    assert devices == "['lo']"
    assert files == "0"
    assert "ext4" not in mounts
    assert "squashfs" not in mounts
    # the control: on the host it would be seen
    assert os.path.exists("/proc/kallsyms")


# What programs find there that natively they do not: all of it is the sentry's own, the same on every host.
SENTRY_S = {
    "read_more_of_proc_than_its_own": "sentry-meminfo",
    "read_the_boot_parameters": "gvisor",
    "read_the_load": "0.00 0.00 0.00",
    "find_backing_files_in_the_mounts": "devpts",
    "learn_what_the_host_mounts": "/sys",
}


@pytest.mark.parametrize("boundary", ["files", "information", "kernel_entry", "network"])
def test_hostile_programs_cross_no_boundary(arena: Arena, boundary: str) -> None:
    # that they would outside is asked by their own tests
    batch = importlib.import_module(f"tests.escape.test_{boundary}").BATCH
    ground = Ground(arena, "none", "root")
    text = prepare(batch, ground)
    argv = arena.command("none", "root", [*OUTSIDE, "-"], options=("--runtime", "gvisor"))
    done = arena.feed(argv, "root", text, batch.networked)
    said = json.loads(done.stdout.splitlines()[-1])
    assert set(said) == set(batch.chosen(ground)), done.stderr
    crossed = {name: each for name, each in said.items() if not each.startswith("HELD")}
    assert not [each for name, each in crossed.items() if SENTRY_S.get(name, "\0") not in each], crossed
    assert batch.judge(ground) == {}


def test_it_is_the_profile_s_filter_that_answers_inside(place: Place) -> None:
    script = """import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
for call in (9, 186, 155, 250):  # a map, who am I, pivot_root, keyctl
    libc.syscall(call, 0, 4096, 1, 0x22, -1, 0)
    print(os.strerror(ctypes.get_errno()) if ctypes.get_errno() else 'done')
    ctypes.set_errno(0)"""
    refused = "Operation not permitted"
    assert place.runs(script).splitlines() == ["done", "done", refused, refused]


def test_only_the_hosts_that_it_may_reach_have_a_name_there(place: Place) -> None:
    script = """import socket
for name in ('yes.example', 'no.example'):
    try: print(socket.gethostbyname(name))
    except OSError: print('none')
sock = socket.socket(); sock.settimeout(2)
try: sock.connect(('10.0.0.1', 80))
except OSError as error: print(error.strerror)"""
    out = place.runs(script, "--allow", "yes.example:443", profile="net-allowlist")
    found, other, elsewhere = out.splitlines()
    assert found.startswith(("198.18.", "198.19."))
    assert other == "none"
    assert elsewhere == "Network is unreachable"


def test_secrets_are_files_and_variables_of_its_own_and_nowhere_else(place: Place) -> None:
    values = {name: f"canary-{name}-{os.urandom(12).hex()}" for name in ("file", "env")}
    for name, value in values.items():
        place.bench.write(name, f"{value}\n")
    given = [
        f"--secret={'file/KEY' if name == 'file' else 'TOKEN'}=file:{place.bench.folder}/{name}" for name in values
    ]
    script = """import os
print(open('/run/secrets/KEY').read().strip())
print(os.environ['TOKEN'])
try: open('/run/secrets/KEY', 'a')
except OSError as error: print(error.strerror)"""
    out = place.runs(script, *given).splitlines()
    assert out[:2] == [values["file"], values["env"]]
    assert out[2] in ("Read-only file system", "Permission denied")
    with place.session(*given) as process:
        said = b"".join(of(pid, file) for pid in descendants(process.pid) for file in ("cmdline", "environ"))
        roots = [Path(f"/proc/{pid}/root/bundle/config.json") for pid in descendants(process.pid)]
        told = b"".join(path.read_bytes() for path in roots if path.exists())
        assert b'"hostname"' in told, "the control: what runsc is told is found"
        assert not [value for value in values.values() if value.encode() in said + told]


def test_a_folder_and_a_file_of_somebody_s_are_seen_as_they_are_now(place: Place) -> None:
    folder = place.bench.folder / "shown"
    folder.mkdir()
    for name in ("inside", "alone"):
        place.bench.write(name, "before\n", 0o600)
    (place.bench.folder / "inside").rename(folder / "text")
    alone = place.bench.folder / "alone"
    script = f"""import sys
for line in sys.stdin:
    print(open('{folder}/text').read() + open('{alone}').read(), end='', flush=True)
for path in ('{folder}/text', '{alone}', '{folder}/more'):
    try: open(path, 'a')
    except OSError as error: print(error.strerror)"""
    argv = place.argv("--ro", folder, "--ro", alone, "--", PYTHON, "-I", "-S", "-c", script)
    process = place.caller.process(argv, stdin=subprocess.PIPE)
    assert process.stdin
    assert process.stdout
    for text in ("before", "after"):
        process.stdin.write(b"look\n")
        process.stdin.flush()
        assert [process.stdout.readline(), process.stdout.readline()] == [f"{text}\n".encode()] * 2
        (folder / "text").write_text("after\n")
        alone.write_text("after\n")
    refused = process.communicate(timeout=SECONDS)[0].decode().splitlines()
    assert len(refused) == 3
    assert set(refused) <= {"Read-only file system", "Permission denied"}


def test_whoever_is_killed_leaves_nothing(place: Place) -> None:
    before = remains.descendants()
    for role in ("proxy", "monitor", "spawner", "init", "runsc", "runsc-gofer", "runsc-sandbox"):
        # mounts and loop devices too
        with remains.nothing_left(place.caller, patience=SECONDS), place.session(imaged=True) as process:
            pids = roles(process.pid)
            inside = [Path(f"/proc/{pid}") for pid in descendants(pids["init"])]
            assert len(inside) >= 3
            os.kill(pids[role], signal.SIGKILL)
            assert process.wait(SECONDS) != 0, role
            adopted(before)
            assert not [path for path in inside if path.exists()], role


def roles(pid: int) -> dict[str, int]:
    """The processes of one command by what they are: whoever was typed is the proxy."""
    found = {"proxy": pid}
    for each in descendants(pid):
        line, name = of(each, "cmdline"), of(each, "cmdline").split(b"\0")[0].decode()
        parent = int(of(each, "stat").decode().rsplit(") ", 1)[1].split()[1])
        if name == bundle.PROGRAM:
            found |= {"runsc": each, "init": parent}
        elif name.startswith("runsc-"):
            found.setdefault(name, each)
        elif b"supervisor.runtimes.gvisor" in line:
            found.setdefault("spawner", each)
            found.setdefault("monitor", parent)
    return found


def test_a_process_that_is_not_as_gvisor_s_should_be_is_told_by_what_it_lacks(place: Place) -> None:
    argv = ["runsc-sandbox", "60"]
    with subprocess.Popen(argv, executable="/usr/bin/sleep") as made:
        try:
            deadline = time.monotonic() + SECONDS
            while not of(made.pid, "cmdline").startswith(b"runsc-sandbox") and time.monotonic() < deadline:
                time.sleep(0.01)
            wrong = sentry.differences(os.getpid(), reaches=False)
        finally:
            made.kill()
    for each in (
        "Seccomp is 0",
        "Uid is 0",
        "NoNewPrivs is not set",
        "the user namespace",
        "capabilities",
        "mount /",
    ):
        assert any(line.startswith("runsc-sandbox: ") and each in line for line in wrong), (each, wrong)
    assert "runsc-gofer is not there" in wrong


def test_what_it_cannot_hold_is_refused_by_name(place: Place) -> None:
    profile = write_profile(place.bench.folder, "needed", '[audit]\nfiles = "required"\n')
    folder = place.caller.plot.folder
    for options, said in (
        (("--profile", profile), "file-audit: what is opened through gvisor again"),
        (("--profile", "none", "--rw", folder), "what is written through gvisor is not counted on the way"),
    ):
        argv = place.caller.command("exec", "--runtime", "gvisor", *options, "--", "/bin/echo", "it runs")
        done = place.caller.finish(argv)
        assert (done.returncode, done.stdout) == (4, ""), done.stderr
        assert said in done.stderr
        assert "the gvisor runtime cannot enforce this profile" in done.stderr


def test_a_filter_that_the_guest_s_kernel_does_not_take_starts_nothing() -> None:
    bench = Bench("gvisor", None, ("", "", ()))
    try:
        spec = bench.spec("print('it has run')")
        # an instruction that there is not
        spoiled = spec.seccomp.model_copy(update={"program": encoded(b"\xff" * 8)})
        try:
            out, _, code, _ = bench.result(spec.model_copy(update={"seccomp": spoiled}))
        except LaunchFailed:
            out, code = b"", 122  # it had ended before it was looked at
        assert (out, code) == (b"", 122)
        assert gate.FAILED[122] == "load its system call filter"
    finally:
        bench.close()


@pytest.mark.parametrize("name", ["podman", "docker"])
def test_an_engine_that_starts_containers_with_runsc_is_refused_by_name(
    place: Place, arena: Arena, name: str
) -> None:
    starts = {
        "podman": lambda: engines.podman(arena, Podman, "runsc"),
        "docker": lambda: engines.docker(arena, Docker, "runsc"),
    }
    where = ("--store", place.bench.store, "--image", REFERENCE, "--runtime", name)
    with starts[name]() as engine:
        argv = place.caller.command(
            "exec", "--profile", "none", *where, "--engine", engine.socket, "--", "-c", "true"
        )
        done = place.caller.finish(argv)
        assert engine.swept() == []
    assert (done.returncode, done.stdout) == (4, ""), done.stderr
    assert f"runtime: this {name} starts containers with runsc" in done.stderr


def test_a_runsc_that_does_not_start_is_told(place: Place) -> None:
    chosen = ("/usr/bin/unshare", "-m", "sh", "-c", f'mount --bind /bin/false {bundle.RUNSC}; exec "$@"', "sh")
    done = place.caller.finish([*chosen, *place.argv("--", "/bin/echo", "it runs")])
    assert (done.returncode, done.stdout) == (1, "")
    assert "could not start the sandbox: execute /runsc" in done.stderr


def test_too_little_memory_for_a_sentry_is_told_by_the_limit_s_name(place: Place) -> None:
    profile = write_profile(place.bench.folder, "small", '[limits]\nmemory = "12M"\n')
    with remains.nothing_left(place.caller):
        done = place.caller.finish(place.argv("--", "/bin/echo", "it runs", profile=str(profile)))
    assert (done.returncode, done.stdout) == (1, "")
    assert "start the sentry of gVisor" in done.stderr
    assert "limits.memory is too small for the sandbox itself" in done.stderr


def test_an_ordinary_user_is_told_that_it_is_root_s(arena: Arena) -> None:
    caller = Caller(arena, "user")
    caller.reset()
    options = ("--runtime", "gvisor", "--profile", "none")
    done = caller.finish(caller.command("exec", *options, *caller.start_options(), "--", "/bin/true"))
    assert done.returncode == 4
    assert "gvisor needs users of its own, which root alone has" in done.stderr


def test_auto_takes_gvisor_after_the_native_runtime_and_before_engines(place: Place) -> None:
    entry = ServerEntry(
        name="any",
        profile="none",
        image=REFERENCE,
        store=str(place.bench.store),
        engine=str(place.bench.folder),
        command=("-c", "true"),
        origin="test",
    )
    planning = Planning(images.find)
    made, others = planning.plan(load.load("none"), entry)
    for fd in planning.sealed.values():
        os.close(fd)
    order = [each.spec.runtime for each in (made, *others)]
    assert order == ["native", "gvisor", "podman", "docker"]
    # what a guest may have is counted by its kernel; the limit outside is of what that costs
    pids, outside = made.spec.limits.pids, others[0].spec.limits.pids
    assert others[0].spec.rlimits["NPROC"] == pids < outside
