"""The name of an open file as the session saw it, also when the session's mounts are there no more.

Runs in the watcher. The kernel names a file by the mount points above it. When the last process of a session has
ended its mounts are detached, all at once, and names begin at the root of the mount: the mount point then comes
from here.
"""

from __future__ import annotations

import ctypes
import os
import struct

from supervisor.sandbox import syscalls as sc

_STATX_MNT_ID, _OFFSET = 0x1000, 144
_statx = sc.Call("statx", ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_char_p)


def link(fd: int) -> str:
    """What the kernel calls it now. OSError when that is longer than any path can be."""
    return os.readlink(f"/proc/self/fd/{fd}")


def mount(fd: int) -> int:
    """The number of the mount through which it was opened."""
    answer = ctypes.create_string_buffer(256)
    _statx(fd, b"", sc.AT_EMPTY_PATH, _STATX_MNT_ID, answer)
    return int(struct.unpack_from("Q", answer, _OFFSET)[0])


class Names:
    """By O_PATH descriptors of the mount points, which stay open: one of them tells whether they are there."""

    def __init__(self, places: list[int], points: list[str]) -> None:
        self._points = {mount(place): point for place, point in zip(places, points, strict=True)}
        self._one, self._point = next(pair for pair in zip(places, points, strict=True) if pair[1] != "/")

    def hold(self) -> bool:
        """Whether names that were asked for until now are whole."""
        return link(self._one) == self._point

    def whole(self, fd: int) -> str:
        """The name of a file of a mount that is there no more."""
        point, within = self._points.get(mount(fd)), link(fd)
        if point is None:
            raise FileNotFoundError(within)
        return point if within == "/" else point.rstrip("/") + within
