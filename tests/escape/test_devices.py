"""Devices: memory, disks, the kernel's log, tunnels, and everything else that a /dev of a host holds.

This machine's kernel has no /dev/mem, /dev/kmem and /dev/port to be the control; what is asserted for them is
that no name in /dev but the harmless ones exists, and that no node for them can be made.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import struct

from tests.escape.arena import Arena, Place
from tests.escape.batch import Batch, Case, Values, assert_held
from tests.escape.hostile import SCOPE, Bait, Held, hostile, slurp, syscall, taken

HARMLESS = "null zero full random urandom fd stdin stdout stderr shm"


def node(path: str, kind: int, major: int, minor: int) -> str:
    """Make a device node and open it; on success the node is gone again."""
    syscall(133, path.encode(), kind | 0o666, os.makedev(major, minor))
    try:
        return f"{path} as {os.open(path, os.O_RDONLY | os.O_NONBLOCK)}"
    finally:
        os.unlink(path)


@hostile()
def find_more_than_the_harmless_devices(bait: Bait) -> str:
    more = set(os.listdir("/dev")) - set(bait.text("harmless").split())
    return taken(more, str(sorted(more))[:200], "only the harmless ones")


@hostile()
def find_a_device_outside_dev(bait: Bait) -> str:
    """Anywhere in the tree: a character or block device that can be opened, except the harmless ones."""
    found = []
    for directory, below, names in os.walk("/"):
        below[:] = [] if directory.count("/") > 3 else [b for b in below if b not in {"proc", "sys"}]
        for name in names:
            with contextlib.suppress(OSError):
                mode = os.lstat(os.path.join(directory, name)).st_mode
                special = stat.S_ISCHR(mode) or stat.S_ISBLK(mode)
                if special and name not in bait.text("harmless").split():
                    found.append(os.path.join(directory, name))
    return taken(found, str(found)[:200], "none")


@hostile(control="root")
def read_the_kernel_log_by_device(bait: Bait) -> str:
    return str(os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK))


@hostile(control="root")
def write_to_the_kernel_log(bait: Bait) -> str:
    return str(os.open("/dev/kmsg", os.O_WRONLY))


@hostile(control="root")
def read_a_disk(bait: Bait) -> str:
    for entry in os.scandir("/dev"):
        if stat.S_ISBLK(entry.stat(follow_symlinks=False).st_mode):
            with contextlib.suppress(OSError):
                return f"{entry.path} as {os.open(entry.path, os.O_RDONLY | os.O_NONBLOCK)}"
    raise Held("no block device")


@hostile(control="root")
def open_the_console(bait: Bait) -> str:
    return str(os.open("/dev/console", os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK))


@hostile()
def make_a_terminal(bait: Bait) -> str:
    return str(os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY))


@hostile()
def list_the_terminals(bait: Bait) -> str:
    return str(os.listdir("/dev/pts"))


@hostile(control="root")
def make_a_tunnel(bait: Bait) -> str:
    tunnel = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(tunnel, 0x400454CA, struct.pack("16sH22x", b"svtest%d", 2 | 0x1000))
    return "a tap interface"


@hostile(control="root")
def mount_by_fuse(bait: Bait) -> str:
    return str(os.open("/dev/fuse", os.O_RDWR))


@hostile(control="root")
def handle_faults_by_device(bait: Bait) -> str:
    return str(os.open("/dev/userfaultfd", os.O_RDWR))


@hostile(control="root")
def make_a_memory_node(bait: Bait) -> str:
    """The node alone: this kernel has no driver behind it."""
    path = "/tmp/svtest-memory"
    syscall(133, path.encode(), stat.S_IFCHR | 0o666, os.makedev(1, 1))
    os.unlink(path)
    return "made"


@hostile(control="root")
def make_a_log_node(bait: Bait) -> str:
    return node("/tmp/svtest-log", stat.S_IFCHR, 1, 11)


@hostile(control="root")
def make_a_loop_node(bait: Bait) -> str:
    return node("/tmp/svtest-loop", stat.S_IFBLK, 7, 0)


@hostile(control="root")
def make_a_null_node(bait: Bait) -> str:
    return node("/tmp/svtest-null", stat.S_IFCHR, 1, 3)


@hostile(control="root", profiles=SCOPE)
def make_a_node_in_the_scope(bait: Bait) -> str:
    return node(f"{bait.text('scope')}/svtest-zero", stat.S_IFCHR, 1, 5)


@hostile(control="root")
def make_a_node_in_dev(bait: Bait) -> str:
    return node("/dev/svtest-zero", stat.S_IFCHR, 1, 5)


@hostile(control="root")
def change_the_harmless_devices(bait: Bait) -> str:
    """To the mode they have; a /dev/null that others made unusable is a classic."""
    os.chmod("/dev/null", stat.S_IMODE(os.stat("/dev/null").st_mode))
    return "mode set"


@hostile(control="root")
def replace_a_harmless_device(bait: Bait) -> str:
    os.rename("/dev/full", "/dev/svtest-full")
    os.rename("/dev/svtest-full", "/dev/full")
    return "renamed and back"


@hostile(control="root")
def add_to_the_entropy(bait: Bait) -> str:
    """RNDADDTOENTCNT of nothing: the gate of the calls that empty or credit the pool."""
    fcntl.ioctl(os.open("/dev/random", os.O_RDONLY), 0x40045201, struct.pack("i", 0))
    return "credited"


@hostile()
def list_sysfs(bait: Bait) -> str:
    names = os.listdir("/sys")
    return taken(names, str(names), "empty")


@hostile()
def read_the_hardware(bait: Bait) -> str:
    for name in ("/sys/class/net/lo/mtu", "/sys/devices/system/cpu/online", "/sys/kernel/notes"):
        with contextlib.suppress(OSError):
            return f"{name}: {slurp(name)[:40]!r}"
    raise Held("no sysfs")


@hostile(control="root")
def write_sysfs(bait: Bait) -> str:
    for path in ("/sys/power/state", "/sys/kernel/mm/ksm/run", "/sys/kernel/profiling"):
        with contextlib.suppress(OSError):
            return f"{path} as {os.open(path, os.O_WRONLY)}"
    raise Held("no sysfs")


@hostile()
def find_the_cgroup_tree(bait: Bait) -> str:
    return str(os.listdir("/sys/fs/cgroup"))


@hostile(control="root")
def write_the_cgroup_tree(bait: Bait) -> str:
    """Move into another group, or set a program that the kernel runs when a group is empty."""
    for path in ("/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/memory/tasks", "/sys/fs/cgroup/release_agent"):
        with contextlib.suppress(OSError):
            return str(os.open(path, os.O_WRONLY))
    raise Held("nothing to write to")


def bait(place: Place) -> Values:
    return {"harmless": HARMLESS, "scope": place.scope}


BATCH = Batch.of(globals(), helpers=(node,), bait=bait)


def test_no_device_but_the_harmless_ones(case: Case, arena: Arena) -> None:
    assert_held(arena, case)
