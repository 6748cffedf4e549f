"""Mounts by file descriptor: read-only trees, tmpfs, the root template, idmapped folders.

Runs as root in the spawner (or as the owner of its user namespace). Nothing here touches a mount namespace
other than the spawner's own; detached trees are handed to the sandbox, which attaches them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import stat
import struct

from supervisor.errors import WireError
from supervisor.sandbox import syscalls as sc

DEVICES = ("null", "zero", "full", "random", "urandom")
DEVICE_LINKS = {
    "dev/fd": "/proc/self/fd",
    "dev/stdin": "/proc/self/fd/0",
    "dev/stdout": "/proc/self/fd/1",
    "dev/stderr": "/proc/self/fd/2",
    # POSIX shared memory shares the one bounded tmpfs
    "dev/shm": "/tmp",
}
FOLDERS = ("dev", "proc", "tmp")
CANARY = "/.sealed"
_LOOP_CTL_GET_FREE, _LOOP_CONFIGURE, _READ_ONLY_AUTOCLEAR = 0x4C82, 0x4C0A, 1 | 4
_PLAIN = sc.MOUNT_ATTR_NOSUID | sc.MOUNT_ATTR_NODEV
# no tree of the host's: a file system that is made from the session's secrets
SECRETS = "/run/secrets"
_PARKING = (b"/sys/kernel", b"/dev/shm", b"/dev/pts")


class MountSpec:
    """One mount as the spawner got it. See supervisor.model.Mount for the meaning of the fields."""

    __slots__ = ("directory", "is_file", "map_owner", "mode", "noexec", "source", "target")

    def __init__(self, raw: object, directory: int = sc.AT_FDCWD) -> None:
        if not isinstance(raw, dict):
            raise WireError("document: a mount is not a table")
        self.directory, self.source = directory, str(raw["source"])
        self.target, self.mode = str(raw["target"]), str(raw["mode"])
        self.noexec, self.is_file = raw["noexec"] is True, raw["is_file"] is True
        self.map_owner = raw["map_owner"] is True

    def attributes(self) -> int:
        """The MOUNT_ATTR_* bits: nosuid and nodev always."""
        bits = _PLAIN | (sc.MOUNT_ATTR_RDONLY if self.mode == "ro" else 0)
        return bits | (sc.MOUNT_ATTR_NOEXEC if self.noexec else 0)


def filesystem(kind: str, options: dict[str, str], attributes: int) -> int:
    """A detached mount of a new file system (`tmpfs`, `proc`); an empty option value is a flag."""
    context = sc.fsopen(kind.encode(), sc.FSOPEN_CLOEXEC)
    try:
        for key, value in options.items():
            sc.fsconfig(context, sc.FSCONFIG_SET_STRING, key.encode(), value.encode(), 0)
        sc.fsconfig(context, sc.FSCONFIG_CMD_CREATE, None, None, 0)
        return sc.fsmount(context, sc.FSMOUNT_CLOEXEC, attributes)
    finally:
        os.close(context)


def open_source(spec: MountSpec) -> int:
    """An O_PATH descriptor of exactly the path that was planned: no link on the way, the right kind.

    A link that was put there since (ELOOP) or another kind of file (ENOTDIR, EINVAL) is refused.
    """
    flags = os.O_PATH | (0 if spec.is_file else os.O_DIRECTORY)
    fd = sc.openat2(spec.source, flags, spec.directory)
    if spec.is_file and not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(22, "not a regular file")
    return fd


def detached(spec: MountSpec, session_uid: int | None) -> int:
    """A detached, restricted copy of a host tree.

    With `map_owner`, the owner on disk becomes `session_uid` (a host uid). A file system that cannot map
    owners (overlay) is shown with its own ids when read-only, which grants less; writable, it is an error.
    """
    source = open_source(spec)
    try:
        tree, owner = sc.copy_tree(source), os.fstat(source)
    finally:
        os.close(source)
    try:
        if spec.map_owner and session_uid is not None and owner.st_uid != session_uid:
            userns = _owner_namespace(owner.st_uid, owner.st_gid, session_uid)
            try:
                sc.mount_setattr(tree, attributes=spec.attributes() | sc.MOUNT_ATTR_IDMAP, userns=userns)
                return tree
            except OSError as error:
                if error.errno != 22 or spec.mode == "rw":
                    raise
            finally:
                os.close(userns)
        sc.mount_setattr(tree, attributes=spec.attributes())
    except OSError:
        os.close(tree)
        raise
    return tree


def _owner_namespace(uid: int, gid: int, session_uid: int) -> int:
    """A user namespace whose map says: id on disk `uid` is the kernel's `session_uid`."""
    pid, pidfd = sc.clone3(sc.CLONE_NEWUSER)
    if pid == 0:
        signal.pause()
        os._exit(0)
    try:
        write(f"/proc/{pid}/uid_map", f"{uid} {session_uid} 1")
        write(f"/proc/{pid}/gid_map", f"{gid} {session_uid} 1")
        return os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(pidfd)


def write(path: str, text: str) -> None:
    """One write(2) of `text`: what procfs and cgroupfs need."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def attach(tree: int, directory: int, path: str) -> None:
    """Move a detached tree to `path` below the descriptor `directory`, and close it."""
    try:
        sc.move_mount(tree, b"", directory, path.lstrip("/").encode() or b".", sc.MOVE_MOUNT_F_EMPTY_PATH)
    finally:
        os.close(tree)


def make_mount_point(root: int, target: str, *, is_file: bool) -> None:
    """Create an empty folder or file, and its parents, in a tmpfs that nobody else sees, unless they are there."""
    parts = target.strip("/").split("/")
    for depth in range(1, len(parts) + (0 if is_file else 1)):
        with contextlib.suppress(FileExistsError):
            os.mkdir("/".join(parts[:depth]), 0o755, dir_fd=root)
    if is_file:
        with contextlib.suppress(FileExistsError):
            os.mknod("/".join(parts), stat.S_IFREG | 0o444, dir_fd=root)


def image(memory: int) -> int:
    """Mount a sealed squashfs read-only, where no source of a mount can lie; returns its root's descriptor.

    The loop device goes with its last mount, whoever is killed before.
    """
    while True:
        with open("/dev/loop-control", "rb", buffering=0) as control:
            name = f"/dev/loop{fcntl.ioctl(control, _LOOP_CTL_GET_FREE)}"
        with open(name, "rb", buffering=0) as device:
            try:
                # struct loop_config: the file, and of its loop_info64 the flags
                fcntl.ioctl(device, _LOOP_CONFIGURE, struct.pack("=II52xI240x", memory, 0, _READ_ONLY_AUTOCLEAR))
            except OSError as error:
                if error.errno == errno.EBUSY:  # somebody else was faster
                    continue
                raise
            root = filesystem("squashfs", {"source": name, "ro": ""}, sc.MOUNT_ATTR_RDONLY | _PLAIN)
        _park(root)
        return root


def shown(root: int, points: dict[str, bool], folder: str = "") -> tuple[list[MountSpec], dict[str, str]]:
    """What of an image's folder is shown around the mount points (path -> is it a file): trees, and links.

    A folder in which a mount point lies is made anew, because an image cannot be written: what is in it is mounted.
    No link of the image is followed; OSError names what lies where a folder has to be.
    """
    trees: list[MountSpec] = []
    links: dict[str, str] = {}
    here = sc.openat2(folder[1:] or ".", os.O_RDONLY | os.O_DIRECTORY, root)
    for name in os.listdir(here):
        path, kind = f"{folder}/{name}", stat.S_IFMT(os.stat(name, dir_fd=here, follow_symlinks=False).st_mode)
        inner = any(point.startswith(f"{path}/") for point in points)
        if kind != stat.S_IFDIR and (inner or points.get(path) is False):
            raise OSError(errno.ENOTDIR, f"the image has no folder at {path}, where something is mounted")
        if inner:
            more, named = shown(root, points, path)
            trees, links = trees + more, links | named
        elif kind == stat.S_IFLNK and path not in points:
            links[path[1:]] = os.readlink(name, dir_fd=here)
        elif path not in points:
            raw = {"source": path[1:], "target": path, "mode": "ro", "is_file": kind != stat.S_IFDIR}
            trees.append(MountSpec(raw | {"noexec": False, "map_owner": False}, root))
    os.close(here)
    return trees, links


def template(trees: list[MountSpec], points: list[MountSpec], links: dict[str, str], files: dict[str, str]) -> int:
    """Build the part of a root that all sessions of a spec share; returns its descriptor.

    It is attached somewhere in the spawner's own mount namespace, because older kernels attach nothing to a
    detached tree. `points` are mount points that each session fills with mounts of its own. Read-only in
    the end.
    """
    root = filesystem("tmpfs", {"mode": "0755", "size": "1m", "nr_inodes": "4096"}, _PLAIN)
    _park(root)
    for folder in (*FOLDERS, "etc"):
        os.mkdir(folder, 0o755, dir_fd=root)
    for path in (f"/dev/{name}" for name in DEVICES):
        make_mount_point(root, path, is_file=True)
        device = sc.open_tree(sc.AT_FDCWD, path.encode(), sc.OPEN_TREE_CLONE | sc.OPEN_TREE_CLOEXEC)
        sc.mount_setattr(device, attributes=sc.MOUNT_ATTR_NOSUID | sc.MOUNT_ATTR_NOEXEC)
        attach(device, root, path)
    for path, text in [(CANARY, ""), *files.items()]:
        make_mount_point(root, path, is_file=True)
        write(f"/proc/self/fd/{root}{path}", text)
    for spec in sorted(trees + points, key=lambda each: each.target):
        if not spec.target.startswith("/tmp/"):
            make_mount_point(root, spec.target, is_file=spec.is_file)
            if spec in trees:
                attach(detached(spec, None), root, spec.target)
    for name, target in (DEVICE_LINKS | links).items():
        if "/" in name:
            make_mount_point(root, os.path.dirname(name), is_file=False)
        os.symlink(target, name, dir_fd=root)
    sc.mount_setattr(root, attributes=sc.MOUNT_ATTR_RDONLY | _PLAIN, recursive=False)
    return root


def _park(root: int) -> None:
    """Attach where no source of a mount can lie. Not over `/`: to the kernel that would look like a chroot,
    and a process in one may not make user namespaces.

    Each root gets a place of its own: one that is attached over another would be part of it, and of every
    recursive copy of it.
    """
    place = filesystem("tmpfs", {"mode": "0700", "size": "4k", "nr_inodes": "2"}, sc.MOUNT_ATTR_NOEXEC)
    try:
        os.mkdir("root", 0o700, dir_fd=place)
        there = next(filter(os.path.isdir, _PARKING), _PARKING[0])
        sc.move_mount(place, b"", sc.AT_FDCWD, there, sc.MOVE_MOUNT_F_EMPTY_PATH)
        sc.move_mount(root, b"", place, b"root", sc.MOVE_MOUNT_F_EMPTY_PATH)
    finally:
        os.close(place)


def unpark(root: int) -> None:
    """Detach a template, and close it. Its empty place stays: the places of later ones are attached over it."""
    sc.umount2(f"/proc/self/fd/{root}".encode(), sc.MNT_DETACH)
    os.close(root)
