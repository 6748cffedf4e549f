"""A client's configuration file as `adopt` and `release` take it: whose it is, what stands in it, its backup.

Runs as the owner of the file. What cannot be edited safely is refused, with its line if it is about the text.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from supervisor import given
from supervisor.errors import ConfigError, Refused
from supervisor.registry import clients, jsonc

LIMIT = 16 << 20
BACKUP = ".supervisor-backup"
_BOM = "\ufeff"


@dataclass(frozen=True)
class File:
    """Its real path, its bytes, its text without the mark in front, and the value that it holds."""

    path: str
    data: bytes
    text: str
    root: jsonc.Node

    @property
    def loose(self) -> bool:
        """Whether its client takes comments."""
        return clients.loose(self.path)

    def encoded(self, text: str) -> bytes:
        """Another text as this file would have it."""
        mark = _BOM if self.data.startswith(_BOM.encode()) else ""
        return (mark + text).encode()


def load(written: str) -> File:
    """Read a client's file that this user may edit; a link is followed."""
    path = os.path.realpath(written)
    if not clients.encodable(path):
        raise ConfigError(f"{path!r}: its name is not UTF-8")
    info = given.regular(path)
    if info.st_uid != os.geteuid():
        raise Refused(f"{path}: it belongs to uid {info.st_uid}; run this as that user")
    if not info.st_mode & stat.S_IWUSR:
        raise ConfigError(f"{path}: it is read-only (mode {info.st_mode & 0o777:o}): chmod u+w it first")
    data = given.read(path, LIMIT)
    try:
        text = data.decode().removeprefix(_BOM)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8, at byte {error.start}") from None
    if not text.strip():
        raise ConfigError(f"{path}: it is empty; there is no server in it")
    with told(path, text):
        return File(path, data, text, jsonc.parse(text, loose=clients.loose(path)))


@contextlib.contextmanager
def told(path: str, text: str) -> Iterator[None]:
    """What is wrong with a text, told with file and line."""
    try:
        yield
    except jsonc.NotJson as error:
        raise ConfigError(f"{path}:{jsonc.place(text, error.position)}: {error}") from None


def tables(file: File, home: str) -> list[clients.Table]:
    """The tables of servers in a file."""
    with told(file.path, file.text):
        return clients.tables(file.root, clients.project(file.path, home))


def entries(file: File, home: str) -> list[clients.Entry]:
    """Every server of a file that its client starts."""
    with told(file.path, file.text):
        return [each for table in tables(file, home) for each in clients.entries(table)]


def back_up(file: File) -> tuple[str, bool]:
    """(where the bytes of a file are kept, whether that was made now). An earlier copy is never overwritten."""
    number, path = 1, file.path + BACKUP
    while True:
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            with contextlib.suppress(OSError), open(path, "rb") as there:
                if there.read(LIMIT + 1) == file.data:
                    return path, False
            number += 1
            path = f"{file.path}{BACKUP}-{number}"
            continue
        with open(fd, "wb") as new:
            new.write(file.data)
            new.flush()
            os.fsync(fd)
        return path, True


def own_command() -> list[str]:
    """What a client is to start: this program, by a path that is good from anywhere."""
    started = os.path.abspath(sys.argv[0])
    if os.path.basename(started) == "supervisor" and os.access(started, os.X_OK):
        return [started]
    script = os.path.join(os.path.dirname(os.path.abspath(sys.executable)), "supervisor")
    return [script] if os.access(script, os.X_OK) else [os.path.abspath(sys.executable), "-m", "supervisor"]
