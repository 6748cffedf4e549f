"""New namespaces, foreign namespaces, and mounts: the ground of most kernel exploits of the last years.

The controls run in mount and host name namespaces of their own, so nothing they do reaches the host.
"""

from __future__ import annotations

import contextlib
import os
import struct

from tests.escape.arena import Arena, Place
from tests.escape.batch import Batch, Case, Values, assert_held
from tests.escape.hostile import (
    FOLDER,
    NEWCGROUP,
    NEWIPC,
    NEWNET,
    NEWNS,
    NEWPID,
    NEWTIME,
    NEWUSER,
    NEWUTS,
    Bait,
    Held,
    hostile,
    others,
    syscall,
)


def unshare(flag: int) -> str:
    syscall(272, flag)
    return f"unshared {flag:#x}"


def clone(flag: int) -> str:
    """fork(2) with a flag; the child ends at once."""
    child = syscall(56, flag | 17, 0, 0, 0, 0)
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return f"cloned with {flag:#x}"


def clone3(flag: int) -> str:
    child = syscall(435, struct.pack("11Q", flag, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0), 88)
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return f"cloned with {flag:#x}"


def mount(source: str, target: str, kind: str, flags: int, data: str | None = None) -> str:
    words = [word.encode() for word in (source, target, kind)]
    syscall(165, *words, flags, data.encode() if data else None)
    return f"mounted {source} on {target}"


@hostile()
def unshare_user(bait: Bait) -> str:
    return unshare(NEWUSER)


@hostile(control="root")
def unshare_mounts(bait: Bait) -> str:
    return unshare(NEWNS)


@hostile(control="root")
def unshare_processes(bait: Bait) -> str:
    return unshare(NEWPID)


@hostile(control="root")
def unshare_network(bait: Bait) -> str:
    return unshare(NEWNET)


@hostile(control="root")
def unshare_ipc(bait: Bait) -> str:
    return unshare(NEWIPC)


@hostile(control="root")
def unshare_host_name(bait: Bait) -> str:
    return unshare(NEWUTS)


@hostile(control="root")
def unshare_cgroup(bait: Bait) -> str:
    return unshare(NEWCGROUP)


@hostile(control="root")
def unshare_time(bait: Bait) -> str:
    return unshare(NEWTIME)


@hostile()
def unshare_user_and_network(bait: Bait) -> str:
    return unshare(NEWUSER | NEWNET)


@hostile()
def clone_user(bait: Bait) -> str:
    return clone(NEWUSER)


@hostile()
def clone_user_mounts_and_network(bait: Bait) -> str:
    return clone(NEWUSER | NEWNS | NEWNET | NEWPID)


@hostile()
def clone_user_with_high_bits(bait: Bait) -> str:
    """The kernel looks at the low half of the flags; a filter must not be fooled by the other."""
    return clone(0x1_0000_0000 | NEWUSER)


@hostile()
def clone3_user(bait: Bait) -> str:
    """The flags lie behind a pointer, where a filter cannot read them."""
    return clone3(NEWUSER)


@hostile()
def clone3_user_and_mounts(bait: Bait) -> str:
    return clone3(NEWUSER | NEWNS)


@hostile(control="root")
def clone3_into_a_time_namespace(bait: Bait) -> str:
    """CLONE_NEWTIME lies in the bits of the exit signal: only clone3 can say it."""
    return clone3(NEWTIME)


@hostile(control="root")
def join_its_own_namespaces_again(bait: Bait) -> str:
    for name in ("mnt", "net", "ipc", "uts", "cgroup"):
        with contextlib.suppress(OSError):
            syscall(308, os.open(f"/proc/self/ns/{name}", os.O_RDONLY), 0)
            return name
    raise Held("none")


@hostile(control="root")
def join_the_namespaces_of_another_process(bait: Bait) -> str:
    for pid in others():
        with contextlib.suppress(OSError):
            syscall(308, os.open(f"/proc/{pid}/ns/net", os.O_RDONLY), NEWNET)
            return str(pid)
    raise Held("none")


@hostile(control="root")
def join_the_namespaces_behind_a_pidfd(bait: Bait) -> str:
    pidfd = syscall(434, os.getpid(), 0)
    syscall(308, pidfd, NEWNET | NEWIPC)
    return "joined"


@hostile()
def mount_in_a_nested_user_namespace(bait: Bait) -> str:
    unshare(NEWUSER | NEWNS)
    return mount("none", "/tmp", "tmpfs", 0)


@hostile(control="root")
def mount_a_file_system(bait: Bait) -> str:
    return mount("none", "/tmp", "tmpfs", 0)


@hostile(control="root")
def mount_a_second_proc(bait: Bait) -> str:
    return mount("proc", "/tmp", "proc", 0)


@hostile(control="root")
def mount_sysfs(bait: Bait) -> str:
    return mount("sysfs", "/tmp", "sysfs", 0)


@hostile(control="root")
def mount_a_cgroup_tree(bait: Bait) -> str:
    return mount("cgroup2", "/tmp", "cgroup2", 0)


@hostile(control="root")
def bind_the_root(bait: Bait) -> str:
    return mount("/", "/tmp", "", 4096 | 16384)


@hostile(control="root")
def make_mounts_shared(bait: Bait) -> str:
    return mount("none", "/", "", (1 << 20) | 16384)


@hostile(control="root")
def remount_everything_writable(bait: Bait) -> str:
    done = []
    for target in ("/", "/usr", "/proc", bait.text("folder")):
        with contextlib.suppress(OSError):
            done.append(mount("none", target, "", 4096 | 32))
    if not done:
        raise Held("none")
    return str(done)


@hostile(control="root", profiles=FOLDER)
def remount_the_folder_without_its_flags(bait: Bait) -> str:
    folder = bait.text("folder")
    mount(folder, folder, "", 4096)
    return mount("none", folder, "", 4096 | 32)


@hostile(control="root")
def unmount(bait: Bait) -> str:
    """/proc, and with it the option that hides processes."""
    syscall(166, b"/proc", 2)
    return "detached /proc"


@hostile(control="root")
def pivot(bait: Bait) -> str:
    with contextlib.suppress(OSError):
        unshare(NEWNS)
        mount("none", "/", "", (1 << 18) | 16384)
    mount("none", "/tmp", "tmpfs", 0)
    os.mkdir("/tmp/old")
    syscall(155, b"/tmp", b"/tmp/old")
    return str(os.listdir("/old"))


@hostile(control="root")
def clone_a_mount_tree(bait: Bait) -> str:
    return str(syscall(428, -100, b"/", 1 | os.O_CLOEXEC))


@hostile()
def open_a_mount_tree(bait: Bait) -> str:
    """Without the clone flag open_tree(2) asks for no right at all; a sandbox has no use for it."""
    return str(syscall(428, -100, b"/", os.O_CLOEXEC))


@hostile(control="root")
def open_a_file_system(bait: Bait) -> str:
    return str(syscall(430, b"tmpfs", 1))


@hostile(control="root")
def configure_a_mounted_file_system(bait: Bait) -> str:
    return str(syscall(433, -100, b"/", 1))


@hostile(control="root")
def change_the_attributes_of_a_mount(bait: Bait) -> str:
    """Clears what the sandbox set: read-only, no set-uid, no devices, no programs."""
    for path in (b"/proc", b"/usr", b"/", bait.text("folder").encode()):
        with contextlib.suppress(OSError):
            syscall(442, -100, path, 0, struct.pack("4Q", 0, 1 | 2 | 4 | 8, 0, 0), 32)
            return path.decode()
    raise Held("none")


@hostile(control="root")
def move_a_mount(bait: Bait) -> str:
    tree = syscall(428, -100, b"/usr", 1)
    syscall(429, tree, b"", -100, b"/tmp", 4)
    return "attached a second /usr"


@hostile(control="root")
def change_the_root(bait: Bait) -> str:
    os.chroot("/tmp")
    return "new root"


@hostile(control="root")
def rename_the_host(bait: Bait) -> str:
    syscall(170, b"svtest", 6)
    return os.uname().nodename


@hostile(control="root")
def rename_the_domain(bait: Bait) -> str:
    syscall(171, b"svtest", 6)
    return "domain name set"


def bait(place: Place) -> Values:
    return {"folder": place.folder}


BATCH = Batch.of(globals(), helpers=(unshare, clone, clone3, mount), bait=bait)


def test_no_namespace_is_made_or_joined_and_nothing_is_mounted(case: Case, arena: Arena) -> None:
    assert_held(arena, case)
