"""The types that cross module borders: spec, grants, server entries, host facts.

All are frozen and closed: an unknown key is an error. Sizes are bytes, times are seconds, CPU is in
thousandths of one processor. Used by the monitor (root) and by the command line; never by the spawner,
which gets the same data as plain JSON.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

AbsPath = Annotated[str, Field(pattern=r"^/")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Share = Literal["principal", "server", "call"]


class Frozen(BaseModel):
    """Base of every type here: immutable, no unknown keys, no coercion between kinds."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Mount(Frozen):
    """One tree or file of the host, shown read-only or writable at `target`.

    nosuid and nodev always hold. `map_owner`: the tree's owner on disk and the sandbox's user are the
    same person (an idmapped mount), so that files made inside belong to whoever owns the folder.
    """

    source: AbsPath
    target: AbsPath
    mode: Literal["ro", "rw"] = "ro"
    noexec: bool = True
    is_file: bool = False
    map_owner: bool = False
    per_session: bool = False


class Tmp(Frozen):
    """The private /tmp: `size` in bytes, `inodes` in number of files."""

    size: int = Field(gt=0)
    inodes: int = Field(gt=0)
    noexec: bool = True


class Limits(Frozen):
    """What one session may use. `output_line` and `stderr` are held by the proxy, the rest by the kernel."""

    memory: int = Field(gt=0)
    millicpus: int = Field(gt=0)
    pids: int = Field(gt=0)
    files: int = Field(gt=0)
    file_size: int = Field(gt=0)
    output_line: int = Field(gt=0)
    stderr: int = Field(gt=0)


class SessionRules(Frozen):
    """Seconds: to answer the first request, idle before a stop, life at most, grace between EOF and kill."""

    start: float = Field(gt=0)
    idle: float = Field(gt=0)
    life: float = Field(gt=0)
    grace: float = Field(gt=0)
    share: Share = "principal"


class Network(Frozen):
    """`none`, or exactly the hosts in `allow` (each `host:port`)."""

    mode: Literal["none", "allowlist"] = "none"
    allow: tuple[str, ...] = ()


class Seccomp(Frozen):
    """The names of the syscall groups and the compiled program (base64 of struct sock_filter[])."""

    groups: tuple[str, ...]
    program: str


class SandboxSpec(Frozen):
    """A session's sandbox, fully resolved: nothing left to look up, no default left to apply."""

    profile: str
    argv: tuple[str, ...] = Field(min_length=1)
    cwd: AbsPath
    env: dict[str, str]
    hostname: str
    uid: int = Field(gt=0)
    host_root: bool
    mounts: tuple[Mount, ...]
    tmp: Tmp
    limits: Limits
    session: SessionRules
    network: Network
    seccomp: Seccomp
    landlock: bool
    write_execute: bool
    accepted: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON: sorted keys, no spaces, UTF-8."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()


class Grant(Frozen):
    """One thing the sandbox is given, in words, with why and where that is written (`file:line`)."""

    what: str
    why: str
    origin: str


class Plan(Frozen):
    """A spec and the account of how it came about."""

    spec: SandboxSpec
    grants: tuple[Grant, ...]

    def summary(self) -> str:
        """What was built, on a few short lines, for a person."""
        spec = self.spec
        home = [f"{m.source} {m.mode} at {m.target}" for m in spec.mounts if m.per_session]
        gaps = f", WITHOUT {', '.join(spec.accepted)}" if spec.accepted else ""
        limits = {
            "limits.memory": f"{spec.limits.memory >> 20} MiB memory",
            "limits.cpus": f"{spec.limits.millicpus / 1000:g} CPU",
            "limits.pids": f"{spec.limits.pids} processes",
        }
        held = ", ".join(text for name, text in limits.items() if name not in spec.accepted)
        return (
            f"profile {spec.profile}, spec {spec.digest[:12]}{gaps}\n"
            f"files: {'; '.join(home) or 'none of yours'}; /usr read-only; private /tmp of "
            f"{spec.tmp.size >> 20} MiB\n"
            f"network: {spec.network.mode}; limits: {held}"
        )


class ServerEntry(Frozen):
    """A registered server, as its owner wrote it; `origin` is the file (or "command line") it stands in.

    Relative paths in `params`, `ro` and `rw` are meant from `cwd`, in personal mode only.
    """

    name: Name
    profile: str
    command: tuple[str, ...] = ()
    params: dict[str, str] = {}
    ro: tuple[str, ...] = ()
    rw: tuple[str, ...] = ()
    env: dict[str, str] = {}
    cwd: AbsPath = "/"
    home: AbsPath = "/nonexistent"
    search_path: str = "/usr/local/bin:/usr/bin:/bin"
    personal: bool = False
    users: tuple[str, ...] = ()
    accept_missing: tuple[str, ...] = ()
    origin: str


class Registered(Frozen):
    """A server as the planner hands it to the monitor."""

    entry: ServerEntry
    plan: Plan


class HostFacts(Frozen):
    """What this kernel and this user's rights offer. `landlock` is the ABI, 0 when there is none.

    `missing` maps a layer's name to why it is not there and what to do about it.
    """

    root: bool
    landlock: int
    cgroup: Literal["v1", "v2", "none"]
    controllers: tuple[str, ...]
    missing: dict[str, str]


class Verdict(Frozen):
    """A decision, with the rule that made it and where the rule stands."""

    outcome: Literal["allow", "deny", "hold"]
    rule: str
    reason: str
    source: str
