"""Files that a command rewrites: locked against another command, and replaced whole or not at all.

Runs as whoever types the command. What is replaced keeps its mode and its owner; a failure leaves it as it was.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator

from supervisor.errors import SupervisorError

NEW = ".supervisor-new"


@contextlib.contextmanager
def locked(folder: str) -> Iterator[None]:
    """Hold a folder against other commands of ours; it is made, and goes again if nothing came into it."""
    made = not os.path.isdir(folder)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
        if made:
            with contextlib.suppress(OSError):
                os.rmdir(folder)


def replace(path: str, data: bytes, *, before: bytes | None) -> None:
    """Put `data` in the place of a file, or make it, for its owner alone, where `before` is None.

    OSError, or SupervisorError when somebody else has changed it since it was `before`: then nothing has changed.
    """
    new = path + NEW
    with contextlib.suppress(FileNotFoundError):
        # of a command that was killed
        os.unlink(new)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(data)
            if before is not None:
                _as_before(path, fd)
            file.flush()
            os.fsync(fd)
        if _now(path) != before:
            raise SupervisorError(f"{path}: another program has changed it meanwhile; run this again")
        os.replace(new, path)
    except BaseException:
        os.unlink(new)
        raise
    _sync(os.path.dirname(path))


def _now(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def _as_before(path: str, fd: int) -> None:
    """Mode, owner and attributes of the file that is there."""
    info = os.stat(path)
    shutil.copystat(path, f"/proc/self/fd/{fd}")
    os.utime(fd)
    made = os.fstat(fd)
    if (made.st_uid, made.st_gid) != (info.st_uid, info.st_gid):
        os.fchown(fd, info.st_uid, info.st_gid)
        os.fchmod(fd, info.st_mode & 0o7777)


def _sync(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
