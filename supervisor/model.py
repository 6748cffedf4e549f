"""The types that cross module borders: spec, plan, what is judged of a server, host facts.

All are frozen and closed: what comes from outside is validated, an unknown key is an error and no kind is taken
for another; what our own code makes has its types checked before it runs. Sizes are bytes, times are seconds, CPU
is in thousandths of one processor. Used by the monitor (root), the planner and the command line; never by the
spawner, which gets the same data as plain JSON.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal, Self, dataclass_transform

from msgspec import Meta, Struct, StructMeta, structs
from msgspec import json as coded

# of a pattern \Z is the end: $ would let a newline follow
AbsPath = Annotated[str, Meta(pattern=r"^/")]
Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}\Z")]
EtcFile = Annotated[str, Meta(pattern=r"^/etc/[a-z.]+\Z")]
Digest = Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}\Z")]
# what a host may have merged into /usr
SYSTEM = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
# file systems that say at once, and truly, how much of them is in use
COUNTING = ("ext2", "ext3", "ext4", "xfs", "tmpfs", "overlay")
Share = Literal["principal", "server", "call"]


@dataclass_transform(frozen_default=True)
class _Closed(StructMeta):
    """Tells the type checker what holds of each by inheritance."""


class Frozen(Struct, frozen=True, forbid_unknown_fields=True, metaclass=_Closed):
    """Base of every type here: immutable, no unknown keys, no coercion between kinds.

    Its methods are named as those of supervisor.profile.written.Written, the base of what no start needs; from what
    somebody wrote it is made by supervisor.profile.toml.made, from the wire by msgspec itself.
    """

    def model_copy(self, *, update: dict[str, Any]) -> Self:
        """The same with other values, unvalidated."""
        return structs.replace(self, **update)

    def model_dump(self, *, include: set[str] | None = None) -> dict[str, Any]:
        """As plain data, as JSON has it; of `include` alone if given."""
        return {key: it for key, it in json.loads(coded.encode(self)).items() if not include or key in include}


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

    size: Annotated[int, Meta(gt=0)]
    inodes: Annotated[int, Meta(gt=0)]
    noexec: bool = True


class Limits(Frozen):
    """What one session may use. `output...` and `stderr` are held by the proxy, the rest by the kernel, but for
    `disk` (bytes) and `disk_files`: what may be added to folders that it can write, which a watcher looks at.
    `output` is of a session's life, `output_rate` of a second.
    """

    memory: Annotated[int, Meta(gt=0)]
    millicpus: Annotated[int, Meta(gt=0)]
    pids: Annotated[int, Meta(gt=0)]
    files: Annotated[int, Meta(gt=0)]
    file_size: Annotated[int, Meta(gt=0)]
    disk: Annotated[int, Meta(gt=0)]
    disk_files: Annotated[int, Meta(gt=0)]
    output_line: Annotated[int, Meta(gt=0)]
    output: Annotated[int, Meta(gt=0)]
    output_rate: Annotated[int, Meta(gt=0)]
    stderr: Annotated[int, Meta(gt=0)]


class SessionRules(Frozen):
    """Seconds: to answer the first request, idle before a stop, life at most, grace between EOF and kill."""

    start: Annotated[float, Meta(gt=0)]
    idle: Annotated[float, Meta(gt=0)]
    life: Annotated[float, Meta(gt=0)]
    grace: Annotated[float, Meta(gt=0)]
    share: Share = "principal"


class Network(Frozen):
    """`none`, or exactly the hosts in `allow` (see supervisor.egress.match), with everything that makes it so.

    `addresses` (ADDRESS/LENGTH) go on `lo`, `udp` and `tcp` are the sockets that the broker gets; `filter` is
    its own system call filter. `bytes` both ways and `connections` are of one session, `rate` of a second.
    """

    mode: Literal["none", "allowlist"] = "none"
    allow: tuple[str, ...] = ()
    ech: Literal["refuse", "pass"] = "refuse"
    connections: Annotated[int, Meta(ge=0)] = 0
    rate: Annotated[int, Meta(ge=0)] = 0
    bytes: Annotated[int, Meta(ge=0)] = 0
    idle: Annotated[float, Meta(ge=0)] = 0.0
    addresses: tuple[str, ...] = ()
    udp: tuple[tuple[str, int], ...] = ()
    tcp: tuple[tuple[str, int], ...] = ()
    filter: str = ""


class Audit(Frozen):
    """What the kernel is to tell of a session: the `files` that it opens at and below `places` (`system`: all).

    "auto": where the host can. `filter` is the system call filter of whoever listens.
    """

    files: Literal["auto", "required", "off"] = "off"
    system: bool = False
    places: tuple[str, ...] = ()
    filter: str = ""


class Seccomp(Frozen):
    """The names of the syscall groups and the compiled program (base64 of struct sock_filter[])."""

    groups: tuple[str, ...]
    program: str


class ImageRoot(Frozen):
    """An image of the store: repository@sha256:..., its manifest, and its config, by which engines know it."""

    name: str
    digest: Digest
    config: Digest


class SandboxSpec(Frozen):
    """A session's sandbox, fully resolved: nothing left to look up, no default left to apply.

    `links` (name -> target) and `files` (path -> text) are made anew in the root, beside the mounts; `rlimits` are
    those of getrlimit(2), without RLIMIT_; `secrets` is what the process that reads them is told, never a value.
    """

    profile: str
    argv: Annotated[tuple[str, ...], Meta(min_length=1)]
    cwd: AbsPath
    env: dict[str, str]
    hostname: str
    uid: Annotated[int, Meta(gt=0)]
    mounts: tuple[Mount, ...]
    links: dict[Name, str]
    files: dict[EtcFile, str]
    tmp: Tmp
    limits: Limits
    rlimits: dict[Annotated[str, Meta(pattern=r"^[A-Z]+\Z")], int]
    session: SessionRules
    network: Network
    seccomp: Seccomp
    audit: Audit = Audit()
    image: ImageRoot | None = None
    runtime: Literal["native", "podman", "docker", "gvisor"] = "native"
    secrets: str = ""
    engine: dict[str, Any] = {}
    accepted: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON: sorted keys, no spaces, UTF-8."""
        text = json.dumps(self.model_dump(), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()


class Plan(Frozen):
    """A spec; what is `told` of it goes to whoever opens it, unread.

    `gaps` maps the name of a field that this host's disks cannot hold to the reason and the remedy.
    """

    spec: SandboxSpec
    told: dict[str, str | int | float | bool]
    gaps: dict[str, str] = {}


class ServerRules(Frozen, kw_only=True):
    """Of a registered server, what the monitor judges by; `origin` is the file (or "command line") it stands in.

    The rest is the planner's: see supervisor.profile.entry.
    """

    name: Name
    home: AbsPath = "/nonexistent"
    personal: bool = False
    users: tuple[str, ...] = ()
    accept_missing: tuple[str, ...] = ()
    origin: str


class Registered(Frozen):
    """A server as the planner hands it to the monitor.

    `gateway` is what the registry says to the gateway, `policy` who may do what, both passed on unread; `manifest`
    the file in which its lists are pinned, with its SHA-256, or empty. `approval` is the number of what has to be
    approved, `bound` that itself, as a text; `held` why it may not run, and `until` when it may not any more.
    """

    entry: ServerRules
    plan: Plan
    others: tuple[Plan, ...] = ()
    gateway: Annotated[str, Meta(max_length=1 << 15)] = "{}"
    policy: Annotated[str, Meta(max_length=24_000)] = ""
    manifest: str = ""
    digest: str = ""
    approval: str = ""
    bound: Annotated[str, Meta(max_length=1 << 18)] = ""
    held: Annotated[str, Meta(max_length=2000)] = ""
    until: float = 0.0


class Planned(Frozen):
    """The planner's answer, or what is wrong with its exit status.

    `watched` is every file and folder that was read: (path, what `host.changed` said); `proxy` is the system
    call filter for whoever speaks on proxy.sock, `ledger` that of the process that writes the audit log; `gaps` is
    what this kernel lacks, as in HostFacts; `sealed` whose memory files come with it.
    """

    servers: tuple[Registered, ...] = ()
    watched: tuple[tuple[str, int], ...] = ()
    proxy: str = ""
    ledger: str = ""
    gaps: dict[str, str] = {}
    sealed: tuple[Digest, ...] = ()
    error: str = ""
    status: int = 0


class HostFacts(Frozen):
    """What this kernel and this user's rights offer. `landlock` is the ABI, 0 when there is none.

    `missing` maps a layer's name to why it is not there and what to do about it; `unseen` is that of the one
    which a profile can do without: why the kernel does not tell of files, or nothing.
    """

    root: bool
    landlock: int
    cgroup: Literal["v1", "v2", "none"]
    controllers: tuple[str, ...]
    missing: dict[str, str]
    unseen: str = ""


class Verdict(Frozen):
    """A decision, with the rule that made it and where the rule stands."""

    outcome: Literal["allow", "deny", "hold"]
    rule: str
    reason: str
    source: str
