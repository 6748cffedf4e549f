"""What a guest may leave in a writable folder for the host: set-uid files, devices, capabilities.

The program tries, and the host looks at the folder afterwards: what it finds there counts, whatever the
program thinks of its own success.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import stat
import struct

from tests.escape.arena import Arena, Place
from tests.escape.batch import Batch, Case, Values, assert_held
from tests.escape.hostile import SCOPE, Bait, Held, address, hostile, prepared, syscall

SETID = stat.S_ISUID | stat.S_ISGID


def fresh(bait: Bait, name: str) -> str:
    """A new file in the writable folder, named after the program that makes it."""
    path = f"{bait.text('scope')}/{name}"
    with prepared():
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o755))
    return path


def setid(path: str) -> str:
    mode = os.stat(path).st_mode
    if not mode & 0o6000:
        raise Held(f"mode {mode:o}")
    return f"{path} has mode {mode:o}"


@hostile(profiles=SCOPE)
def set_uid_by_chmod(bait: Bait) -> str:
    path = fresh(bait, "set_uid_by_chmod")
    syscall(90, path.encode(), 0o4755)
    return setid(path)


@hostile(profiles=SCOPE)
def set_gid_by_chmod(bait: Bait) -> str:
    path = fresh(bait, "set_gid_by_chmod")
    syscall(90, path.encode(), 0o2755)
    return setid(path)


@hostile(profiles=SCOPE)
def set_uid_by_fchmod(bait: Bait) -> str:
    path = fresh(bait, "set_uid_by_fchmod")
    syscall(91, os.open(path, os.O_RDONLY), 0o4755)
    return setid(path)


@hostile(profiles=SCOPE)
def set_uid_by_fchmodat(bait: Bait) -> str:
    path = fresh(bait, "set_uid_by_fchmodat")
    syscall(268, -100, path.encode(), 0o6755)
    return setid(path)


@hostile(profiles=SCOPE)
def set_uid_by_fchmodat2(bait: Bait) -> str:
    path = fresh(bait, "set_uid_by_fchmodat2")
    syscall(452, -100, path.encode(), 0o4755, 0)
    return setid(path)


@hostile(profiles=SCOPE)
def set_uid_with_high_bits_in_the_mode(bait: Bait) -> str:
    """The kernel takes 16 bits of the mode; a filter that compares 64 may be fooled by the rest."""
    path = fresh(bait, "set_uid_with_high_bits_in_the_mode")
    syscall(90, path.encode(), 0xFFFF_0000_0000 | 0o4755)
    return setid(path)


@hostile(profiles=SCOPE)
def set_uid_by_open(bait: Bait) -> str:
    path = f"{bait.text('scope')}/set_uid_by_open"
    syscall(2, path.encode(), os.O_CREAT | os.O_WRONLY, 0o4755)
    return setid(path)


@hostile(profiles=SCOPE)
def set_uid_by_openat(bait: Bait) -> str:
    path = f"{bait.text('scope')}/set_uid_by_openat"
    syscall(257, -100, path.encode(), os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o4755)
    return setid(path)


@hostile(profiles=SCOPE)
def set_uid_by_openat2(bait: Bait) -> str:
    path = f"{bait.text('scope')}/set_uid_by_openat2"
    how = struct.pack("QQQ", os.O_CREAT | os.O_WRONLY, 0o4755, 0)
    syscall(437, -100, path.encode(), how, len(how))
    return setid(path)


@hostile(profiles=SCOPE)
def set_uid_by_creat(bait: Bait) -> str:
    path = f"{bait.text('scope')}/set_uid_by_creat"
    syscall(85, path.encode(), 0o4755)
    return setid(path)


@hostile(profiles=SCOPE)
def set_uid_by_mknod(bait: Bait) -> str:
    path = f"{bait.text('scope')}/set_uid_by_mknod"
    syscall(133, path.encode(), stat.S_IFREG | 0o4755, 0)
    return setid(path)


@hostile(profiles=SCOPE)
def set_uid_by_mknodat(bait: Bait) -> str:
    path = f"{bait.text('scope')}/set_uid_by_mknodat"
    syscall(259, -100, path.encode(), stat.S_IFREG | 0o4755, 0)
    return setid(path)


@hostile(profiles=SCOPE)
def set_uid_by_an_unnamed_file(bait: Bait) -> str:
    scope = bait.text("scope")
    path = f"{scope}/set_uid_by_an_unnamed_file"
    fd = syscall(257, -100, scope.encode(), os.O_TMPFILE | os.O_RDWR, 0o4755)
    syscall(265, -100, f"/proc/self/fd/{fd}".encode(), -100, path.encode(), 0x400)
    return setid(path)


@hostile(profiles=SCOPE)
def set_uid_by_io_uring(bait: Bait) -> str:
    """A ring opens files without a system call that a filter sees: one OPENAT with mode 04755."""
    path = f"{bait.text('scope')}/set_uid_by_io_uring"
    name = ctypes.create_string_buffer(path.encode())
    params = ctypes.create_string_buffer(120)
    ring = syscall(425, 4, address(params))
    import mmap

    offsets = struct.unpack_from("10I", params.raw, 40)
    queue = mmap.mmap(ring, offsets[6] + 16 * 4, offset=0)
    entries = mmap.mmap(ring, 64 * 4, offset=0x10000000)
    entries[:64] = struct.pack("BBHiQQIIQ24x", 18, 0, 0, -100, 0, address(name), 0o4755, 0o101, 0)
    queue[offsets[6] : offsets[6] + 4] = struct.pack("I", 0)
    queue[offsets[1] : offsets[1] + 4] = struct.pack("I", 1)
    syscall(426, ring, 1, 1, 1, 0, 0)
    return setid(path)


@hostile(profiles=SCOPE)
def set_gid_directory(bait: Bait) -> str:
    path = f"{bait.text('scope')}/set_gid_directory"
    with prepared():
        os.mkdir(path)
    os.chmod(path, 0o2777)
    return setid(path)


@hostile(profiles=SCOPE, control="root")
def memory_device(bait: Bait) -> str:
    path = f"{bait.text('scope')}/memory_device"
    syscall(133, path.encode(), stat.S_IFCHR | 0o666, os.makedev(1, 1))
    return path


@hostile(profiles=SCOPE, control="root")
def disk_device(bait: Bait) -> str:
    path = f"{bait.text('scope')}/disk_device"
    syscall(259, -100, path.encode(), stat.S_IFBLK | 0o666, os.makedev(7, 0))
    return path


@hostile(profiles=SCOPE)
def whiteout_device(bait: Bait) -> str:
    """A 0/0 character device needs no capability in the kernel: it hides a file of an overlay."""
    path = f"{bait.text('scope')}/whiteout_device"
    syscall(133, path.encode(), stat.S_IFCHR, 0)
    return path


@hostile(profiles=SCOPE)
def whiteout_by_rename(bait: Bait) -> str:
    path = fresh(bait, "whiteout_by_rename")
    syscall(316, -100, path.encode(), -100, f"{path}-moved".encode(), 4)
    return taken_as_device(path)


def taken_as_device(path: str) -> str:
    if not stat.S_ISCHR(os.lstat(path).st_mode):
        raise Held("no device")
    return path


@hostile(profiles=SCOPE, control="root")
def file_capability(bait: Bait) -> str:
    path = fresh(bait, "file_capability")
    os.setxattr(path, "security.capability", struct.pack("<5I", 0x02000001, 0xFFFFFFFF, 0, 0xFF, 0))
    return path


@hostile(profiles=SCOPE, control="root")
def file_capability_of_a_namespace(bait: Bait) -> str:
    path = fresh(bait, "file_capability_of_a_namespace")
    os.setxattr(path, "security.capability", struct.pack("<6I", 0x03000001, 0xFFFFFFFF, 0, 0xFF, 0, 1000))
    return path


@hostile(profiles=SCOPE, control="root")
def immutable_file(bait: Bait) -> str:
    """A file that even its owner cannot remove."""
    fd = os.open(fresh(bait, "immutable_file"), os.O_RDONLY)
    fcntl.ioctl(fd, 0x40086602, struct.pack("L", 0x10))
    return "immutable"


@hostile(profiles=SCOPE)
def inherited_file_flags(bait: Bait) -> str:
    """FS_IOC_SETFLAGS with a flag that an owner may set (no dump): the ioctl itself is the boundary."""
    fd = os.open(fresh(bait, "inherited_file_flags"), os.O_RDONLY)
    fcntl.ioctl(fd, 0x40086602, struct.pack("L", 0x40))
    return "flag set"


@hostile(profiles=SCOPE, control="root")
def file_of_another_owner(bait: Bait) -> str:
    path = fresh(bait, "file_of_another_owner")
    os.chown(path, 4242, 4242)
    return f"owner {os.stat(path).st_uid}"


def bait(place: Place) -> Values:
    return {"scope": place.scope}


def judge(place: Place) -> dict[str, str]:
    """What the host finds in the folder, by the name of the program that left it."""
    found = {}
    for path in place.plot.scope.rglob("*"):
        status = path.lstat()
        if status.st_mode & SETID:
            found[path.name] = f"mode {status.st_mode:o}"
        if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
            found[path.name] = f"device {status.st_rdev}"
        if (status.st_uid, status.st_gid) != (place.plot.uid, place.plot.gid):
            found[path.name] = f"owner {status.st_uid}:{status.st_gid}"
        if stat.S_ISREG(status.st_mode) and "security.capability" in os.listxattr(path):
            found[path.name] = "has capabilities"
    return found


BATCH = Batch.of(globals(), helpers=(fresh, setid, taken_as_device), bait=bait, judge=judge)


def test_nothing_dangerous_is_left_in_a_writable_folder(case: Case, arena: Arena) -> None:
    assert_held(arena, case)
