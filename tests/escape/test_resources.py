"""Resources: processes, memory, processors, /tmp, files, descriptors. A guest that takes all it can get gets no
more than its profile says, and the host goes on.

The controls use the amounts that the strict profiles must refuse; for ci-runner, whose limits are wider, the
same programs ask for more.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal

import pytest

from tests.escape.arena import PYTHON, Arena, Place
from tests.escape.batch import Batch, Case, Values, assert_held
from tests.escape.hostile import PROFILES, SCOPE, STRICT, Bait, Held, hostile

MIB = 1 << 20

MULTIPLY = r"""
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static void *wait_for_the_end(void *unused) { pause(); return unused; }
int main(int count, char **arguments) {
    int wanted = atoi(arguments[2]), made = 0, threads = strcmp(arguments[1], "threads") == 0;
    setpgid(0, 0);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 16384);
    for (; made < wanted; made++) {
        pthread_t thread;
        if (threads && pthread_create(&thread, &attributes, wait_for_the_end, NULL)) break;
        if (threads) continue;
        pid_t child = fork();
        if (child == 0) { pause(); _exit(0); }
        if (child < 0) break;
    }
    printf("%d\n", made);
    fflush(stdout);
    signal(SIGTERM, SIG_IGN);
    kill(0, SIGTERM);
    return count == 0;
}
"""

TOUCH = """
import mmap, sys
kind, amount = sys.argv[1], int(sys.argv[2])
flags = mmap.MAP_ANONYMOUS | (mmap.MAP_SHARED if kind == "shared" else mmap.MAP_PRIVATE)
area = mmap.mmap(-1, amount, flags)
block = b"x" * (1 << 22)
for start in range(0, amount, len(block)):
    area[start:start + len(block)] = block
print("touched", amount)
"""

LOWER = """
name = "/proc/self/oom_score_adj"
print(open(name).read().strip())
try:
    with open(name, "w") as file: file.write("0")
    print("lowered")
except OSError:
    print("kept")
"""

# Two busy processes; the processor time of both, over the time on the wall, as a percentage.
BURN = """
import os, time
start, children = time.monotonic(), []
for _ in range(2):
    child = os.fork()
    if child == 0:
        while time.monotonic() - start < 0.6:
            pass
        os._exit(0)
    children.append(child)
used = sum(usage.ru_utime + usage.ru_stime for usage in (os.wait4(child, 0)[2] for child in children))
print(int(100 * used / (time.monotonic() - start)))
"""


def gone(paths: list[str]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            os.unlink(path)


@hostile()
def fill_the_temporary_folder(bait: Bait) -> str:
    made: list[str] = []
    block, written = b"x" * (1 << 20), 0
    try:
        while written < bait.number("tmp_size"):
            made.append(f"{bait.text('tmp')}/fill-{len(made)}")
            with open(made[-1], "wb", buffering=0) as stream:
                for _ in range(16):
                    if stream.write(block) < len(block):
                        raise Held(f"full after {written >> 20} MiB")
                    written += len(block)
        return f"{written >> 20} MiB"
    finally:
        gone(made)


@hostile()
def fill_it_with_empty_files(bait: Bait) -> str:
    made: list[str] = []
    try:
        while len(made) < bait.number("tmp_files"):
            made.append(f"{bait.text('tmp')}/{len(made)}")
            os.close(os.open(made[-1], os.O_CREAT | os.O_WRONLY))
        return f"{len(made)} files"
    finally:
        gone(made)


@hostile()
def fill_other_memory_files(bait: Bait) -> str:
    """/dev/shm, or any other place in memory that may be written."""
    made: list[str] = []
    block = b"x" * (1 << 20)
    for place in (bait.text("shm"), "/dev/shm", "/run", "/var/tmp"):
        path, written = f"{place}/svtest-fill-{os.getpid()}", 0
        try:
            with open(path, "wb", buffering=0) as stream:
                made.append(path)
                while written < bait.number("tmp_size"):
                    written += stream.write(block)
            return f"{written >> 20} MiB in {place}"
        except OSError:
            continue
        finally:
            gone(made)
    raise Held("nowhere")


@hostile(profiles=SCOPE)
def write_a_huge_file(bait: Bait) -> str:
    """Sparse: its size alone can hurt a backup or a copy of the host."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    path = f"{bait.text('scope')}/huge"
    try:
        with open(path, "wb") as stream:
            os.pwrite(stream.fileno(), b"x", bait.number("file_size"))
        return f"{os.stat(path).st_size >> 20} MiB"
    finally:
        gone([path])


@hostile(profiles=SCOPE)
def stretch_a_file(bait: Bait) -> str:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    path = f"{bait.text('scope')}/stretched"
    try:
        with open(path, "wb") as stream:
            os.ftruncate(stream.fileno(), bait.number("file_size"))
        return f"{os.stat(path).st_size >> 20} MiB"
    finally:
        gone([path])


@hostile(profiles=SCOPE)
def reserve_a_huge_file(bait: Bait) -> str:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    path = f"{bait.text('scope')}/reserved"
    try:
        with open(path, "wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, bait.number("file_size"))
        return f"{os.stat(path).st_size >> 20} MiB"
    finally:
        gone([path])


@hostile()
def open_many_descriptors(bait: Bait) -> str:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for _ in range(bait.number("files")):
        os.dup(0)
    return f"{bait.number('files')} descriptors"


@hostile()
def raise_a_limit(bait: Bait) -> str:
    """No guest has a limit that it could raise to what the caller has."""
    for name in ("RLIMIT_NPROC", "RLIMIT_NOFILE", "RLIMIT_FSIZE"):
        _, hard = resource.getrlimit(getattr(resource, name))
        if hard == -1 or hard >= bait.number(name):
            return f"{name} {hard}"
    raise Held("all are set")


def bait(place: Place) -> Values:
    wide = place.profile == "ci-runner"
    return {
        "tmp": place.tmp,
        "shm": "/tmp" if place.profile else str(place.plot.home / "tmp"),
        "scope": place.scope,
        "tmp_size": (1100 if wide else 160) * MIB,
        "tmp_files": 70000 if wide else 5000,
        "file_size": (3000 if wide else 160) * MIB,
        "files": 5000,
        "RLIMIT_NPROC": 10000,
        "RLIMIT_NOFILE": 10000,
        "RLIMIT_FSIZE": 1 << 40,
    }


BATCH = Batch.of(globals(), helpers=(gone,), bait=bait)


def test_no_more_than_the_profile_grants(case: Case, arena: Arena) -> None:
    assert_held(arena, case)


@pytest.mark.parametrize("kind", ["processes", "threads"])
def test_five_thousand_forks_end_at_the_limit(arena: Arena, profile: str, mode: str, kind: str) -> None:
    program = [str(arena.compile("multiply", MULTIPLY)), kind, "5000"]
    if profile == PROFILES[0]:
        assert arena.outside(program, mode).stdout.strip() == "5000"
    done = arena.inside(profile, mode, program)
    assert done.stdout.strip(), done.stderr
    assert int(done.stdout) < (1100 if profile == "ci-runner" else 128)


@pytest.mark.parametrize("kind", ["private", "shared"])
def test_memory_ends_at_the_limit(arena: Arena, profile: str, mode: str, kind: str) -> None:
    """Where the host cannot limit an ordinary user's memory (no cgroup of its own), nothing is started
    unless the user says so, by name: then there is no limit to try."""
    if "limits.memory" in " ".join(arena.accept(mode)):
        bare = arena.command(profile, mode, ["/usr/bin/true"])
        option = bare.index("--accept-missing")
        done = arena.finish(arena.start([*bare[:option], *bare[option + 2 :]], mode))
        assert done.returncode == 4
        assert "limits.memory" in done.stderr
        return
    amount = (4300 if profile == "ci-runner" else 620) * MIB
    if (profile, kind) == ("ci-runner", "shared"):
        return  # several seconds for a repetition: memory is one account, and the strict profiles try both
    program = [*PYTHON, "-c", TOUCH, kind, str(amount)]
    if profile == PROFILES[0]:
        assert "touched" in arena.outside(program, mode).stdout
    done = arena.inside(profile, mode, program)
    assert "touched" not in done.stdout
    assert done.returncode not in {0, 4}, done.stderr


def test_where_the_host_is_short_of_memory_sandboxes_end_first(arena: Arena, profile: str, mode: str) -> None:
    """Locks of files are counted for nobody: a guest of 512 MiB can have 700 MB of them, and all there is."""
    program = [*PYTHON, "-c", LOWER]
    if profile == PROFILES[0]:
        assert arena.outside(program, mode).stdout.split()[1:] == ["lowered"]
    assert arena.inside(profile, mode, program).stdout.split() == ["1000", "kept"]


def test_processor_time_ends_at_the_limit(arena: Arena) -> None:
    """One processor for two busy processes. (An ordinary user's is limited where its user manager delegates
    the controller; else it is one of the gaps that must be accepted by name.)"""
    program = [*PYTHON, "-c", BURN]
    # whatever else this machine does: the kernel's scheduler weighs sessions before processes
    boost = 'echo -15 2>/dev/null >/proc/self/autogroup; exec nice -n -15 "$@"'
    first = ["/bin/sh", "-c", boost, "sh"]
    control = max(int(arena.outside([*first, *program], "root").stdout) for _ in range(2))
    assert control > 130, "this machine has no second processor to spare"
    for profile in STRICT:
        sandbox = arena.start([*first, *arena.command(profile, "root", program)], "root")
        done = arena.finish(sandbox)
        assert int(done.stdout) < 125, done.stderr
