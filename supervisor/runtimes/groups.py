"""Where the control groups of a process are that an engine has made, wherever it has made them.

Runs in the keeper, and as root in the monitor. Looks, and changes nothing. Standard library only.
"""

from __future__ import annotations

from supervisor.sandbox import cgroup

# limit -> file and key of the counter that says how often it has acted: v1, v2
_COUNTERS = {
    "memory": (("memory.oom_control", "oom_kill"), ("memory.events", "oom_kill")),
    "pids": (("pids.events", "max"), ("pids.events", "max")),
}


def folders(pid: int) -> dict[str, str]:
    """Controller ("" for v2) -> the folder of this process's group."""
    with open(f"/proc/{pid}/cgroup", encoding="utf-8") as file:
        joined = cgroup.joined(file.read())
    found = {}
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            kind, _, options = right.split(" ", 2)
            top, point = left.split(" ")[3:5]
            for name in options.strip().split(",") if kind == "cgroup" else [""] if kind == "cgroup2" else []:
                if name in joined:
                    found[name] = point + joined[name].removeprefix(top if top != "/" else "").rstrip("/")
    return found


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
