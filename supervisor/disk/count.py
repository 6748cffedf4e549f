"""What was added to the folders that a session may write, counted: bytes on disk, and files.

Runs in the watcher, as the session's own user. An inode counts when its ctime, which nobody can set, is not older
than the session; what has no name any more counts when a process of the session holds it. What cannot be counted
is an error, never nothing. Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import struct
from collections.abc import Iterator

from supervisor.disk.still import OVER, members, state
from supervisor.sandbox import syscalls as sc

_AT_SYMLINK_NOFOLLOW, _STATX_BTIME = 0x100, 0x800
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_statx = sc.Call("statx", ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_char_p)


class Enough(Exception):
    """A bound is passed, and by how much does not matter."""


class Count:
    """`since` is in nanoseconds since the epoch, `file_size` the most that the session can make of one file."""

    def __init__(self, since: int, file_size: int, bounds: list[int]) -> None:
        self.since, self.file_size, self.bounds = since, file_size, bounds
        self.bytes = self.files = 0
        self.devices: set[int] = set()
        self.places: list[str] = []
        self.seen: set[tuple[int, int]] = set()

    def all(self, places: list[int]) -> tuple[int, int]:
        """(bytes, files) at and below these O_PATH descriptors, and held open; no further than over a bound."""
        with contextlib.suppress(Enough):
            for place in places:
                self.place(place)
            self.processes()
        return self.bytes, self.files

    def take(self, found: os.stat_result, *, born: bool) -> None:
        """Add one inode: all of it when it was made since, else what can have been added to it."""
        folder = stat.S_ISDIR(found.st_mode)
        if folder or found.st_nlink != 1:
            # a file of several names, a folder that two mounts lead to
            if (found.st_dev, found.st_ino) in self.seen:
                return
            self.seen.add((found.st_dev, found.st_ino))
        size = found.st_blocks * 512
        self.add(size if born or folder else min(size, self.file_size), int(born))

    def add(self, size: int, files: int) -> None:
        """So much more; Enough when it is too much."""
        self.bytes += size
        self.files += files
        if self.bytes > self.bounds[0] or self.files > self.bounds[1]:
            raise Enough

    def place(self, fd: int) -> None:
        """One place, and everything below it."""
        found = os.fstat(fd)
        self.devices.add(found.st_dev)
        self.places.append(os.readlink(f"/proc/self/fd/{fd}"))
        if found.st_ctime_ns >= self.since:
            self.take(found, born=self._born(fd, "", sc.AT_EMPTY_PATH))
        if stat.S_ISDIR(found.st_mode):
            self._below(os.open(".", _FOLDER, dir_fd=fd))

    def _below(self, top: int) -> None:
        # a descriptor for each level: a tree too deep for that is an error
        stack = [(top, os.scandir(top))]
        try:
            while stack:
                fd, entries = stack[-1]
                entry = next(entries, None)
                if entry is None:
                    stack.pop()
                    entries.close()
                    os.close(fd)
                elif (inner := self._entry(fd, entry)) >= 0:
                    stack.append((inner, os.scandir(inner)))
        finally:
            for fd, entries in stack:
                entries.close()
                os.close(fd)

    def _entry(self, fd: int, entry: os.DirEntry[str]) -> int:
        """Count one; the descriptor of a folder that has to be looked into, or -1."""
        try:
            found = entry.stat(follow_symlinks=False)
            if found.st_ctime_ns >= self.since:
                self.take(found, born=self._born(fd, entry.name, _AT_SYMLINK_NOFOLLOW))
            return os.open(entry.name, _FOLDER, dir_fd=fd) if stat.S_ISDIR(found.st_mode) else -1
        except (FileNotFoundError, NotADirectoryError):
            return -1  # it was there a moment ago
        except PermissionError:
            # another user's; then the session can make nothing in it either, with one exception
            if os.access(entry.name, os.W_OK | os.X_OK, dir_fd=fd, effective_ids=True):
                raise
            return -1

    def _born(self, fd: int, name: str, flags: int) -> bool:
        """Whether it was made since; where the file system does not say, a change counts as that."""
        answer = ctypes.create_string_buffer(256)
        _statx(fd, os.fsencode(name), flags, _STATX_BTIME, answer)
        told = struct.unpack_from("I", answer)[0] & _STATX_BTIME
        seconds, nanoseconds = struct.unpack_from("qI", answer, 80)
        return not told or int(seconds) * 10**9 + int(nanoseconds) >= self.since

    def processes(self) -> None:
        """What processes of our user namespace hold and no folder shows."""
        for pid in members():
            # not ours to see, or it has just ended
            with contextlib.suppress(PermissionError, FileNotFoundError, ProcessLookupError):
                self._process(f"/proc/{pid}")

    def _process(self, base: str) -> None:
        mapped: set[tuple[int, int]] = set()
        for thread in os.listdir(f"{base}/task"):
            try:
                self._thread(f"{base}/task/{thread}")
                mapped = mapped or set(self._mapped(f"{base}/task/{thread}"))
            except PermissionError:
                if state(f"{base}/task/{thread}") not in OVER:
                    raise OSError(errno.EOPNOTSUPP, "a process hides what it holds open") from None
            except (FileNotFoundError, ProcessLookupError):
                pass
        for each in mapped - self.seen:
            self.seen.add(each)
            self.add(self.file_size, 1)

    def _thread(self, base: str) -> None:
        """A thread may have descriptors and a working folder that no other of its process has.

        PermissionError when it has ended, or its process is not dumpable: of that not even its own user is told.
        """
        for name in ("cwd", "exe", *(f"fd/{number}" for number in os.listdir(f"{base}/fd"))):
            with contextlib.suppress(FileNotFoundError):
                found = os.stat(f"{base}/{name}")
                if found.st_nlink == 0 and found.st_dev in self.devices:
                    self.take(found, born=True)
                elif stat.S_ISSOCK(found.st_mode) and _flying(f"{base}/fdinfo/{name[3:]}"):
                    # in nobody's table: any file, or another socket with more on its way
                    raise OSError(errno.EOPNOTSUPP, "descriptors are on their way through a socket")

    def _mapped(self, base: str) -> Iterator[tuple[int, int]]:
        """(device, inode) of the mapped files that have lost their name in one of the places."""
        with open(f"{base}/maps", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                fields = line.rstrip("\n").split(maxsplit=5)
                if fields[-1].endswith(" (deleted)") and fields[-1].startswith(tuple(self.places)):
                    major, minor = fields[3].split(":")
                    yield os.makedev(int(major, 16), int(minor, 16)), int(fields[4])


def _flying(path: str) -> bool:
    """Whether descriptors wait in a socket to be received."""
    with open(path, encoding="utf-8") as file:
        return any(int(line.split()[1]) for line in file if line.startswith("scm_fds:"))
