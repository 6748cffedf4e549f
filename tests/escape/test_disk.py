"""Disk: whatever way a guest takes to fill the disk under a folder that it may write, it is ended soon after its
bound, and the client is told which.

Each program takes several times what its profile allows; outside it gets it. Inside it goes at a pace at which
"soon" can be told from "in the end".
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.escape.arena import PYTHON, Arena, Plot

MIB = 1 << 20
BOUND, FILES = 12 * MIB, 500
PROFILE = f"""profile = 1
name = "bounded"
extends = "fs-scoped"
summary = "test"
[limits]
file_size = "{{}}"
disk = "{BOUND >> 20}M"
disk_files = {{}}
"""

SHARED = f"""
import array, mmap, os, signal, socket, sys, time
os.chdir(sys.argv[1])
pause = float(sys.argv[2])
PIECE, block = {MIB}, b"x" * {MIB}
def pieces():
    for number in range({10 * BOUND // MIB}):
        yield number
        time.sleep(pause)
def items():
    for number in range({6 * FILES}):
        yield number
        if number % 50 == 0: time.sleep(pause)
def fill(name):
    with open(name, "wb", buffering=0) as file: file.write(block)
def opened(name, flags=0):
    return os.open(name, os.O_RDWR | os.O_CREAT | flags, 0o644)
def hold():
    for n in pieces():
        fd = opened("fill")
        os.write(fd, block)
        os.unlink("fill")
"""

BYTES = {
    "many files": "for n in pieces(): fill(f'fill-{n}')",
    "a file that was there": """
with open("own.txt", "ab", buffering=0) as file:
    for n in pieces(): file.write(block)""",
    "a mapped file": f"""
fd = opened("fill")
os.ftruncate(fd, {10 * BOUND})
area = mmap.mmap(fd, {10 * BOUND})
for n in pieces(): area[n * PIECE:(n + 1) * PIECE] = block""",
    "past the page cache": """
fd, area = opened("fill", os.O_DIRECT), mmap.mmap(-1, PIECE)
area.write(block)
for n in pieces(): os.write(fd, area)""",
    "reserved room": """
fd = opened("fill")
for n in pieces(): os.posix_fallocate(fd, n * PIECE, PIECE)""",
    "children that nobody waits for": """
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for n in pieces():
    if os.fork() == 0:
        fill(f"fill-{n}")
        os._exit(0)""",
    "daemons": """
for n in pieces():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0: fill(f"fill-{n}")
        os._exit(0)
    os.wait()""",
    "files without a name": "hold()",
    "mapped files without a name": """
held = []
for n in pieces():
    fd = opened("fill")
    os.write(fd, block)
    held.append(mmap.mmap(fd, 4096))
    os.unlink("fill")
    os.close(fd)""",
    "files on their way through a socket": """
held = []
for n in pieces():
    if n % 8 == 0: held.append(socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    fd = opened("fill")
    os.write(fd, block)
    os.unlink("fill")
    held[-1][0].sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
    os.close(fd)""",
    "a folder that nobody may read": """
os.mkdir("locked")
folder = os.open("locked", os.O_PATH)
for n in pieces():
    os.chmod("locked", 0o300)
    fd = os.open(f"fill-{n}", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=folder)
    os.chmod("locked", 0)
    os.write(fd, block)
    os.close(fd)""",
    "files of a process without a first thread": """
import ctypes, threading
def cross():
    hold()
    os.write(1, b"CROSSED")
    os._exit(0)
threading.Thread(target=cross).start()
ctypes.CDLL(None).syscall(60, 0)""",
    "files of a process that is not dumpable": """
import ctypes
ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
hold()""",
    "files on their way through a socket that is itself on its way": """
def send(through, fd):
    through.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
outer, inner = (socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2))
send(outer[0], inner[1].fileno())
inner[1].close()
for n in pieces():
    fd = opened("fill")
    os.write(fd, block)
    os.unlink("fill")
    send(inner[0], fd)
    os.close(fd)
inner[0].close()""",
    # 264 bytes of a folder each; a file has at most 65,000 names
    "hard links": f"""
os.mkdir("links")
for n in range({3 * BOUND // 264}):
    if n % 50000 == 0: os.close(opened(f"file-{{n}}"))
    os.link(f"file-{{n // 50000 * 50000}}", f"links/{{n:0250}}")
    if n % 4000 == 0: time.sleep(pause)""",
}
NUMBERS = {
    "files": "for n in items(): os.close(opened(f'file-{n}'))",
    "folders": "for n in items(): os.mkdir(f'folder-{n}')",
    "symbolic links": "for n in items(): os.symlink('own.txt', f'link-{n}')",
    "FIFOs": "for n in items(): os.mkfifo(f'pipe-{n}')",
    "files of children": """
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for n in range(60):
    if os.fork() == 0:
        for each in range(50): os.close(opened(f"file-{n}-{each}"))
        os._exit(0)
    time.sleep(pause * 4)""",
    "a folder in a folder in a folder": """
for n in items():
    os.mkdir("deeper")
    os.chdir("deeper")""",
}
# Whoever counts looks into one folder after another: the files go from where nobody has been yet to where somebody
# has. That it has been in a folder the folder's access time says, after every change anew.
HIDDEN = """
import threading
def changed(name):
    os.close(opened(f"{name}/touched"))
    os.unlink(f"{name}/touched")
    return os.stat(name).st_atime_ns
def looked_into(name, before):
    while os.stat(name).st_atime_ns == before: time.sleep(0.0005)
for n in range(24): os.mkdir(f"part-{n}")
first, *others, last = [name for name in os.listdir(".") if name.startswith("part-")]
for n in range(12000): os.close(opened(f"{others[11]}/{n}"))
os.mkdir(f"{last}/files")
folder = os.open(f"{last}/files", os.O_PATH)
def hide():
    while True:
        looked_into(first, changed(first))
        os.rename(f"{last}/files", f"{first}/files")
        looked_into(last, changed(last))
        os.rename(f"{first}/files", f"{last}/files")
if pause: threading.Thread(target=hide, daemon=True).start()
for n in pieces():
    fd = os.open(f"fill-{n}", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=folder)
    os.write(fd, block)
    os.close(fd)"""
# where it would be enough to take each descriptor for a file of the largest size
SMALL = ("files on their way through a socket that is itself on its way",)
# a thread with a table of descriptors of its own
APART = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
static char block[1 << 20];
static volatile int pieces, pause_ms, done;
static int fill(void *unused) {
    struct timespec wait = {0, pause_ms * 1000000L};
    for (int n = 0; n < pieces; n++) {
        int fd = open("fill", O_RDWR | O_CREAT, 0644);
        if (fd < 0 || write(fd, block, sizeof block) < 0) break;
        unlink("fill");
        nanosleep(&wait, NULL);
        done = n + 1;
    }
    while (1) syscall(SYS_pause);
    return unused != NULL;
}
int main(int count, char **arguments) {
    pieces = atoi(arguments[2]), pause_ms = atoi(arguments[3]);
    char *stack = mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int flags = CLONE_VM | CLONE_FS | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
    if (chdir(arguments[1]) || clone(fill, stack + (1 << 16), flags, NULL) < 0) return 1;
    while (done < pieces) usleep(1000);
    puts("CROSSED");
    return count == 0;
}
"""
LIMITS = dict.fromkeys(BYTES, "limits.disk)") | dict.fromkeys(NUMBERS, "limits.disk_files)")


def write_profile(arena: Arena, files: int = FILES, size: str = "1G") -> str:
    path = arena.base / "bounded.toml"
    path.write_text(PROFILE.format(size, files))
    path.chmod(0o644)
    return str(path)


def bounded(arena: Arena, mode: str, code: str) -> tuple[str, list[str], list[str]]:
    """(profile, options, program) for a run in the sandbox."""
    scope = str(arena.plots[mode].scope)
    return (
        write_profile(arena),
        ["--param", f"scope={scope}"],
        [*PYTHON, "-c", f"{SHARED}\n{code}\nprint('CROSSED')", scope],
    )


def taken(plot: Plot) -> int:
    done = subprocess.run(["du", "-sB1", plot.scope], capture_output=True, text=True, check=True, timeout=60)
    return int(done.stdout.split()[0])


@pytest.fixture(autouse=True)
def room(arena: Arena) -> None:
    for plot in arena.plots.values():
        # a tree that is too deep for shutil.rmtree
        subprocess.run(["rm", "-rf", plot.scope], check=True, timeout=60)
        plot.reset()


@pytest.mark.parametrize("way", LIMITS)
def test_no_way_of_filling_a_disk_goes_far_beyond_the_bound(arena: Arena, mode: str, way: str) -> None:
    plot, code = arena.plots[mode], (BYTES | NUMBERS)[way]
    profile, options, program = bounded(arena, mode, code)
    if way in SMALL:
        write_profile(arena, size="1M")
    control = arena.outside([*program, "0"], mode)
    assert "CROSSED" in control.stdout, control.stderr
    subprocess.run(["rm", "-rf", plot.scope], check=True, timeout=60)
    plot.reset()
    done = arena.inside(profile, mode, [*program, "0.02"], options=options)
    assert "CROSSED" not in done.stdout
    assert (done.returncode, LIMITS[way] in done.stderr) == (137, True), done.stderr
    assert taken(plot) < 7 * BOUND


def test_files_that_move_away_from_whoever_counts_are_counted(arena: Arena, mode: str) -> None:
    _, options, program = bounded(arena, mode, HIDDEN)
    profile = write_profile(arena, files=100_000)
    done = arena.inside(profile, mode, [*program, "0.02"], options=options)
    assert "CROSSED" not in done.stdout
    assert (done.returncode, "limits.disk)" in done.stderr) == (137, True), done.stderr
    assert taken(arena.plots[mode]) < 7 * BOUND


def test_files_that_only_a_thread_has_open_are_counted(arena: Arena, mode: str) -> None:
    _, options, program = bounded(arena, mode, "")
    argv = [str(arena.compile("apart", APART)), program[-1], str(10 * BOUND // MIB)]
    assert "CROSSED" in arena.outside([*argv, "0"], mode).stdout
    done = arena.inside(write_profile(arena), mode, [*argv, "20"], options=options)
    assert "CROSSED" not in done.stdout
    assert (done.returncode, "limits.disk)" in done.stderr) == (137, True), done.stderr


def test_hard_links_are_no_files(arena: Arena, mode: str) -> None:
    code = f"for n in range({2 * FILES}): os.link('own.txt', f'name-{{n}}')\ntime.sleep(0.5)"
    profile, options, program = bounded(arena, mode, code)
    done = arena.inside(profile, mode, [*program, "0"], options=options)
    assert (done.returncode, done.stdout) == (0, "CROSSED\n"), done.stderr


def test_what_it_removes_it_may_write_again(arena: Arena, mode: str) -> None:
    code = f"for n in range({3 * BOUND // MIB}): fill('fill'), time.sleep(0.02)"
    profile, options, program = bounded(arena, mode, code)
    done = arena.inside(profile, mode, [*program, "0"], options=options)
    assert (done.returncode, done.stdout) == (0, "CROSSED\n"), done.stderr


def test_what_others_do_with_the_disk_is_not_held_against_it(arena: Arena, mode: str) -> None:
    plot = arena.plots[mode]
    code = "fill('fill')\nprint('ready', flush=True)\nsys.stdin.read()\nfill('fill-2')\ntime.sleep(0.5)"
    profile, options, program = bounded(arena, mode, code)
    argv = arena.command(profile, mode, [*program, "0"], options=options)
    process = arena.start(argv, mode, stdin=subprocess.PIPE)
    try:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        for number in range(3):
            (plot.outside / f"fill-{number}").write_bytes(bytes(BOUND))
        for number in range(2 * FILES):
            (plot.outside / f"file-{number}").touch()
    finally:
        done = arena.finish(process)
    assert (done.returncode, done.stdout) == (0, "CROSSED\n"), done.stderr


def test_the_watcher_has_nothing_but_the_session_s_own_user(arena: Arena, mode: str) -> None:
    profile, options, program = bounded(arena, mode, "print('ready', flush=True)\nsys.stdin.read()")
    process = arena.start(
        arena.command(profile, mode, [*program, "0"], options=options), mode, stdin=subprocess.PIPE
    )
    try:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        found = [each for each in Path("/proc").glob("[0-9]*") if is_watcher(each, process.pid)]
        assert len(found) == 1
        deadline = time.monotonic() + 10
        while (status := status_of(found[0]))["NoNewPrivs"] == "0" and time.monotonic() < deadline:
            time.sleep(0.01)  # it starts beside the session
        # CAP_DAC_READ_SEARCH and CAP_SYS_PTRACE, in the session's user namespace and nowhere else
        assert (int(status["CapEff"], 16), int(status["CapBnd"], 16)) == (1 << 2 | 1 << 19, 0)
        assert os.readlink(found[0] / "ns/user") != os.readlink("/proc/self/ns/user")
        assert status["NoNewPrivs"] == "1"
        uid = int(status["Uid"].split()[0])
        assert uid == arena.plots["user"].uid if mode == "user" else uid >= 0x70000000
    finally:
        arena.finish(process)
    assert not found[0].exists()


def status_of(process: Path) -> dict[str, str]:
    return dict(line.partition(":\t")[::2] for line in (process / "status").read_text().splitlines())


def is_watcher(process: Path, session: int) -> bool:
    """A watcher of the command line that was started as `session`: its grandchild."""
    try:
        if b"supervisor.disk.watch" not in (process / "cmdline").read_bytes():
            return False
        parent = (process / "stat").read_text().rpartition(") ")[2].split()[1]
        return Path(f"/proc/{parent}/stat").read_text().rpartition(") ")[2].split()[1] == str(session)
    except FileNotFoundError:
        return False
