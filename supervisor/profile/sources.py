"""Which host paths may be shown to a server, and where.

Runs in the planner. A path is granted only under its real name (no symbolic
link on the way), never a whole home, never the root, never a kernel file system; the spawner opens it again
under the same rule.
"""

from __future__ import annotations

import os
import stat

from supervisor.errors import ConfigError, Refused
from supervisor.model import Mount
from supervisor.profile.granted import below, permitted

_OURS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/dev", "/sys", "/run/secrets")
_EXACT = ("/", "/etc", "/tmp", "/etc/passwd", "/etc/group", "/etc/hosts", "/etc/resolv.conf", "/etc/ssl")


def source(written: str, what: str, *, cwd: str, home: str, relative: bool) -> tuple[str, bool]:
    """(real path, is a file) of a host path somebody wrote; `what` names it in messages."""
    if "\0" in written or not written:
        raise ConfigError(f"{what}: not a path: {written!r}")
    if not written.startswith("/") and not relative:
        raise ConfigError(f'{what}: "{written}" is relative; write it from /')
    # POSIX lets two slashes at the start mean something else, and normpath keeps them
    path = "/" + os.path.normpath(os.path.join(cwd, written)).lstrip("/")
    try:
        real = os.path.realpath(path, strict=True)
        kind = os.stat(real).st_mode
    except OSError as error:
        raise ConfigError(f'{what}: "{path}": {(error.strerror or "").lower()}') from None
    if real != path:
        raise Refused(
            f'{what}: "{path}" leads through a symbolic link to "{real}"; grant that path itself if you mean it'
        )
    if not stat.S_ISDIR(kind) and not stat.S_ISREG(kind):
        raise ConfigError(f'{what}: "{path}" is neither a folder nor a regular file (socket, device or pipe)')
    permitted(path, what, home)
    return path, stat.S_ISREG(kind)


def target(written: str, what: str) -> str:
    """The path inside; Refused where the sandbox has things of its own."""
    path = os.path.normpath(written)
    if written[:1] != "/" or written[:2] == "//" or "\0" in written or path != (written.rstrip("/") or "/"):
        raise ConfigError(f'{what}: target "{written}" must be an absolute path without ".." or "."')
    if path in _EXACT or any(below(path, each) for each in _OURS):
        raise Refused(f'{what}: target "{path}" belongs to the sandbox itself; choose another, as in SRC:DST')
    return path


def merge(mounts: list[Mount], mount: Mount, what: str) -> list[Mount]:
    """`mounts` with one more. The same folder at the same place again replaces it: that only adds."""
    kept = []
    for other in mounts:
        if other.target != mount.target:
            kept.append(other)
        elif other.source != mount.source:
            raise ConfigError(
                f'{what}: "{mount.target}" would show both "{other.source}" and "{mount.source}"; '
                "give one of them another place with SRC:DST"
            )
        else:
            wider = "rw" if "rw" in (other.mode, mount.mode) else "ro"
            noexec = other.noexec and mount.noexec
            mount = mount.model_copy(update={"mode": wider, "noexec": noexec})
    return [*kept, mount]
