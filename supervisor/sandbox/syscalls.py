"""The system calls that Python lacks, by ctypes, in one idiom.

Runs as root in the spawner and, until the payload's execve, in the sandbox itself. Standard library only.
Every call raises OSError with the kernel's errno. Constants are from the kernel's uapi headers.
"""

from __future__ import annotations

import ctypes
import os
import struct

CLONE_NEWTIME, CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS = 0x80, 0x20000, 0x2000000, 0x4000000
CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x8000000, 0x10000000, 0x20000000, 0x40000000
CLONE_PIDFD, CLONE_INTO_CGROUP = 0x1000, 0x200000000
ALL_NAMESPACES = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET

# Host uids of our own: a range that nothing else allots, plus a host pid that no other live process has
# (a session's init, a proxy, a broker), so that nothing has to be remembered.
FIRST_UID = 0x70000000
# more than there are pids: between several uids of one session
APART = 1 << 22

AT_FDCWD, AT_EMPTY_PATH, AT_RECURSIVE = -100, 0x1000, 0x8000
OPEN_TREE_CLONE, OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 0x4
FSOPEN_CLOEXEC = FSMOUNT_CLOEXEC = 1
FSCONFIG_SET_STRING, FSCONFIG_CMD_CREATE = 1, 6
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC = 0x1, 0x2, 0x4, 0x8
MOUNT_ATTR_IDMAP = 0x100000
MNT_DETACH, MS_PRIVATE, MS_REC = 2, 1 << 18, 1 << 14
RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS = 0x02, 0x04

PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38

FAN_CLOEXEC, FAN_NONBLOCK = 0x1, 0x2
FAN_MARK_ADD_MOUNT = 0x1 | 0x10
FAN_MODIFY, FAN_CLOSE_WRITE, FAN_CLOSE_NOWRITE, FAN_OPEN, FAN_OPEN_EXEC = 0x2, 0x8, 0x10, 0x20, 0x1000
FAN_ONDIR = 0x40000000

LANDLOCK_CREATE_RULESET_VERSION = 1

_NUMBERS = {
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "clone3": 435,
    "close_range": 436,
    "openat2": 437,
    "mount_setattr": 442,
    "landlock_create_ruleset": 444,
    "landlock_add_rule": 445,
    "landlock_restrict_self": 446,
    "seccomp": 277 if os.uname().machine == "aarch64" else 317,
}

# PyDLL: the interpreter lock stays held, which a child would otherwise have to take anew
_libc = ctypes.PyDLL(None, use_errno=True)
# found now, or every child would search the libraries' symbols for itself
_before_fork = ctypes.pythonapi.PyOS_BeforeFork
_after_fork_parent = ctypes.pythonapi.PyOS_AfterFork_Parent
_after_fork_child = ctypes.pythonapi.PyOS_AfterFork_Child
_int, _uint, _long = ctypes.c_int, ctypes.c_uint, ctypes.c_long
_ulong, _str, _ptr = ctypes.c_ulong, ctypes.c_char_p, ctypes.c_void_p


class Call:
    """One system call or libc function with its argument types; -1 becomes OSError."""

    __slots__ = ("_function", "_prefix")

    def __init__(self, name: str, *types: type[object]) -> None:
        # Each needs a function object of its own: argtypes are a property of the object, and without
        # them ctypes cuts every argument to 32 bits.
        number = _NUMBERS.get(name)
        self._prefix: tuple[int, ...] = () if number is None else (number,)
        self._function = _libc[name if number is None else "syscall"]
        self._function.restype = _long if number is not None else _int
        self._function.argtypes = [*([_long] * len(self._prefix)), *types]  # type: ignore[list-item]

    def __call__(self, *arguments: object) -> int:
        result: int = self._function(*self._prefix, *arguments)
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result


open_tree = Call("open_tree", _int, _str, _uint)
move_mount = Call("move_mount", _int, _str, _int, _str, _uint)
fsopen = Call("fsopen", _str, _uint)
fsconfig = Call("fsconfig", _int, _uint, _str, _str, _int)
fsmount = Call("fsmount", _int, _uint, _uint)
close_range = Call("close_range", _uint, _uint, _uint)
umount2 = Call("umount2", _str, _int)
mount = Call("mount", _str, _str, _str, _ulong, _str)
unshare = Call("unshare", _int)
prctl = Call("prctl", _int, _ulong, _ulong, _ulong, _ulong)
fanotify_mark = Call("fanotify_mark", _int, _uint, ctypes.c_uint64, _int, _str)
_fanotify_init = Call("fanotify_init", _uint, _uint)
_openat2 = Call("openat2", _int, _str, _ptr, _ulong)
_mount_setattr = Call("mount_setattr", _int, _str, _uint, _ptr, _ulong)
_clone3 = Call("clone3", _ptr, _ulong)
landlock_create_ruleset = Call("landlock_create_ruleset", _ptr, _ulong, _uint)


def openat2(path: str, flags: int, directory: int = AT_FDCWD) -> int:
    """Open a path in which no symbolic link may be, not even one of procfs: that is ELOOP."""
    how = struct.pack("QQQ", flags | os.O_CLOEXEC, 0, RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS)
    return _openat2(directory, os.fsencode(path), how, len(how))


def copy_tree(tree: int) -> int:
    """A detached copy of a mount and of everything mounted below it."""
    return open_tree(tree, b"", AT_EMPTY_PATH | AT_RECURSIVE | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)


def mount_setattr(tree: int, *, attributes: int, userns: int = 0, recursive: bool = True) -> None:
    """Add `MOUNT_ATTR_*` to a mount, by default with everything mounted below it, and make it private."""
    attr = struct.pack("QQQQ", attributes, 0, MS_PRIVATE, userns)
    _mount_setattr(tree, b"", AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0), attr, len(attr))


def clone3(flags: int, *, cgroup: int = 0) -> tuple[int, int]:
    """Fork into new namespaces: (pid, pidfd), or (0, -1) in the child.

    Only for a single-threaded process: Python's own fork hooks are run around the call, as os.fork does.
    """
    pidfd = _int(-1)
    into = CLONE_INTO_CGROUP if cgroup else 0
    args = struct.pack("11Q", flags | CLONE_PIDFD | into, ctypes.addressof(pidfd), 0, 0, 17, 0, 0, 0, 0, 0, cgroup)
    _before_fork()
    try:
        pid = _clone3(args, len(args))
    except OSError:
        _after_fork_parent()
        raise
    if pid == 0:
        _after_fork_child()
        return 0, -1
    _after_fork_parent()
    os.set_inheritable(pidfd.value, False)
    return pid, pidfd.value


def file_events() -> int:
    """A queue of what happens to files; EPERM without root outside of user namespaces, EMFILE if there are many."""
    # a FIFO among the files must not hold up whoever reads the queue
    return _fanotify_init(FAN_CLOEXEC | FAN_NONBLOCK, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def last_capability() -> int:
    """The number of the highest capability this kernel knows."""
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
        return int(file.read())


def landlock_abi() -> int:
    """The kernel's Landlock ABI version; 0 where there is none or it is switched off."""
    try:
        return landlock_create_ruleset(None, 0, LANDLOCK_CREATE_RULESET_VERSION)
    except OSError:
        return 0
