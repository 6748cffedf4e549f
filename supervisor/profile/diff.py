"""What one profile grants that another does not, in words that a reviewer can decide on. Pure."""

from __future__ import annotations

from supervisor.profile import load, seccomp

_UNITS = dict.fromkeys(("memory", "file_size", "disk", "output_line", "output", "output_rate", "stderr"), 1 << 20)
_NAMES = {
    "memory": "MiB of memory",
    "millicpus": "thousandths of a processor",
    "cpus": "thousandths of a processor",
    "pids": "processes and threads",
    "files": "open files",
    "file_size": "MiB a file",
    "disk": "MiB added to the folders that it may write",
    "disk_files": "files added to the folders that it may write",
    "output_line": "MiB a message",
    "output": "MiB of standard output",
    "output_rate": "MiB of standard output a second",
    "stderr": "MiB of standard error",
}


def words(profile: load.Profile) -> set[str]:
    """Everything a merged profile grants, one sentence each; the same grant is the same sentence."""
    said = set()
    for mount in profile.mount:
        verb = "read" if mount.mode == "ro" else "read and write"
        run = "" if "noexec" in mount.flags else ", and run programs in it"
        said.add(f"{verb} {mount.source} at {mount.target}{run}")
    folder = load.share_folder("profiles") / "syscalls"
    said |= {f"call {name}" for name in seccomp.reachable(seccomp.load_groups(folder, profile.seccomp.groups))}
    said |= {f"reach {entry}" for entry in profile.network.allow}
    said |= {f"see the variable {name}={value}" for name, value in profile.process.env.items()}
    if profile.tmp.exec:
        said.add("run programs that it wrote in /tmp")
    if profile.process.write_execute:
        said.add("have memory that is writable and executable (compilers at run time)")
    if profile.network.mode == "allowlist":
        said.add("reach the network: the hosts that are named, and no other")
    return said


def limits(profile: load.Profile) -> dict[str, float]:
    """The limits by name, in the units of `_NAMES`."""
    values = {name: value for name, value in load.plain(profile.limits).items() if value is not None}
    found = {name: value / _UNITS.get(name, 1) for name, value in values.items()}
    for name, value in (("tmp size", profile.tmp.size), ("tmp files", profile.tmp.files)):
        if value is not None:
            found[name] = value / (1 << 20) if name == "tmp size" else value
    return found


def compare(old: load.Profile, new: load.Profile) -> list[tuple[str, str]]:
    """("+", sentence) for what only `new` grants, ("-", sentence) for what only `old` does."""
    before, after = words(old), words(new)
    rows = [("+", sentence) for sentence in sorted(after - before)]
    rows += [("-", sentence) for sentence in sorted(before - after)]
    had, has = limits(old), limits(new)
    for name in sorted(had.keys() & has.keys()):
        if had[name] != has[name]:
            unit = _NAMES.get(name, "MiB in /tmp" if name == "tmp size" else "files in /tmp")
            sign = "+" if has[name] > had[name] else "-"
            rows.append((sign, f"{has[name]:.10g} instead of {had[name]:.10g} {unit}"))
    return rows
