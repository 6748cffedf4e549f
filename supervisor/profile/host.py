"""What this kernel, and this user's rights on it, offer; and in words what is missing and what to do.

Runs as root in the monitor and as the user in `check` and `explain`. Looks, and changes nothing.
"""

from __future__ import annotations

import os

from supervisor.model import HostFacts
from supervisor.sandbox import cgroup, syscalls


def _number(path: str) -> int | None:
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


def changed(path: str) -> int:
    """When a file or folder was changed last, in ns; -1 when there is none."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return -1


def _user_namespaces(*, root: bool) -> str | None:
    if not os.path.exists("/proc/self/ns/user"):
        return "this kernel has no user namespaces (CONFIG_USER_NS)"
    if _number("/proc/sys/user/max_user_namespaces") == 0:
        return "user namespaces are switched off: sysctl user.max_user_namespaces=15000"
    if root:
        return None
    if _number("/proc/sys/kernel/unprivileged_userns_clone") == 0:
        return "not for ordinary users here: sysctl kernel.unprivileged_userns_clone=1"
    if _number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == 1:
        return (
            "AppArmor restricts them for ordinary users: give the supervisor a profile with `userns,`, "
            "or sysctl kernel.apparmor_restrict_unprivileged_userns=0"
        )
    return None


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
    reason = _user_namespaces(root=root)
    if reason:
        missing["namespaces"] = reason
    if not abi:
        missing["landlock"] = "this kernel has no Landlock, or it is not in the lsm= list of the boot command line"
    if not syscalls.seccomp_available():
        missing["seccomp"] = "this kernel has no seccomp filters (CONFIG_SECCOMP_FILTER)"
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
