"""Files that somebody names on a command line or in a configuration: what they may be, and how they are read.

Used by whoever reads them, with that one's rights; standard library only. What is no regular file is refused by its
name before it is opened: to open a FIFO waits, a device may act on it, and a file of /proc may never end. A pipe
without a name, which a shell makes of `<(...)`, is read where its reader takes one.
"""

from __future__ import annotations

import functools
import os
import stat

from supervisor.errors import ConfigError

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


@functools.cache
def _pipes() -> int:
    """The device that all pipes without a name are on."""
    ends = os.pipe()
    try:
        return os.fstat(ends[0]).st_dev
    finally:
        for end in ends:
            os.close(end)


def _is_pipe(info: os.stat_result) -> bool:
    return stat.S_ISFIFO(info.st_mode) and info.st_dev == _pipes()


def _wrong(info: os.stat_result, *, pipes: bool) -> str:
    if pipes and _is_pipe(info):
        return ""
    if not stat.S_ISREG(info.st_mode):
        return "not a regular file"
    return "not a file that somebody wrote, but the kernel's" if info.st_dev == os.stat("/proc").st_dev else ""


def regular(path: str, *, pipes: bool = False) -> os.stat_result:
    """What stat(2) says of a file; ConfigError when it is missing, or none to be read."""
    try:
        info = os.stat(path)
        wrong = _wrong(info, pipes=pipes)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except ValueError:
        raise ConfigError(f"not a path: {path!r}") from None
    if wrong:
        raise ConfigError(f"{path}: {wrong}")
    return info


def opened(path: str, *, pipes: bool = False) -> int:
    """A descriptor to read such a file from, which does not wait but for who writes to a pipe."""
    regular(path, pipes=pipes)
    try:
        fd = os.open(path, _FLAGS)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    info = os.fstat(fd)
    if wrong := _wrong(info, pipes=pipes):
        os.close(fd)
        raise ConfigError(f"{path}: {wrong}")
    if stat.S_ISFIFO(info.st_mode):
        os.set_blocking(fd, True)
    return fd


def content(fd: int, path: str, limit: int) -> bytes:
    """What can be read from a descriptor, whole; ConfigError when that is more than `limit` bytes."""
    data = b""
    try:
        while len(data) <= limit and (part := os.read(fd, limit + 1)):
            data += part
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    if len(data) > limit:
        said = f"{limit >> 20} MiB" if limit and not limit & 0xFFFFF else f"{limit} bytes"
        raise ConfigError(f"{path}: larger than {said}")
    return data


def read(path: str, limit: int, *, pipes: bool = False) -> bytes:
    """The content of such a file."""
    fd = opened(path, pipes=pipes)
    try:
        return content(fd, path, limit)
    finally:
        os.close(fd)
