"""What a session's limits and Landlock rules can be here; and in words what is missing and what to do.

Runs as root in the monitor, and as the user through supervisor.profile.offers, which knows the rest. Looks, and
changes nothing.
"""

from __future__ import annotations

import os

from supervisor.model import HostFacts
from supervisor.sandbox import cgroup, syscalls


def changed(path: str) -> int:
    """Another number when a file or folder has changed, whatever its owner sets; -1 when there is none."""
    try:
        at = os.stat(path)
        # nobody sets the time of the inode's last change
        return at.st_ctime_ns << 128 | at.st_ino << 64 | at.st_size
    except OSError:
        return -1


def _unseen() -> str:
    try:
        os.close(syscalls.file_events())
    except OSError as error:
        return f"fanotify: {error.strerror}: the kernel tells root on the host alone; let the host's daemon run it"
    return ""


def probe() -> HostFacts:
    """Look at the host. `missing` holds a line for every layer that cannot be had."""
    root = os.geteuid() == 0
    hierarchy = cgroup.probe()
    abi = syscalls.landlock_abi()
    missing = {}
    if not abi:
        missing["landlock"] = "this kernel has no Landlock, or it is not in the lsm= list of the boot command line"
    for name, field in (("memory", "limits.memory"), ("cpu", "limits.cpus"), ("pids", "limits.pids")):
        if name not in hierarchy.bases and not (name == "pids" and not root):
            missing[field] = (
                f"no cgroup with the {name} controller that this user may use: run it as a systemd service with "
                "Delegate=yes, or under `systemd-run --user --scope -p Delegate=yes`"
            )
    return HostFacts(
        root=root,
        landlock=abi,
        cgroup="v2" if hierarchy.version == "v2" else "v1" if hierarchy.version == "v1" else "none",
        controllers=tuple(sorted(hierarchy.bases)),
        missing=missing,
        unseen=_unseen(),
    )
