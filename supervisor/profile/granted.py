"""What is never granted, whoever asks: the host as a whole, a whole home, a kernel file system.

Runs in the planner, and once more over its plans in the monitor, as root.
"""

from __future__ import annotations

import os
import pwd
from functools import cache

from supervisor.errors import Refused

_KERNEL = ("/proc", "/sys", "/dev", "/run/supervisor")


def below(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or lies in it; both absolute and normal."""
    return folder in (path, "/") or path.startswith(folder + "/")


@cache
def homes() -> tuple[str, ...]:
    """The homes of people: root, uids from 1000, and the caller's own."""
    people = [user.pw_dir for user in pwd.getpwall() if user.pw_uid == 0 or 1000 <= user.pw_uid < 65000]
    found = {os.path.realpath(home) for home in people if home.startswith("/")}
    return tuple(sorted(found - {"/", "/nonexistent"}))


def permitted(path: str, what: str, home: str) -> None:
    """Refused for a path that is never granted: the root, a whole home, a kernel file system."""
    if path == "/":
        raise Refused(f'{what}: "/" is the whole host; name the folder the server needs')
    for each in _KERNEL:
        if below(path, each) or below(each, path):
            raise Refused(f'{what}: "{path}" shows kernel or supervisor state; it is never granted')
    for each in {*homes(), home} - {"/", "/nonexistent"}:
        if below(each, path):
            raise Refused(f'{what}: "{path}" is or contains a whole home folder ({each}); name a folder inside it')
