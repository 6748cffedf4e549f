"""Which of its control group's counters say that a limit has acted.

Runs in the keeper. Looks, and changes nothing. Standard library only.
"""

from __future__ import annotations

from supervisor.sandbox import cgroup

# limit -> file and key: v1, v2
_COUNTERS = {
    "memory": (("memory.oom_control", "oom_kill"), ("memory.events", "oom_kill")),
    "pids": (("pids.events", "max"), ("pids.events", "max")),
}


def counters(pid: int) -> dict[str, tuple[str, str]]:
    """Limit -> the path of the file and the key that count how often it has acted."""
    there = folders(pid)
    found = {}
    for name, (old, new) in _COUNTERS.items():
        if name in there:
            found[name] = (f"{there[name]}/{old[0]}", old[1])
        elif "" in there:
            found[name] = (f"{there['']}/{new[0]}", new[1])
    return found


def folders(pid: int) -> dict[str, str]:
    """Controller ("" for v2) -> the folder of this process's group, wherever an engine has made it."""
    with open(f"/proc/{pid}/cgroup", encoding="utf-8") as file:
        joined = cgroup.joined(file.read())
    mounts = cgroup.mount_points()
    return {name: cgroup.join(*mounts[name], path) for name, path in joined.items() if name in mounts}
