"""The folders the server may read, and the only functions that turn a caller's path into an open file.

Runs as the session's unprivileged uid. A path is resolved first and then opened one component at a
time without following links, so a link that is swapped in between ends in an error, not outside.
Must never open anything but regular files and directories, nor open a file so that it can block.
"""

import difflib
import errno
import io
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from .answer import ToolError

PATH_LIMIT = 4096  # PATH_MAX
NAMES_COMPARED = 2000  # names looked at for "did you mean"

FOLDER = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a FIFO would wait for a writer. O_NOCTTY: a terminal must not become ours.
FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY

UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f\udc80-\udcff]")
ESCAPE = re.compile(r"\\x([0-9a-f]{2})")

KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "named pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}


@dataclass(frozen=True)
class Root:
    """One allowed folder, held open so that renaming it changes nothing."""

    name: str
    real: str
    fd: int


@dataclass(frozen=True)
class Place:
    """A resolved path inside a root: no link and no `..` is left in `parts`."""

    root: Root
    parts: tuple[str, ...]
    shown: str


def printable(name: str) -> str:
    r"""A file name as text that JSON can carry: odd bytes become `\xNN`, which `find` reads back."""
    return UNPRINTABLE.sub(lambda odd: f"\\x{ord(odd[0]) & 0xFF:02x}", name)


def _unprintable(shown: str) -> str:
    raw = re.sub(rb"\\x([0-9a-f]{2})", lambda code: bytes([int(code[1], 16)]), os.fsencode(shown))
    return os.fsdecode(raw)


def kind_of(mode: int) -> str:
    return KINDS.get(stat.S_IFMT(mode), "unknown")


def open_regular(name: str, folder: int) -> io.FileIO:
    """Open a regular file for reading; anything else raises `ToolError` before it is opened."""
    _check_regular(name, os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    file = io.FileIO(os.open(name, FILE, dir_fd=folder), "rb")
    try:
        _check_regular(name, os.fstat(file.fileno()).st_mode)
    except ToolError:
        file.close()
        raise
    return file


def _check_regular(name: str, mode: int) -> None:
    if stat.S_ISREG(mode):
        return
    shown = printable(name)
    if stat.S_ISDIR(mode):
        raise ToolError(
            f'"{shown}" is a directory, not a file. Use list_directory or directory_tree to look into it.'
        )
    if stat.S_ISLNK(mode):
        raise ToolError(f'"{shown}" is a symbolic link that leads back to itself. Choose another path.')
    raise ToolError(f'"{shown}" is a {kind_of(mode)}; only regular files can be read. Choose another file.')


class Roots:
    """The allowed folders, in the order of the command line."""

    def __init__(self, folders: Sequence[str]) -> None:
        """Raises OSError naming the folder that cannot be opened."""
        self.roots: list[Root] = []
        for folder in folders:
            name = os.path.abspath(folder)
            fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            self.roots.append(Root(name, os.path.realpath(name), fd))

    def close(self) -> None:
        for root in self.roots:
            os.close(root.fd)

    def __str__(self) -> str:
        return ", ".join(printable(root.name) for root in self.roots)

    def find(self, path: str) -> Place:
        r"""Resolve what the caller wrote; raises `ToolError` if that is outside every root.

        The path may not exist: opening it says so. `\xNN` is undone only where no file has the literal name.
        """
        if len(path) > PATH_LIMIT or "\0" in path:
            raise ToolError(f"the path is not a file name: it has a NUL or more than {PATH_LIMIT} characters")
        try:
            os.fsencode(path)
        except UnicodeEncodeError:
            raise ToolError("the path is not a file name: it holds half of a surrogate pair") from None
        place = self._locate(path)
        if ESCAPE.search(path) and not os.path.lexists(os.path.join(place.root.real, *place.parts)):
            return self._locate(_unprintable(path))
        return place

    def _locate(self, path: str) -> Place:
        real = os.path.realpath(os.path.join(self.roots[0].name, path))
        for root in self.roots:
            if real == root.real or real.startswith(root.real.rstrip("/") + "/"):
                parts = tuple(part for part in real[len(root.real) :].split("/") if part)
                return Place(root, parts, self.shown(root, parts))
        raise ToolError(
            f'"{printable(path)}": path is outside the allowed folders: {self}. '
            'Give a path inside them; list_directory(".") shows the first.'
        )

    def shown(self, root: Root, parts: tuple[str, ...]) -> str:
        """How answers name a place: relative to the first root, absolute in others. `find` takes both."""
        if root is self.roots[0]:
            return printable("/".join(parts)) or "."
        return printable(os.path.join(root.name, *parts))

    def open_file(self, place: Place) -> io.FileIO:
        """The unbuffered file; raises `ToolError` if it is missing, unreadable or not a regular file."""
        if not place.parts:
            raise ToolError(f'"{place.shown}" is a directory, not a file. Use list_directory to look into it.')
        with self._descend(place, place.parts[:-1]) as folder:
            try:
                return open_regular(place.parts[-1], folder)
            except OSError as error:
                raise self._refusal(error, place, place.parts, folder) from error

    @contextmanager
    def open_folder(self, place: Place) -> Iterator[int]:
        """A directory's fd, for `scandir`; raises `ToolError` if missing, unreadable or not a directory."""
        with self._descend(place, place.parts) as folder:
            try:
                fd = os.open(".", os.O_RDONLY | FOLDER, dir_fd=folder)
            except OSError as error:
                raise self._refusal(error, place, place.parts, folder) from error
        try:
            yield fd
        finally:
            os.close(fd)

    def status(self, place: Place) -> os.stat_result:
        """Raises `ToolError` if the place does not exist or may not be looked at."""
        if not place.parts:
            return os.fstat(place.root.fd)
        with self._descend(place, place.parts[:-1]) as folder:
            try:
                return os.stat(place.parts[-1], dir_fd=folder, follow_symlinks=False)
            except OSError as error:
                raise self._refusal(error, place, place.parts, folder) from error

    @contextmanager
    def _descend(self, place: Place, parts: tuple[str, ...]) -> Iterator[int]:
        """An O_PATH fd of the directory `parts`, reached without following a link."""
        fd = os.open(".", os.O_PATH | FOLDER, dir_fd=place.root.fd)
        try:
            for depth, name in enumerate(parts, 1):
                try:
                    below = os.open(name, os.O_PATH | FOLDER, dir_fd=fd)
                except OSError as error:
                    raise self._refusal(error, place, parts[:depth], fd) from error
                os.close(fd)
                fd = below
            yield fd
        finally:
            os.close(fd)

    def _refusal(self, error: OSError, place: Place, parts: tuple[str, ...], folder: int) -> ToolError:
        """Say what is wrong with `parts`, whose last name was looked up in the directory `folder`."""
        shown = self.shown(place.root, parts)
        if error.errno == errno.ENOENT:
            return self._missing(place.root, parts, folder)
        if error.errno in (errno.EACCES, errno.EPERM):
            return ToolError(f'"{shown}": permission denied. The server may not read it; choose another path.')
        if error.errno == errno.ENOTDIR:
            return ToolError(f'"{shown}" is not a directory. Use get_file_info to see what it is.')
        return ToolError(f'"{shown}": {os.strerror(error.errno or errno.EIO).lower()}. Choose another path.')

    def _missing(self, root: Root, parts: tuple[str, ...], folder: int) -> ToolError:
        shown, parent = self.shown(root, parts), self.shown(root, parts[:-1])
        near = difflib.get_close_matches(parts[-1], _some_names(folder), n=3, cutoff=0.6)
        if near:
            names = ", ".join(f'"{printable(name)}"' for name in near)
            return ToolError(f'"{shown}" does not exist. "{parent}" has: {names}.')
        return ToolError(f'"{shown}" does not exist. list_directory("{parent}") shows what does.')


def _some_names(folder: int) -> list[str]:
    """Up to NAMES_COMPARED names of a directory given by an O_PATH fd; none if it may not be read."""
    try:
        fd = os.open(".", os.O_RDONLY | FOLDER, dir_fd=folder)
    except OSError:
        return []
    try:
        with os.scandir(fd) as entries:
            return [entry.name for entry, _ in zip(entries, range(NAMES_COMPARED), strict=False)]
    finally:
        os.close(fd)
