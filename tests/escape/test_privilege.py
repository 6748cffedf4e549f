"""Privilege: what a guest has and what it could get back: capabilities, user ids, set-uid files, groups."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
from pathlib import Path

from tests.escape.arena import PYTHON, Arena, Place
from tests.escape.batch import Batch, Case, Values, assert_held
from tests.escape.hostile import FOLDER, SCOPE, Bait, Held, hostile, prepared, slurp, syscall, taken

WHO = """
#include <stdio.h>
#include <unistd.h>
int main(void) {
    if (setuid(0) == 0 || geteuid() == 0) { puts("I am root"); return 0; }
    printf("uid %d, effective %d\\n", getuid(), geteuid());
    return 1;
}
"""


def status(field: str) -> str:
    lines = slurp("/proc/self/status").decode().splitlines()
    return next(line.split(":", 1)[1].strip() for line in lines if line.startswith(f"{field}:"))


def who(path: str) -> str:
    """Run the helper that tries to become root and says who it is."""
    said = subprocess.run([path], capture_output=True, text=True, timeout=10).stdout
    return taken("I am root" in said, said, said or "it did not run")


@hostile(control="root")
def hold_a_capability(bait: Bait) -> str:
    sets = {name: status(name) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
    return taken(any(int(value, 16) for value in sets.values()), str(sets), "all empty")


@hostile(control="root")
def set_capabilities(bait: Bait) -> str:
    wanted = struct.pack("6I", 1 << 21, 1 << 21, 0, 0, 0, 0)
    syscall(126, struct.pack("Ii", 0x20080522, 0), wanted)
    return status("CapEff")


@hostile(control="root")
def raise_an_ambient_capability(bait: Bait) -> str:
    with contextlib.suppress(OSError):
        syscall(126, struct.pack("Ii", 0x20080522, 0), struct.pack("6I", *(1 << 21,) * 3, 0, 0, 0))
    syscall(157, 47, 2, 21, 0, 0)
    return status("CapAmb")


@hostile(control="root")
def change_the_secure_bits(bait: Bait) -> str:
    syscall(157, 28, 1 << 4, 0, 0, 0)
    return "securebits set"


@hostile()
def gain_by_execve(bait: Bait) -> str:
    """Without no_new_privs a set-uid program may still raise its rights."""
    return taken(status("NoNewPrivs") == "0", "not set", "no_new_privs is set")


@hostile()
def run_without_a_filter(bait: Bait) -> str:
    return taken(status("Seccomp") == "0", "no filter", "a filter is loaded")


@hostile(control="root")
def be_user_0(bait: Bait) -> str:
    return taken(0 in os.getresuid(), str(os.getresuid()), "not root")


@hostile(control="root")
def be_in_group_0(bait: Bait) -> str:
    return taken(0 in (*os.getresgid(), *os.getgroups()), str(os.getgroups()), "not in it")


@hostile(control="root")
def become_root(bait: Bait) -> str:
    os.setresuid(0, 0, 0)
    return str(os.getresuid())


@hostile(control="root")
def become_another_user(bait: Bait) -> str:
    for uid in (bait.number("uid"), 1, 65534, 1001, 100000):
        with contextlib.suppress(OSError):
            os.setresuid(uid, uid, uid)
            return taken(os.getuid() != bait.number("inside"), f"now {uid}", "the same user")
    raise Held("no other user id")


@hostile(control="root")
def become_another_user_for_files(bait: Bait) -> str:
    syscall(122, 1)
    return taken(status("Uid").split()[3] == "1", "file system uid 1", "unchanged")


@hostile(control="root")
def join_another_group(bait: Bait) -> str:
    os.setresgid(1, 1, 1)
    return str(os.getresgid())


@hostile(control="root")
def change_its_groups(bait: Bait) -> str:
    os.setgroups([1, 2, 3])
    return str(os.getgroups())


@hostile(control="root")
def map_another_user(bait: Bait) -> str:
    """A second line in the map of its own namespace."""
    with open("/proc/self/setgroups", "w") as stream:
        stream.write("allow")
    return "setgroups allowed again"


@hostile(profiles=FOLDER)
def run_a_set_uid_program(bait: Bait) -> str:
    return who(f"{bait.text('folder')}/set-uid")


@hostile(profiles=FOLDER)
def run_a_program_with_capabilities(bait: Bait) -> str:
    return who(f"{bait.text('folder')}/capable")


@hostile(profiles=SCOPE)
def run_a_set_uid_program_from_the_scope(bait: Bait) -> str:
    return who(f"{bait.text('scope')}/set-uid")


@hostile()
def run_a_set_uid_program_by_the_loader(bait: Bait) -> str:
    """sudo, su and mount of the system: their effective user, seen from outside the program."""
    with prepared():
        names = [f"/usr/bin/{name}" for name in os.listdir("/usr/bin")]
        bits = [name for name in names if os.stat(name, follow_symlinks=False).st_mode & 0o4000]
    if os.statvfs("/usr").f_flag & 2:
        raise Held("the mount ignores set-uid bits")
    return taken(bits, str(bits), "none there")


@hostile()
def find_a_mount_that_honours_set_uid(bait: Bait) -> str:
    lines = slurp("/proc/self/mounts").decode().splitlines()
    bad = [line for line in lines if "nosuid" not in line.split()[3].split(",")]
    return taken(bad, str(bad), "every mount has nosuid")


@hostile()
def find_a_mount_that_honours_devices(bait: Bait) -> str:
    """/dev itself must, for /dev/null and its kin; nothing else has a reason."""
    lines = [line.split() for line in slurp("/proc/self/mounts").decode().splitlines()]
    bad = [line[1] for line in lines if "nodev" not in line[3].split(",") and not line[1].startswith("/dev")]
    return taken(bad, str(bad), "every other mount has nodev")


@hostile()
def read_the_tracer_of_itself(bait: Bait) -> str:
    """PTRACE_TRACEME, then an execve under the eyes of a parent of its own."""
    syscall(101, 0, 0, 0, 0)
    return "traced"


def bait(place: Place) -> Values:
    """A helper that is set-uid root, and one with all capabilities, in both folders of the caller."""
    helper = place.arena.compile("who", WHO)
    for directory in (place.plot.folder, place.plot.scope):
        for name in ("set-uid", "capable"):
            copy(helper, directory / name)
        (directory / "set-uid").chmod(0o4755)
        capability = struct.pack("<5I", 0x02000001, 1 << 7, 0, 0, 0)
        os.setxattr(directory / "capable", "security.capability", capability)
    inside = place.plot.uid if place.profile is None else 1000
    uid = place.arena.plots["user"].uid
    return {"folder": place.folder, "scope": place.scope, "uid": uid, "inside": inside}


def copy(source: Path, target: Path) -> None:
    target.write_bytes(source.read_bytes())
    os.chown(target, 0, 0)
    target.chmod(0o755)


BATCH = Batch.of(globals(), helpers=(status, who), bait=bait)


def test_no_privilege_is_held_or_regained(case: Case, arena: Arena) -> None:
    assert_held(arena, case)


def test_groups_of_the_caller_open_nothing(arena: Arena, profile: str) -> None:
    """Root's supplementary groups do not come along. (An ordinary user's cannot be dropped without help
    of the host: the kernel forbids setgroups(2) in a namespace that its user made.)"""
    program = [*PYTHON, "-c", "import os; print(sorted(os.getgroups()))"]
    prefix = ["/usr/bin/setpriv", "--groups", "4242", "--"]
    control = arena.finish(arena.start([*prefix, *program], "root"))
    assert "4242" in control.stdout
    done = arena.finish(arena.start([*prefix, *arena.command(profile, "root", program)], "root"))
    assert done.stdout.strip() in {"[]", "[1000]"}, done.stdout + done.stderr


def test_the_files_of_a_group_of_the_caller_stay_closed(arena: Arena) -> None:
    """A file that only a supplementary group may read, in a folder that the profile does grant."""
    path = arena.plots["root"].folder / "of-the-group"
    path.write_text("for the group\n")
    os.chown(path, 4243, 4242)
    path.chmod(0o040)
    prefix = ["/usr/bin/setpriv", "--groups", "4242", "--"]
    drop = [*prefix[:-1], "--bounding-set=-all", "--inh-caps=-all", "--reuid", "4244", "--"]
    argv = [*PYTHON, "-c", "import sys; print(open(sys.argv[1]).read())"]
    os.chown(arena.plots["root"].home, 0, 4242)
    arena.plots["root"].home.chmod(0o750)
    try:
        control = arena.finish(arena.start([*drop, *argv, str(path)], "root"))
        assert "for the group" in control.stdout, control.stderr
        sandbox = arena.command("fs-readonly", "root", [*argv, "/data/of-the-group"])
        done = arena.finish(arena.start([*prefix, *sandbox], "root"))
        assert "for the group" not in done.stdout
        assert "PermissionError" in done.stderr
    finally:
        arena.plots["root"].home.chmod(0o700)
