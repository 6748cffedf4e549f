"""Writing: a read-only folder, the system, and whatever lies outside the writable folder.

The host looks as well: after every run in the sandbox the folder's files and the target outside must be
exactly as they were.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import stat
import subprocess
import time

from tests.escape.arena import Arena, Place
from tests.escape.batch import Batch, Case, Values, assert_held, prepare, run, verdicts
from tests.escape.hostile import FOLDER, SCOPE, Bait, hostile, prepared, syscall, taken

LEFT = "left-here"


def victim(bait: Bait, number: int) -> str:
    return f"{bait.text('folder')}/victim-{number}"


def write_to(path: str) -> str:
    fd = os.open(path, os.O_WRONLY)
    return taken(os.write(fd, b"touched\n"), f"wrote to {path}", "nothing written")


@hostile(profiles=FOLDER)
def create_in_the_folder(bait: Bait) -> str:
    return str(os.open(f"{bait.text('folder')}/left-here", os.O_WRONLY | os.O_CREAT))


@hostile(profiles=FOLDER)
def overwrite_in_the_folder(bait: Bait) -> str:
    return write_to(victim(bait, 0))


@hostile(profiles=FOLDER)
def truncate_in_the_folder(bait: Bait) -> str:
    os.truncate(victim(bait, 1), 1)
    return "truncated"


@hostile(profiles=FOLDER)
def rename_in_the_folder(bait: Bait) -> str:
    os.rename(victim(bait, 2), victim(bait, 2) + "-renamed")
    return "renamed"


@hostile(profiles=FOLDER)
def remove_in_the_folder(bait: Bait) -> str:
    os.unlink(victim(bait, 3))
    return "removed"


@hostile(profiles=FOLDER)
def change_the_mode_in_the_folder(bait: Bait) -> str:
    os.chmod(victim(bait, 4), 0o777)
    return "mode changed"


@hostile(profiles=FOLDER)
def change_the_mode_by_a_descriptor(bait: Bait) -> str:
    os.fchmod(os.open(victim(bait, 5), os.O_RDONLY), 0o777)
    return "mode changed"


@hostile(profiles=FOLDER)
def change_the_times_in_the_folder(bait: Bait) -> str:
    os.utime(victim(bait, 6), (1, 1))
    return "times changed"


@hostile(profiles=FOLDER)
def make_a_directory_in_the_folder(bait: Bait) -> str:
    os.mkdir(f"{bait.text('folder')}/left-here-directory")
    return "made"


@hostile(profiles=FOLDER)
def make_a_link_in_the_folder(bait: Bait) -> str:
    os.symlink("/etc/passwd", f"{bait.text('folder')}/left-here-link")
    return "made"


@hostile(profiles=FOLDER)
def set_an_attribute_in_the_folder(bait: Bait) -> str:
    os.setxattr(victim(bait, 7), "user.svtest", b"1")
    return "set"


@hostile(profiles=FOLDER)
def reopen_a_descriptor_for_writing(bait: Bait) -> str:
    with prepared():
        fd = os.open(victim(bait, 8), os.O_RDONLY)
    return write_to(f"/proc/self/fd/{fd}")


@hostile(profiles=FOLDER)
def reopen_a_path_descriptor_for_writing(bait: Bait) -> str:
    with prepared():
        fd = os.open(victim(bait, 9), os.O_PATH)
    return write_to(f"/proc/self/fd/{fd}")


@hostile(profiles=FOLDER)
def make_an_unnamed_file_and_link_it(bait: Bait) -> str:
    folder = bait.text("folder")
    fd = os.open(folder, os.O_TMPFILE | os.O_RDWR)
    syscall(265, -100, f"/proc/self/fd/{fd}".encode(), -100, f"{folder}/left-here-unnamed".encode(), 0x400)
    return "linked"


@hostile(profiles=SCOPE)
def hard_link_the_folder_into_the_scope(bait: Bait) -> str:
    name = f"{bait.text('scope')}/hard"
    os.link(victim(bait, 10), name)
    return write_to(name)


@hostile(profiles=SCOPE)
def hard_link_a_descriptor_into_the_scope(bait: Bait) -> str:
    with prepared():
        fd = os.open(victim(bait, 11), os.O_RDONLY)
    name = f"{bait.text('scope')}/hard-by-descriptor"
    syscall(265, -100, f"/proc/self/fd/{fd}".encode(), -100, name.encode(), 0x400)
    return write_to(name)


@hostile(profiles=SCOPE)
def move_the_folder_into_the_scope(bait: Bait) -> str:
    name = f"{bait.text('scope')}/moved"
    os.rename(victim(bait, 12), name)
    return write_to(name)


@hostile(profiles=SCOPE)
def exchange_two_files_across_the_border(bait: Bait) -> str:
    here = f"{bait.text('scope')}/own.txt".encode()
    syscall(316, -100, here, -100, victim(bait, 13).encode(), 2)
    return "exchanged"


@hostile(profiles=SCOPE)
def write_through_a_link_in_the_scope(bait: Bait) -> str:
    return write_to(f"{bait.text('scope')}/target-link")


@hostile(profiles=SCOPE)
def create_through_a_link_in_the_scope(bait: Bait) -> str:
    return str(os.open(f"{bait.text('scope')}/outside-link/left-here", os.O_WRONLY | os.O_CREAT))


@hostile(profiles=SCOPE)
def write_beside_the_scope(bait: Bait) -> str:
    return write_to(f"{bait.text('scope')}/../outside/target.txt")


@hostile(profiles=SCOPE)
def write_beside_a_descriptor_of_the_scope(bait: Bait) -> str:
    with prepared():
        scope = os.open(bait.text("scope"), os.O_PATH | os.O_DIRECTORY)
    fd = os.open("../outside/target.txt", os.O_WRONLY, dir_fd=scope)
    return str(os.write(fd, b"touched\n"))


@hostile(profiles=SCOPE)
def hard_link_the_outside_into_the_scope(bait: Bait) -> str:
    name = f"{bait.text('scope')}/hard-outside"
    os.link(bait.text("target"), name)
    return write_to(name)


@hostile(profiles=SCOPE)
def move_a_directory_away_while_in_it(bait: Bait) -> str:
    """Move the working directory up out of its parent, then climb: `..` of a moved directory is new."""
    scope = bait.text("scope")
    with prepared():
        os.makedirs(f"{scope}/deep/er/est")
        os.chdir(f"{scope}/deep/er/est")
        os.rename(f"{scope}/deep/er/est", f"{scope}/est")
    return write_to("../../outside/target.txt")


@hostile(profiles=SCOPE)
def swap_a_link_during_the_call(bait: Bait) -> str:
    """A child turns one name into a file and into a link out and back, while this opens it by name."""
    scope, target = bait.text("scope"), bait.text("target")
    name, spare = f"{scope}/swapped", f"{scope}/spare"
    with prepared():
        open(name, "w").close()
    swapper = os.fork()
    while swapper == 0:
        os.symlink(target, spare)
        os.rename(spare, name)
        open(spare, "w").close()
        os.rename(spare, name)
    hits = tries = 0
    deadline = time.monotonic() + bait.number("seconds")
    while not hits and time.monotonic() < deadline:
        tries += 1
        with contextlib.suppress(OSError):
            fd = os.open(name, os.O_WRONLY)
            if os.fstat(fd).st_size:
                hits += os.write(fd, b"touched\n")
            os.close(fd)
    os.kill(swapper, signal.SIGKILL)
    os.waitpid(swapper, 0)
    return taken(hits, f"wrote {hits} bytes outside", f"{tries} opens, none outside")


@hostile(control="root")
def open_the_system_for_writing(bait: Bait) -> str:
    return str(os.open("/usr/lib/os-release", os.O_WRONLY))


@hostile(control="root")
def open_the_interpreter_for_writing(bait: Bait) -> str:
    """Through /proc/PID/exe of a program that has just ended: its file is no longer busy."""
    with prepared():
        # a program that nobody else is likely to run just now: it would be busy
        running = subprocess.Popen(["/usr/bin/factor"], stdin=subprocess.PIPE)
        fd = os.open(f"/proc/{running.pid}/exe", os.O_PATH)
        running.kill()
        running.wait()
    return str(os.open(f"/proc/self/fd/{fd}", os.O_WRONLY))


@hostile(control="root")
def open_the_accounts_for_writing(bait: Bait) -> str:
    return str(os.open("/etc/passwd", os.O_RDWR))


@hostile(control="root")
def create_anywhere_else(bait: Bait) -> str:
    """Every directory that is not the caller's own: the root, /etc, /dev, /home, /run, /var, /usr, /proc."""
    made = []
    for directory, below, _ in os.walk("/"):
        below[:] = [] if directory.count("/") > 2 else [b for b in below if b not in {"proc", "sys"}]
        if directory.startswith(("/tmp", "/dev/shm", bait.text("scope"))):
            continue
        name = os.path.join(directory, ".svtest-new")
        with contextlib.suppress(OSError):
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
            made.append(directory)
            os.unlink(name)
    return taken(made, str(made), "nowhere")


@hostile(control="root")
def write_a_kernel_setting(bait: Bait) -> str:
    """/proc/sys, and the files of this process that reach beyond it; opened, not written."""
    names = ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/sys/kernel/hostname")
    opened = []
    for name in names:
        with contextlib.suppress(OSError):
            opened.append(f"{name} as {os.open(name, os.O_WRONLY)}")
    return taken(opened, str(opened), "none can be opened")


@hostile(control="root", profiles=FOLDER)
def bind_over_the_read_only_folder(bait: Bait) -> str:
    """The old trick: a new read-write view of a read-only mount."""
    libc = ctypes.CDLL(None, use_errno=True)
    folder = bait.text("folder").encode()
    if libc.mount(folder, folder, None, 4096, None):
        raise OSError(ctypes.get_errno(), "bind")
    return write_to(victim(bait, 14))


def bait(place: Place) -> Values:
    target = str(place.plot.outside / "target.txt")
    seconds = 10 if place.profile is None else 1  # as long as it takes where it must succeed
    return {"folder": place.folder, "scope": place.scope, "target": target, "seconds": seconds}


def judge(place: Place) -> dict[str, str]:
    """Whatever changed outside the scope; which program did it is not known, so it is a case of its own."""
    plot, changes = place.plot, []
    names = {path.name for path in plot.folder.iterdir()}
    expected = {f"victim-{number}" for number in range(20)}
    changes += sorted(names ^ (expected | {"hello.txt", "link", "target-link", "outside-link"}))
    for name in expected & names:
        path = plot.folder / name
        status = path.stat()
        same = path.read_text() == "nothing secret\n" and stat.S_IMODE(status.st_mode) != 0o777
        if not same or status.st_mtime < 10:
            changes.append(name)
    if (plot.outside / "target.txt").read_text() != "untouched\n":
        changes.append("target.txt outside")
    changes += [path.name for path in plot.outside.iterdir() if path.name.startswith(LEFT)]
    return {"changes": ", ".join(changes)} if changes else {}


BATCH = Batch.of(globals(), helpers=(victim, write_to), bait=bait, judge=judge)


def test_nothing_is_written_outside_the_profile(case: Case, arena: Arena) -> None:
    assert_held(arena, case)


def test_the_host_finds_its_files_as_they_were(arena: Arena, profile: str, mode: str) -> None:
    """The same runs, judged by the host; the control changes the files, which shows that it can tell."""
    control = Place(arena, None, mode)
    run(arena, BATCH, control, prepare(BATCH, control))
    assert "changes" in judge(control)
    assert "changes" not in verdicts(arena, BATCH, Place(arena, profile, mode))


def test_the_writable_folder_is_writable(arena: Arena, mode: str) -> None:
    """Without this the refusals above could come from a sandbox in which nothing works at all."""
    name = f"{arena.plots[mode].scope}/made-inside"
    program = f"open({name!r}, 'w').write('by the guest')"
    done = arena.inside("fs-scoped", mode, ["/usr/bin/python3", "-I", "-S", "-c", program])
    assert done.returncode == 0, done.stderr
    made = arena.plots[mode].scope / "made-inside"
    assert made.read_text() == "by the guest"
    assert made.stat().st_uid == arena.plots[mode].uid
