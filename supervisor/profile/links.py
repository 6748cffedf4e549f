"""Paths and small files as the kernel sees them: names along links, bounded reads.

Runs in the planner, on content that strangers wrote. Never blocks, never reads a file whole.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from os.path import basename, dirname, join, normpath, realpath

from supervisor.errors import ConfigError

LINKS = 40  # as many as the kernel follows


def hops(path: str) -> list[str]:
    """Every name that `path` has while the kernel follows links; the last has none in it.

    ConfigError: too many links, or a loop.
    """
    names, done, parts = [_normal(path)], "/", path.split("/")[::-1]
    while parts:
        step = normpath(join(done, parts.pop()))
        try:
            target = os.readlink(step)
        except OSError:
            done = step
            continue
        if len(names) > LINKS:
            raise ConfigError(f"{path}: too many symbolic links on the way, or a loop of them")
        done = "/" if target.startswith("/") else done
        parts += target.split("/")[::-1]
        names.append(_normal("/".join([done, *parts[::-1]])))
    return names if names[-1] == done else [*names, done]


def absolute(path: str) -> str:
    """`path` without dots: through its real folder if there are any, since `..` means that one's parent."""
    return join(realpath(dirname(path)), basename(path)) if ".." in path.split("/") else _normal(path)


def _normal(path: str) -> str:
    # normpath() keeps two slashes at the start, which POSIX lets mean something else
    return "/" + normpath(path).lstrip("/")


def ancestors(folder: str) -> Iterator[str]:
    """`folder` and its parents, without `/`."""
    while folder not in ("/", ""):
        yield folder
        folder = dirname(folder)


def read(path: str, limit: int = 65536) -> str:
    """The start of a regular file up to a NUL; "" for anything else, and for what cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        data = os.read(fd, limit) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    finally:
        os.close(fd)
    return os.fsdecode(data.split(b"\0", 1)[0])
