"""What stays as it is in a writable folder, because tools of the host run it or obey it without being asked.

Runs in the planner. A mount over a name holds for that name and no other, so every folder on the way becomes one
as well: otherwise it could be moved away and a new one put in its place. What is not there cannot be held, nor
what is a symbolic link. A grant of the very path, by profile or operator, opens it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

from supervisor.model import Mount
from supervisor.profile.granted import below

_MODES = {stat.S_IFDIR: False, stat.S_IFREG: True}


def kept(mounts: list[Mount], names: tuple[str, ...], obeyed: Iterable[str]) -> list[Mount]:
    """The mounts that hold these names, relative to each writable folder, in all of `mounts`.

    And `obeyed`: real paths of the host.
    """
    granted = {each.target for each in mounts}
    found: dict[str, Mount] = {}
    for folder in [each for each in mounts if each.mode == "rw" and not each.is_file]:
        own = [path for path in obeyed if path != folder.source and below(path, folder.source)]
        for name in (*names, *(os.path.relpath(path, folder.source) for path in own)):
            for mount in _held(folder, name.split("/")):
                # a folder on the way to one name may be another that stays as it is
                if mount.target not in found or mount.mode == "ro":
                    found[mount.target] = mount
    return [each for each in found.values() if each.target not in granted]


def _held(folder: Mount, parts: list[str]) -> list[Mount]:
    """One name: the folders on the way as they are, its last part that exists read-only; nothing if none does."""
    held: list[Mount] = []
    for depth in range(1, len(parts) + 1):
        below = "/".join(parts[:depth])
        try:
            kind = stat.S_IFMT(os.lstat(f"{folder.source}/{below}").st_mode)
        except OSError:
            return []
        if kind not in _MODES:
            return []
        place = {"source": f"{folder.source}/{below}", "target": f"{folder.target}/{below}"}
        last = depth == len(parts) or kind == stat.S_IFREG
        change: dict[str, object] = {"mode": "ro", "noexec": True} if last else {}
        held.append(folder.model_copy(update=place | {"is_file": _MODES[kind]} | change))
        if last:
            break
    return held
