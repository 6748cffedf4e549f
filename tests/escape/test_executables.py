"""Programs that the guest brings along: where the profile says that nothing written can be run, nothing is.

The strict profiles mount /tmp and the writable folder without the right to execute. An interpreter that is
there anyway (sh, python) runs any text; that is not a boundary, and is not tried. Pages that are writable and
executable are left to programs by every shipped profile: Node's compiler needs them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess

from tests.escape.arena import MARKER, Arena, Place
from tests.escape.batch import Batch, Case, Values, assert_held
from tests.escape.hostile import FOLDER, STRICT, Bait, Held, hostile, prepared, syscall, taken

HELLO = "int main(void) { return 42; }"
LOADER, LIBRARY = "/lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/libutil.so.1"


def bring(path: str) -> str:
    """A copy of a small program of the system, made executable."""
    with prepared():
        shutil.copyfile("/usr/bin/true", path)
        os.chmod(path, 0o755)
    return path


def runs(argv: list[str]) -> str:
    done = subprocess.run(argv, capture_output=True, timeout=10)
    return taken(done.returncode == 0, f"{argv} ran", f"{argv} said {done.returncode} {done.stderr[:80]!r}")


@hostile(profiles=STRICT)
def run_a_program_from_tmp(bait: Bait) -> str:
    return runs([bring(f"{bait.text('tmp')}/program")])


@hostile(profiles=("fs-scoped",))
def run_a_program_from_the_scope(bait: Bait) -> str:
    return runs([bring(f"{bait.text('scope')}/program")])


@hostile(profiles=FOLDER)
def run_a_program_from_the_folder(bait: Bait) -> str:
    return str(subprocess.run([f"{bait.text('folder')}/hello"], timeout=10).returncode)


@hostile(profiles=STRICT)
def run_a_program_by_the_loader(bait: Bait) -> str:
    """ld.so is executable, and maps the program itself."""
    return runs([bait.text("loader"), bring(f"{bait.text('tmp')}/by-loader")])


@hostile(profiles=STRICT)
def run_a_program_by_a_hard_link(bait: Bait) -> str:
    program = bring(f"{bait.text('tmp')}/linked")
    os.link(program, f"{program}-again")
    return runs([f"{program}-again"])


@hostile(profiles=STRICT)
def run_a_program_by_its_descriptor(bait: Bait) -> str:
    fd = os.open(bring(f"{bait.text('tmp')}/descriptor"), os.O_RDONLY)
    child = os.fork()
    if child == 0:
        with contextlib.suppress(OSError):
            os.execve(fd, ["true"], {})
        os._exit(13)
    return taken(os.waitpid(child, 0)[1] == 0, "ran", "refused")


@hostile(profiles=STRICT)
def run_a_program_from_memory(bait: Bait) -> str:
    """memfd_create(2): a file that is in no mount, so no mount option stops it."""
    fd = os.memfd_create("svtest")
    with open("/usr/bin/true", "rb") as stream:
        os.write(fd, stream.read())
    child = os.fork()
    if child == 0:
        with contextlib.suppress(OSError):
            os.execve(fd, ["true"], {})
        os._exit(13)
    return taken(os.waitpid(child, 0)[1] == 0, "ran", "refused")


@hostile(profiles=STRICT)
def run_a_program_from_shared_memory(bait: Bait) -> str:
    if not os.path.isdir("/dev/shm"):
        raise Held("no /dev/shm")
    program = bring(f"/dev/shm/{bait.text('marker')}-{os.getpid()}")
    try:
        return runs([program])
    finally:
        os.unlink(program)


@hostile(profiles=STRICT)
def load_a_library_from_tmp(bait: Bait) -> str:
    with prepared():
        copy = shutil.copyfile(bait.text("library"), f"{bait.text('tmp')}/library.so")
    return str(ctypes.CDLL(copy))


@hostile(profiles=STRICT)
def preload_a_library_from_tmp(bait: Bait) -> str:
    with prepared():
        copy = shutil.copyfile(bait.text("library"), f"{bait.text('tmp')}/preload.so")
    argv = ["/usr/bin/grep", "preload.so", "/proc/self/maps"]
    done = subprocess.run(argv, env={"LD_PRELOAD": copy}, capture_output=True, timeout=10)
    return taken(b"r-xp" in done.stdout, "mapped for execution", "not mapped")


@hostile(profiles=STRICT)
def run_a_script_by_its_first_line(bait: Bait) -> str:
    script = f"{bait.text('tmp')}/script"
    with prepared():
        with open(script, "w") as stream:
            stream.write("#!/bin/sh\nexit 0\n")
        os.chmod(script, 0o755)
    return runs([script])


@hostile(profiles=STRICT)
def run_a_program_by_a_path_descriptor(bait: Bait) -> str:
    """execveat(2) with an empty path on a descriptor that was never opened for reading."""
    with prepared():
        argv = (ctypes.c_char_p * 2)(b"true", None)
    fd = os.open(bring(f"{bait.text('tmp')}/at"), os.O_PATH)
    child = os.fork()
    if child == 0:
        with contextlib.suppress(OSError):
            syscall(322, fd, b"", ctypes.addressof(argv), 0, 0x1000)
        os._exit(13)
    return taken(os.waitpid(child, 0)[1] == 0, "ran", "refused")


def bait(place: Place) -> Values:
    binary = place.arena.compile("hello", HELLO)
    target = place.plot.folder / "hello"
    shutil.copyfile(binary, target)
    target.chmod(0o755)
    return {
        "folder": place.folder,
        "scope": place.scope,
        "tmp": place.tmp,
        "loader": LOADER,
        "library": LIBRARY,
        "marker": MARKER,
    }


BATCH = Batch.of(globals(), helpers=(bring, runs), bait=bait)


def test_nothing_that_was_written_is_run(case: Case, arena: Arena) -> None:
    assert_held(arena, case)


def test_a_build_may_run_what_it_built(arena: Arena, mode: str) -> None:
    """The other side: ci-runner exists to compile and run."""
    scope = arena.plots[mode].scope
    source = scope / "built.c"
    source.write_text(HELLO)
    done = arena.inside("ci-runner", mode, ["/bin/sh", "-c", f"cd {scope} && cc -o built built.c && ./built"])
    assert done.returncode == 42, done.stderr
