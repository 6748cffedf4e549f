"""What the kernel offers to everybody: user namespaces and system call filters; in words what is missing.

Runs in the planner, which tells the monitor, and as the user in `check` and `explain`. Looks, and changes nothing.
"""

from __future__ import annotations

import ctypes
import os

from supervisor.model import HostFacts
from supervisor.profile import host, seccomp
from supervisor.sandbox import rights

_GET_ACTION_AVAIL, _RET_ERRNO = 2, 0x00050000


def missing() -> dict[str, str]:
    """Layer -> why this user cannot have it, and what to do."""
    reason = _user_namespaces(root=os.geteuid() == 0)
    found = {"namespaces": reason} if reason else {}
    return found if _filters() else found | {"seccomp": seccomp.MISSING}


def no_image() -> dict[str, str]:
    """Why this user's sessions cannot have an image as their root, and what to do."""
    if os.geteuid() != 0:
        return {
            "image": "an ordinary user cannot mount it: use the host's daemon (supervisor daemon, started by "
            'root), or runtime = "podman"'
        }
    if not os.path.exists("/dev/loop-control"):
        return {"image": "there is no /dev/loop-control: load the module loop, or give the container its devices"}
    return {}


def probe() -> HostFacts:
    """Everything that is known of this host."""
    facts = host.probe()
    return facts.model_copy(update={"missing": facts.missing | missing()})


def _filters() -> bool:
    """Whether seccomp(2) is there and can answer a system call with an errno."""
    try:
        rights.seccomp(_GET_ACTION_AVAIL, 0, bytes(ctypes.c_uint32(_RET_ERRNO)))
    except OSError:
        return False
    return True


def _number(path: str) -> int | None:
    try:
        with open(path, encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


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
