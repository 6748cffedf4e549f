"""`ps`: what runs now, asked of the daemon and of this user's gateways."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pwd
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from supervisor.cli import entry, gateways, host
from supervisor.shown import printable

Row = dict[str, object]
_COLUMNS = (
    ("SESSION", "session", 8),
    ("SERVER", "server", 18),
    ("USER", "user", 12),
    ("PID", "pid", 8),
    ("STATE", "state", 9),
    ("PROFILE", "profile", 14),
    ("MEMORY", "memory", 10),
    ("CPU", "cpu", 8),
    ("AGE", "age", 7),
    ("CALLS", "calls", 6),
    ("IDLE", "idle", 7),
)


def rows(options: argparse.Namespace) -> tuple[list[Row], list[Row]]:
    """(sessions, servers without one): the monitors' word where it can be had, with what gateways know besides."""
    known = {(each["monitor"], each["session"]): each for each in _operators(options)}
    idle: list[Row] = []
    for status in gateways.statuses():
        for server in _tables(status.get("servers")):
            sessions = _tables(server.get("sessions"))
            for each in sessions:
                row = known.setdefault(
                    (status["monitor"], each["session"]), {"session": each["session"], "pid": each["pid"]}
                )
                row |= {"server": server["name"], "profile": server["profile"], "user": each["user"]}
                row |= {"calls": each["calls"], "idle": each["idle"], "gateway": status["pid"]}
                row["state"] = each["state"]
            if not sessions:
                keys = ("name", "state", "calls", "error", "changed", "profile")
                idle.append({key: server.get(key) for key in keys} | {"gateway": status["pid"]})
    found = list(known.values())
    for row in found:
        row.update(_usage(int(str(row["pid"]))))
    return sorted(found, key=lambda row: (str(row.get("server")), int(str(row["session"])))), idle


def _tables(value: object) -> list[Row]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _operators(options: argparse.Namespace) -> Iterator[Row]:
    """The daemon's sessions, if there is a daemon and this user may ask it."""
    if not os.access(f"{entry.runtime_folder(options)}/admin.sock", os.W_OK):
        return
    pid, answer = host.inspect(options)
    for each in _tables(answer.get("sessions")):
        try:
            user = pwd.getpwuid(int(str(each["uid"]))).pw_name
        except KeyError:
            user = str(each["uid"])
        state = "READY" if each["running"] else "STARTING"
        yield {key: each[key] for key in ("session", "server", "pid", "profile")} | {
            "monitor": pid,
            "user": user,
            "state": state,
            "age": int(time.time()) - int(str(each["since"])),
        }


def _usage(pid: int) -> Row:
    """Memory (bytes) and processor (seconds) of a session, from its cgroup; nothing where there is none."""
    found: Row = {}
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text(encoding="ascii").splitlines()
        started = int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(") ", 1)[1].split()[19])
        up = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    except (OSError, IndexError):
        return found
    found["age"] = int(up - started / os.sysconf("SC_CLK_TCK"))
    groups = {names: path for _, names, path in (line.split(":", 2) for line in lines)}
    for names, path in groups.items():
        # of the groups above the session's own, others use the same
        for controller in names.split(",") if "/supervisor-" in path else []:
            base = f"/sys/fs/cgroup/{controller}{path}" if controller else f"/sys/fs/cgroup{path}"
            if controller in ("", "memory"):
                file = "memory.usage_in_bytes" if controller else "memory.current"
                found |= _number(f"{base}/{file}", "memory", 1)
            if controller == "cpuacct":
                found |= _number(f"{base}/cpuacct.usage", "cpu", 1e-9)
            if controller == "":
                found |= _number(f"{base}/cpu.stat", "cpu", 1e-6)
    if "cpu" not in found:
        found |= _processor(pid)
    return found


def _number(path: str, name: str, scale: float) -> Row:
    try:
        words = Path(path).read_text(encoding="ascii").split()
    except OSError:
        return {}
    value = next((int(word) for word in words if word.isdigit()), 0) * scale
    return {name: round(value, 2) if scale < 1 else int(value)}


def _processor(pid: int) -> Row:
    """Of a session's processes and of those that they have waited for, where no cgroup counts."""
    ticks, todo = 0, [pid]
    while todo:
        each = todo.pop()
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{each}/stat").read_text(encoding="utf-8").rsplit(") ", 1)[1].split()
            ticks += sum(int(word) for word in fields[11:15])
            children = Path(f"/proc/{each}/task/{each}/children").read_text(encoding="ascii")
            todo += [int(child) for child in children.split()]
    return {"cpu": round(ticks / os.sysconf("SC_CLK_TCK"), 2)}


def ps(options: argparse.Namespace, _command: list[str]) -> int:
    """A line a session, then the servers that have none but something to say."""
    sessions, idle = rows(options)
    if options.json:
        print(json.dumps({"sessions": sessions, "servers": idle}, indent=2))
        return 0
    if sessions:
        print(" ".join(f"{title:<{width}}" for title, _, width in _COLUMNS).rstrip())
    for row in sessions:
        print(" ".join(f"{_shown(key, row.get(key)):<{width}}" for _, key, width in _COLUMNS).rstrip())
    told = [_idle(each) for each in idle]
    print("".join(f"{each}\n" for each in told if each), end="")
    if not sessions and not any(told):
        waiting = f"; each is started by its first call: {', '.join(str(each['name']) for each in idle)}"
        print(f"nothing of yours runs{waiting if idle else ''}", file=sys.stderr)
    return 0


def _idle(server: Row) -> str:
    """Of a server without a session what there is to say, if anything."""
    changed = server.get("changed")
    said = "; ".join(map(str, changed)) if isinstance(changed, list) and changed else str(server["error"])
    words = [str(server["name"]), str(server["state"]), *([printable(said)] if said else [])]
    return ": ".join(words) if said or server["state"] != "COLD" else ""


def _shown(key: str, value: object) -> str:
    if value is None:
        return "-"
    if key == "memory":
        return f"{int(str(value)) / (1 << 20):.1f} MiB"
    if key in ("cpu", "idle", "age"):
        return f"{float(str(value)):.1f} s" if key == "cpu" else f"{float(str(value)):.0f} s"
    return printable(str(value))
