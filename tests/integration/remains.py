"""What a finished session may have left on the host: processes, control groups, mounts, files.

Runs as root, in the process of the tests. While a session is watched this process adopts orphans (as a
subreaper), so that a process of the session is found however far from its parent it got.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from supervisor.sandbox import cgroup

PR_SET_CHILD_SUBREAPER = 36
TEMPORARY = ("/tmp", "/var/tmp", "/dev/shm", "/run")
TESTS_OWN = ("svtest-", "pytest-", "bash_jobs", "supervisor-test-servers-")
PATIENCE = 2.0  # other tests of the host come and go; what is left of a session stays


@dataclass(frozen=True)
class Seen:
    """What there was at one moment, each as a line that a person can read."""

    processes: frozenset[str]
    groups: frozenset[str]
    mounts: frozenset[str]
    files: frozenset[str]

    def beyond(self, before: Seen) -> list[str]:
        """What there is now and was not there `before`."""
        pairs = (
            ("process", self.processes - before.processes),
            ("control group", self.groups - before.groups),
            ("mount", self.mounts - before.mounts),
            ("file", self.files - before.files),
        )
        return [f"{kind} {each}" for kind, found in pairs for each in sorted(found)]


@contextmanager
def nothing_left(*folders: Path) -> Iterator[None]:
    """Fail if the block leaves anything behind on this host, or a new path below `folders`."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        before = look(folders)
        yield
        processes = sorted(descendants() - before.processes)
        assert not processes, f"still running: {processes}"
        deadline = time.monotonic() + PATIENCE
        while (left := look(folders).beyond(before)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not left, f"left behind: {left}"
    finally:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def look(folders: Sequence[Path]) -> Seen:
    """Everything there is now."""
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    return Seen(descendants(), groups(), frozenset(mounts), files(folders))


def descendants() -> frozenset[str]:
    """The processes below this one, zombies included."""
    parents: dict[int, int] = {}
    names: dict[int, str] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            text = Path(f"/proc/{entry}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        name, _, rest = text.partition("(")[2].rpartition(") ")
        state, parent = rest.split()[:2]
        parents[int(entry)], names[int(entry)] = int(parent), f"{entry} {name} ({state})"
    found = {os.getpid()}
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found |= more
        grown = bool(more)
    return frozenset(names[pid] for pid in found - {os.getpid()})


def groups() -> frozenset[str]:
    """The control groups of sessions, except those whose spawner lives: another run of the product."""
    found = set()
    for folder, names, _ in os.walk("/sys/fs/cgroup"):
        for name in names:
            parts = name.split("-")
            ours = name.startswith(cgroup.PREFIX)
            if ours and not (len(parts) == 4 and cgroup.start_time(int(parts[1])) == parts[2]):
                found.add(f"{folder}/{name}")
    return frozenset(found)


def files(folders: Sequence[Path]) -> frozenset[str]:
    """The entries of the host's temporary folders, and every path below `folders`."""
    found = set()
    for folder in TEMPORARY:
        found.update(f"{folder}/{name}" for name in os.listdir(folder) if not name.startswith(TESTS_OWN))
    for each in folders:
        found.update(str(path) for path in each.rglob("*"))
    return frozenset(found)
