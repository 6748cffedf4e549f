"""cgroup v1 and v2 behind one interface: where limits can be had, and one group per session.

Runs as root in the spawner, which makes and removes the groups; the monitor only asks what there is.
A session's group is named `supervisor-<spawner pid>-<its start time>-<n>`, so that a later start can tell
which groups belong to nobody any more. Standard library only.
"""

from __future__ import annotations

import contextlib
import os

from supervisor.sandbox.mounts import write

PREFIX = "supervisor-"
CONTROLLERS = ("memory", "cpu", "pids")
_PERIOD = 100_000


def start_time(pid: int) -> str:
    """The start time of a process in clock ticks since boot, or "" when there is none that lives."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rsplit(b") ", 1)[1].split()
            return "" if fields[0] == b"Z" else fields[19].decode()
    except (OSError, IndexError):
        return ""


def joined(text: str) -> dict[str, str]:
    """Controller name ("" for v2) -> group, from the text of a /proc/PID/cgroup."""
    lines = (line.split(":", 2) for line in text.splitlines())
    return {name: path for _, names, path in lines for name in names.split(",")}


def mount_points() -> dict[str, tuple[str, str]]:
    """Controller name ("" for v2) -> (mount point, the group at its root), from mountinfo."""
    found: dict[str, tuple[str, str]] = {}
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            kind, _, options = right.split(" ", 2)
            fields = left.split(" ")
            names = options.strip().split(",") if kind == "cgroup" else [""] if kind == "cgroup2" else []
            for name in names:
                if name in (*CONTROLLERS, ""):
                    found.setdefault(name, (fields[4], fields[3]))
    return found


class Hierarchy:
    """Where session groups go: a folder per controller (v1), or one folder for all of them (v2).

    `bases` holds only controllers that this process can really use there.
    """

    def __init__(self, version: str, bases: dict[str, str]) -> None:
        self.version, self.bases = version, bases

    def sweep(self) -> bool:
        """Remove empty groups whose spawner is gone; whether there are others, with live processes, which stay."""
        left = False
        for base in set(self.bases.values()):
            for name in os.listdir(base):
                parts = name.split("-")
                ours = name.startswith(PREFIX) and len(parts) == 4 and parts[1].isdigit()
                if ours and start_time(int(parts[1])) != parts[2]:
                    try:
                        os.rmdir(f"{base}/{name}")
                    except OSError:
                        left = True
        return left


def probe() -> Hierarchy:
    """Find what this process may limit: v2 first, then v1; version "none" where there is nothing."""
    mounts, own = mount_points(), joined(_read("/proc/self/cgroup"))
    if "" in mounts and "" in own:
        unified = _unified_base(*mounts[""], own[""])
        if unified:
            return Hierarchy("v2", dict.fromkeys(CONTROLLERS, unified))
    there = {name: join(*mounts[name], own[name]) for name in CONTROLLERS if name in mounts and name in own}
    bases = {name: base for name, base in there.items() if os.access(base, os.W_OK)}
    return Hierarchy("v1" if bases else "none", bases)


def join(mount: str, mount_root: str, path: str) -> str:
    inside = path[len(mount_root) :] if mount_root != "/" and path.startswith(mount_root) else path
    return (mount + inside).rstrip("/")


def _unified_base(mount: str, mount_root: str, path: str) -> str:
    """The nearest writable ancestor that gives its children all three controllers, or ""."""
    folder = join(mount, mount_root, path)
    while len(folder) >= len(mount):
        if os.access(folder, os.W_OK) and _delegates(folder):
            return folder
        folder = folder.rpartition("/")[0]
    return ""


def _delegates(folder: str) -> bool:
    try:
        missing = set(CONTROLLERS) - set(_read(f"{folder}/cgroup.subtree_control").split())
        if not missing:
            return True
        if missing - set(_read(f"{folder}/cgroup.controllers").split()):
            return False
        # a folder that holds processes answers EBUSY: the next ancestor is asked
        write(f"{folder}/cgroup.subtree_control", " ".join(f"+{name}" for name in sorted(missing)))
    except OSError:
        return False
    return True


def _read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def _counters(path: str) -> dict[str, str]:
    with contextlib.suppress(OSError):
        return dict(line.partition(" ")[::2] for line in _read(path).splitlines())
    return {}


def settings(version: str, controller: str, folder: str, value: int) -> dict[str, str]:
    """The files in a group's folder that make up a limit: the spawner writes them, the monitor reads them back."""
    if controller == "pids":
        return {"pids.max": str(value)}
    if controller == "cpu":
        quota = str(value * _PERIOD // 1000)
        v1 = {"cpu.cfs_period_us": str(_PERIOD), "cpu.cfs_quota_us": quota}
        return v1 if version == "v1" else {"cpu.max": f"{quota} {_PERIOD}"}
    if version == "v1":
        # with memory.memsw absent, swappiness 0 is what keeps a group out of swap
        return {"memory.limit_in_bytes": str(value), "memory.swappiness": "0"}
    swap = {"memory.swap.max": "0"} if os.path.exists(f"{folder}/memory.swap.max") else {}
    return {"memory.max": str(value)} | swap


class Group:
    """The cgroup of one session.

    The child joins by itself, through descriptors opened here: on v1 a parent's write to cgroup.procs
    waits for an RCU grace period (6-10 ms), the child's `0` to `tasks` does not; on v2 clone3 takes the
    descriptor.
    """

    def __init__(self, hierarchy: Hierarchy, name: str, limits: dict[str, int]) -> None:
        self.hierarchy, self.name = hierarchy, name
        self.folders = {key: f"{hierarchy.bases[key]}/{name}" for key in limits}
        try:
            for folder in set(self.folders.values()):
                os.mkdir(folder, 0o755)
            for key, value in limits.items():
                for file, text in settings(hierarchy.version, key, self.folders[key], value).items():
                    write(f"{self.folders[key]}/{file}", text)
        except OSError:
            self.remove()
            raise

    def clone_fd(self) -> int:
        """The descriptor for CLONE_INTO_CGROUP, or 0 on v1 and without limits."""
        if self.hierarchy.version != "v2" or not self.folders:
            return 0
        return os.open(next(iter(self.folders.values())), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def task_fds(self) -> list[int]:
        """v1: the `tasks` files to which the child writes `0`."""
        if self.hierarchy.version != "v1":
            return []
        folders = sorted(set(self.folders.values()))
        return [os.open(f"{folder}/tasks", os.O_WRONLY | os.O_CLOEXEC) for folder in folders]

    def limits_hit(self) -> list[str]:
        """Which limits have acted: "memory" when the kernel killed for it, "pids" when a fork was refused."""
        events = "memory.events" if self.hierarchy.version == "v2" else "memory.oom_control"
        counters = {"memory": (events, "oom_kill"), "pids": ("pids.events", "max")}
        watched = [(name, *counters[name]) for name in counters if name in self.folders]
        found = {name: _counters(f"{self.folders[name]}/{file}").get(key, "0") for name, file, key in watched}
        return [name for name in found if found[name] != "0"]

    def remove(self) -> None:
        """Remove the folders; whatever cannot be removed is left to the next sweep."""
        for folder in set(self.folders.values()):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
