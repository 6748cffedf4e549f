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

    def __init__(self, places: list[int]) -> None:
        self._points = {mount(place): link(place) for place in places}
        found = [(place, link(place)) for place in places]
        self._one, self._point = next(((place, point) for place, point in found if point != "/"), (-1, ""))

    def hold(self) -> bool:
        """Whether names that were asked for until now are whole."""
        return self._one >= 0 and link(self._one) == self._point

    def whole(self, fd: int) -> str:
        """The name of a file of a mount that is there no more. OSError when that was so from the beginning."""
        point = self._points.get(mount(fd), "/")
        if self._one < 0:
            raise FileNotFoundError(point)
        within = link(fd)
        return point if within == "/" else point.rstrip("/") + within
