"""What a finished session may have left on the host: processes, control groups, mounts, files.

Runs as root, in the process of the tests. While a session is watched this process adopts orphans (as a
subreaper), so that a process of the session is found however far from its parent it got.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from supervisor.sandbox import cgroup
from tests.integration.caller import Caller

PR_SET_CHILD_SUBREAPER = 36
SHARED = ("/tmp", "/var/tmp", "/dev/shm", "/run")
TESTS_OWN = ("svtest-", "pytest-", "supervisor-test-servers-")
NAMED_LIKE_OURS = re.compile("supervisor|mcp|sandbox", re.IGNORECASE)
PATIENCE = 2.0  # other tests of the host come and go; what is left of a session stays


@dataclass(frozen=True)
class Seen:
    """What there was at one moment, each as a line that a person can read."""

    processes: dict[tuple[int, str], str]  # (pid, start time) -> what to call it; the state it is in may change
    groups: frozenset[str]
    mounts: frozenset[str]
    files: frozenset[str]

    def beyond(self, before: Seen) -> list[str]:
        """What there is now and was not there `before`."""
        pairs = (
            ("process", unknown(self.processes, before.processes)),
            ("control group", self.groups - before.groups),
            ("mount", self.mounts - before.mounts),
            ("file", self.files - before.files),
        )
        return [f"{kind} {each}" for kind, found in pairs for each in sorted(found)]


@contextmanager
def nothing_left(caller: Caller, *, writes: Path | None = None, patience: float = PATIENCE) -> Iterator[None]:
    """Fail if the block leaves anything behind on this host, or a new path in the caller's home.

    `writes` is the folder that it is meant to write in; `patience` is in seconds.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        before = look(caller, writes)
        yield
        processes = sorted(unknown(descendants(), before.processes))
        assert not processes, f"still running: {processes}"
        deadline = time.monotonic() + patience
        while (left := look(caller, writes).beyond(before)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not left, f"left behind: {left}"
    finally:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def look(caller: Caller, writes: Path | None) -> Seen:
    """Everything there is now."""
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    # the namespaces of other tests of this host
    mounts = [line for line in lines if "/svtest-" not in line or caller.arena.base.name in line]
    kept = caller.plot.home / ".local/state/supervisor"
    home = {
        str(path)
        for path in caller.plot.home.rglob("*")
        # what it is meant to write, and its audit log, which is there to stay
        if not ((writes and path.is_relative_to(writes)) or path.is_relative_to(kept) or kept.is_relative_to(path))
    }
    return Seen(descendants(), groups(), frozenset(mounts), frozenset(home | shared_files(caller)))


def unknown(now: dict[tuple[int, str], str], before: dict[tuple[int, str], str]) -> frozenset[str]:
    """What to call the processes that are there `now` and were not there `before`."""
    return frozenset(now[each] for each in now.keys() - before.keys())


def descendants() -> dict[tuple[int, str], str]:
    """The processes below this one, zombies included."""
    parents: dict[int, int] = {}
    names: dict[int, tuple[tuple[int, str], str]] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            text = Path(f"/proc/{entry}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        name, _, rest = text.partition("(")[2].rpartition(") ")
        fields = rest.split()
        parents[int(entry)] = int(fields[1])
        names[int(entry)] = ((int(entry), fields[19]), f"{entry} {name} ({fields[0]})")
    found = {os.getpid()}
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found |= more
        grown = bool(more)
    return dict(names[pid] for pid in found - {os.getpid()})


def groups() -> frozenset[str]:
    """The control groups of sessions, except those whose spawner lives: another run of the product."""
    found = set()
    for folder, names, _ in os.walk("/sys/fs/cgroup"):
        found |= {f"{folder}/{name}" for name in names if name.startswith(cgroup.PREFIX) and not used(name)}
    return frozenset(found)


def used(name: str) -> bool:
    """Whether what has this name is a spawner's or a keeper's that lives."""
    parts = name.split("-")
    return len(parts) == 4 and parts[1].isdigit() and cgroup.start_time(int(parts[1])) == parts[2]


def shared_files(caller: Caller) -> set[str]:
    """What is the caller's, a session's or named like ours in the folders that all users write.

    The caller's TMPDIR is in its home; the host's other programs, which come and go, use these. The uid of a
    session is in no password file.
    """
    known = {user.pw_uid for user in pwd.getpwall()} - ({caller.plot.uid} - {0})
    found = set()
    for folder in SHARED:
        for entry in os.scandir(folder):
            with suppress(FileNotFoundError):
                foreign = entry.stat(follow_symlinks=False).st_uid not in known
                ours = entry.name.startswith(TESTS_OWN) or used(entry.name)
                if not ours and (foreign or NAMED_LIKE_OURS.search(entry.name)):
                    found.add(entry.path)
    return found
