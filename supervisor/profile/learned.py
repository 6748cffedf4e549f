"""The smallest profile in which a command that was watched would have worked, as text with the evidence.

Pure; runs as whoever types `supervisor profile learn`. Every value is the bound's or less: what was not measured is
taken from the bound, what the bound refused is listed and not granted.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import tomlkit

from supervisor.egress import match
from supervisor.errors import ConfigError
from supervisor.model import Plan
from supervisor.profile import folders, load
from supervisor.profile.admits import Admission
from supervisor.profile.entry import ServerEntry
from supervisor.profile.granted import below
from supervisor.profile.observed import Observed

MIB = 1 << 20
# examples that a comment names
SHOWN = 3
_LEAST = 64 * MIB
_UNMEASURED = ("file_size", "disk", "disk_files", "output_line", "output", "output_rate", "stderr")
_DISK = ("disk", "disk_files")
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc", "/dev", "/proc", "/sys", "/run", "/tmp")


@dataclass(frozen=True)
class Peaks:
    """The most that was had at once: bytes, thousandths of a processor; 0 where nothing could be measured."""

    memory: int = 0
    millicpus: int = 0


@dataclass(frozen=True)
class Lesson:
    """A bound, a command, and what was seen of it. `told`: what the broker refused, in its words."""

    chain: load.Chain
    plan: Plan
    entry: ServerEntry
    name: str
    output: str
    observed: Observed = field(default_factory=Observed)
    peaks: Peaks = Peaks()
    told: Sequence[str] = ()

    @property
    def floor(self) -> load.Profile:
        """What every profile starts from."""
        return load.load("none").profile

    def text(self, host: Callable[[str], str]) -> str:
        """The profile's file. `host`: what is at a path on this host, "folder", "file" or empty."""
        keep = self.chain.profile.writable.keep
        mounts = folders.bounds(self.plan.spec.mounts, keep)
        needs = folders.needs(self.observed.touched, mounts, lambda path: host(path) == "folder")
        title = _comment(f"what {shlex.join(self.plan.spec.argv)[:120]} needed")
        head = [
            f"# {self.name} - {title}",
            "# Learned from one run: read it, and learn again from a run of everything that it has to do.",
            "profile = 1",
            f"name    = {_quoted(self.name)}",
            'extends = "none"',
            f"summary = {_quoted(title)}",
        ]
        if self.entry.image:
            head.insert(1, f"# It ran from the image {_comment(self.entry.image)}, and needs that again: --image.")
        parts = [head, self._server(), self._process(needs), self._seccomp(), self._network()]
        names = [*(each for each in keep if each not in self.floor.writable.keep), *folders.kept(needs, keep)]
        if names:
            parts.append(["[writable]", f"keep = [{', '.join(map(_quoted, names))}]"])
        parts += [_mount(each) for each in needs]
        parts += [self._tmp(), self._limits(), self._session(), self._refused(host)]
        return "\n\n".join("\n".join(each) for each in parts if each) + "\n"

    def _server(self) -> list[str]:
        server = self.chain.profile.server
        if self.entry.command or self.entry.image or server is None:
            return []
        return ["[server]", f"default = {_quoted(server.default)}"]

    def _process(self, needs: list[folders.Need]) -> list[str]:
        spec, cwd = self.plan.spec, self.plan.spec.cwd
        lines = ["[process]"]
        if cwd != "/tmp" and any(below(cwd, each.target) or below(each.target, cwd) for each in needs):
            lines.append(f"cwd = {_quoted(cwd)}")
        if spec.hostname != self.floor.process.hostname:
            lines.append(f"hostname = {_quoted(spec.hostname)}")
        if not self.observed.write_execute:
            lines.append("write_execute = false   # no memory was writable and executable")
        elif not self.chain.profile.process.write_execute:
            lines.append("write_execute = false   # it asked for such memory; the bound has none")
        own = self.chain.profile.process.env
        differs = {key: spec.env[key] for key, value in own.items() if self.floor.process.env.get(key) != value}
        differs = {key: value for key, value in differs.items() if key not in self.entry.env}
        if differs:
            lines += ["", "[process.env]", *(f"{_quoted(key)} = {_quoted(differs[key])}" for key in differs)]
        return lines if len(lines) > 1 else []

    def _seccomp(self) -> list[str]:
        admission = Admission(self.floor.seccomp.groups, self.chain.profile.seccomp.groups)
        chosen = admission.fewest(self.observed.groups)
        if self._hosts():
            chosen.setdefault("network", {"connect"})
        if not chosen:
            return []
        said = [f"# {name}: {_some(sorted(calls))}" for name, calls in chosen.items()]
        return ["[seccomp]", *said, f"groups = [{', '.join(map(_quoted, chosen))}]"]

    def _hosts(self) -> dict[str, int]:
        """The rules of the bound that were used, and how often."""
        network = self.plan.spec.network
        if network.mode == "none":
            return {}
        rules = match.Rules.of(network.allow)
        layout = rules.layout()
        used: dict[str, int] = {}
        for (address, port), count in self.observed.connected.items():
            for each in rules.entries:
                literal = each.address and each.host == address
                exact = not each.address and not each.labels and layout.names.get(each.host) == address
                pattern = each.labels and address in layout.pool
                # the proxy is told the name inside its connection, which is not looked into
                proxied = address == match.GATEWAY and port == match.PROXY_PORT
                if proxied or ((literal or exact or pattern) and each.port == port):
                    used[str(each)] = used.get(str(each), 0) + count
        return used

    def _network(self) -> list[str]:
        used = self._hosts()
        if not used:
            return []
        text = self.chain.profile.network
        own = {"connections": text.connections, "rate": text.rate}
        return [
            "[network]",
            'mode  = "allowlist"',
            "allow = [",
            *(f"  {_quoted(rule)},   # {count} connections begun" for rule, count in sorted(used.items())),
            "]",
            *([f"ech   = {_quoted(text.ech)}"] if text.ech and text.ech != self.floor.network.ech else []),
            *(f"{key} = {value}" for key, value in own.items() if value != getattr(self.floor.network, key)),
            *([f"bytes = {_size(text.bytes)}"] if text.bytes and text.bytes != self.floor.network.bytes else []),
            *([f"idle = {_time(text.idle)}"] if text.idle and text.idle != self.floor.network.idle else []),
        ]

    def _tmp(self) -> list[str]:
        tmp, floor = self.plan.spec.tmp, self.floor.tmp
        lines = []
        if tmp.size != floor.size:
            lines.append(f"size  = {_size(tmp.size)}   # not measured: the bound's")
        if tmp.inodes != floor.files:
            lines.append(f"files = {tmp.inodes}   # not measured: the bound's")
        ran = [path for path, kinds in self.observed.touched.items() if "exec" in kinds and below(path, "/tmp")]
        if ran and not tmp.noexec:
            lines.append(f"exec  = true   # {_some(sorted(ran))}")
        return ["[tmp]", *lines] if lines else []

    def _limits(self) -> list[str]:
        limits, seen, floor = self.plan.spec.limits, self.observed, self.floor.limits
        memory = min(limits.memory, max(_LEAST, _up(self.peaks.memory * 3 // 2, 32 * MIB)))
        cpus = min(limits.millicpus, max(1000, _up(self.peaks.millicpus, 500)))
        lines = ["[limits]"]
        if self.peaks.memory:
            lines.append(f"memory = {_size(memory)}   # at most {_up(self.peaks.memory, MIB) // MIB} MiB were used")
        else:
            lines.append(f"memory = {_size(limits.memory)}   # not measured: the bound's")
        cpu = (
            f"about {self.peaks.millicpus / 1000:g} were busy"
            if self.peaks.millicpus
            else "not measured: the bound's"
        )
        lines.append(f"cpus   = {(cpus if self.peaks.millicpus else limits.millicpus) / 1000:g}   # {cpu}")
        # the init is one, and an interpreter's helpers come and go
        pids = min(limits.pids, max(8, _up(seen.processes * 3 // 2 + 1, 8)))
        files = min(limits.files, max(32, _up(seen.files * 3 // 2, 16)))
        lines.append(f"pids   = {pids}   # {seen.processes} processes and threads at once")
        lines.append(f"files  = {files}   # descriptors up to {max(0, seen.files - 1)}")
        writes = any("write" in kinds and not below(path, "/tmp") for path, kinds in seen.touched.items())
        for name in _UNMEASURED:
            value = getattr(limits, name)
            if name in _DISK and not writes and value > getattr(floor, name):
                continue
            if value != getattr(floor, name):
                shown = str(value) if name == "disk_files" else _size(value)
                lines.append(f"{name} = {shown}   # not measured: the bound's")
        return lines

    def _session(self) -> list[str]:
        own, floor = self.plan.spec.session, self.floor.session
        times = {key: getattr(own, key) for key in ("start", "idle", "life", "grace")}
        lines = [f"{key} = {_time(value)}" for key, value in times.items() if value != getattr(floor, key)]
        lines += [f"share = {_quoted(own.share)}"] if own.share != floor.share else []
        return ["[session]", *lines] if lines else []

    def _refused(self, host: Callable[[str], str]) -> list[str]:
        """What was refused or not there, as comments."""
        lines = []
        for (call, path, error), count in sorted(self.observed.refused.items()):
            what = f"{call} {path}" if path else f"system call {call}"
            lines.append(f"#   {what}: {error}, {count} times")
        absent = [each for each in sorted(self.observed.missing) if not any(below(each, top) for top in _SYSTEM)]
        lines += [f"#   {each}: not shown inside; it is on this host" for each in absent if host(each)]
        lines += [f"#   {each}" for each in dict.fromkeys(self.told)]
        if self.observed.killed:
            lines.append("#   a system call of another architecture (it was killed for it)")
        more = [f"#   and {len(lines) - 100} more"] if len(lines) > 100 else []
        shown = [_comment(each) for each in lines[:100]] + more
        return ["# Refused by the bound, and not granted here:", *shown] if shown else []


def _mount(need: folders.Need) -> list[str]:
    if "${" in need.source + need.target:
        raise ConfigError(f'"{need.source}" cannot be written into a profile: "${{" means a param there')
    flags = ["nosuid", "nodev", *([] if need.execute else ["noexec"])]
    paths = sorted(set(need.evidence))
    done = "read and written" if need.write else "read"
    return [
        "[[mount]]",
        _comment(f"# {done} here: {len(paths)} paths, {_some(paths)}"),
        f"source = {_quoted(need.source)}",
        f"target = {_quoted(need.target)}",
        f'mode   = "{"rw" if need.write else "ro"}"',
        f"flags  = [{', '.join(map(_quoted, flags))}]",
    ]


def _some(words: Sequence[str]) -> str:
    more = f" and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
    # a path is whatever the program called it: a line of its own would be one of the profile's
    return ", ".join(map(_comment, words[:SHOWN])) + more


def _comment(text: str) -> str:
    """One line, with nothing in it that a terminal would act on."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)[:400]


def _quoted(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{text!a} is not UTF-8, and cannot be written into a profile") from None
    return tomlkit.item(text).as_string()


def _up(value: int, step: int) -> int:
    return -(-value // step) * step


def _size(value: int) -> str:
    for unit, letter in ((1 << 30, "G"), (MIB, "M"), (1 << 10, "K")):
        if value % unit == 0:
            return f'"{value // unit}{letter}"'
    return f'"{value}"'


def _time(seconds: float) -> str:
    return f'"{round(seconds * 1000)}ms"' if seconds % 1 else f'"{round(seconds)}s"'
