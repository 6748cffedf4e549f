"""Which of the folders that a server may write lie on file systems that cannot bound what is added to them.

Runs in the planner, and as the user in `explain`. The monitor looks at the mounts of each session again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator

from supervisor.model import COUNTING, Mount
from supervisor.profile.granted import below

_REMEDY = f"name a folder on {', '.join(COUNTING[2:4])} or tmpfs"


def gaps(mounts: Iterable[Mount]) -> dict[str, str]:
    """Field of the limits -> why it cannot be held, and what to do."""
    found: dict[str, str] = {}
    for mount in mounts:
        for place, kind in _places(mount.source) if mount.mode == "rw" else []:
            if kind not in COUNTING or not os.statvfs(place).f_files:
                reason = f'"{place}" is on {kind}, which does not tell at once what is in use; {_REMEDY}'
                found = dict.fromkeys(("limits.disk", "limits.disk_files"), reason)
    return found


def _places(source: str) -> Iterator[tuple[str, str]]:
    """(path, file system) of a folder and of whatever is mounted in it."""
    mounted: dict[str, tuple[str, str]] = {}
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.split(" ")
            point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[4])
            # a later line covers an earlier one of the same place
            mounted[point] = (fields[5].split(",")[0], fields[fields.index("-") + 1])
    around = max((point for point in mounted if below(source, point)), key=len)
    yield source, mounted[around][1]
    for point, (mode, kind) in mounted.items():
        if point != source and below(point, source) and mode == "rw":
            yield point, kind
