"""The native runtime: namespaces, cgroups, Landlock and seccomp from the host's own /usr; no engine.

Runs as root in the monitor (or as the owner of a user namespace). It only translates: the spawner acts.
"""

from __future__ import annotations

import os

from supervisor.errors import ConfigError, Unenforceable
from supervisor.model import SYSTEM, HostFacts, Mount, Plan, SandboxSpec

# What `--accept-missing` may name, with what is lost without it.
OPTIONAL = {
    "landlock": "a second wall around files besides the mounts",
    "limits.memory": "a server can use up the host's memory",
    "limits.cpus": "a server can use up the host's processors",
    "limits.pids": "a server can use up the host's process table",
    "limits.disk": "a server can fill the disk of a folder that it may write",
    "limits.disk_files": "a server can use up the files of a disk that it may write",
    "file-audit": "nobody records which files a server opens",
}


def check(plan: Plan, host: HostFacts, accept: tuple[str, ...]) -> SandboxSpec:
    """The spec with the gaps that were accepted by name written into it; never a part of a spec.

    Unenforceable lists every other gap with its reason and remedy. A name that stands for no gap on this host is
    not written down, because that layer is on.
    """
    unknown = [name for name in accept if name not in OPTIONAL]
    if unknown:
        listed = ", ".join(sorted(OPTIONAL))
        raise ConfigError(f'--accept-missing "{unknown[0]}": no such layer; it takes {listed}')
    missing = host.missing | plan.gaps
    audit = plan.spec.audit
    if host.unseen:
        missing |= {"file-audit": host.unseen} if audit.files == "required" else {}
        audit = audit.model_copy(update={"files": "off"})
    refused = {name: reason for name, reason in missing.items() if name not in accept}
    if refused:
        raise Unenforceable(refused, runtime="native", optional=set(OPTIONAL))
    return plan.spec.model_copy(update={"accepted": tuple(sorted(missing)), "audit": audit})


def document(spec: SandboxSpec, host: HostFacts) -> dict[str, object]:
    """What the spawner takes: plain lists, tables, strings and numbers."""
    # where the host's /usr is not merged, /bin and its like are folders of their own
    folders = ["/usr", *(f"/{name}" for name in SYSTEM if name not in spec.links and os.path.isdir(f"/{name}"))]
    system = [Mount(source=each, target=each, noexec=False) for each in folders]
    # people's trees are mounted anew for each session, as its own user; so is what lies in its /tmp
    own = [each for each in spec.mounts if each.per_session or each.map_owner or each.target.startswith("/tmp/")]
    shared = [each for each in spec.mounts if each not in own]
    limits = spec.limits
    cgroup = {"memory": limits.memory, "cpu": limits.millicpus, "pids": limits.pids}
    return {
        "argv": list(spec.argv),
        "cwd": spec.cwd,
        "env": spec.env,
        "hostname": spec.hostname,
        "uid": spec.uid,
        "trees": [_mount(each) for each in (*system, *shared)],
        "mounts": [_mount(each) for each in own],
        "links": spec.links,
        "files": spec.files,
        "addresses": list(spec.network.addresses),
        "udp": [list(each) for each in spec.network.udp],
        "tcp": [list(each) for each in spec.network.tcp],
        "tmp": {"size": spec.tmp.size, "inodes": spec.tmp.inodes, "noexec": int(spec.tmp.noexec)},
        "rlimits": {
            "CORE": 0,
            "FSIZE": limits.file_size,
            "NOFILE": limits.files,
            # threads count; the cgroup counts as well, this one also holds where there is none
            "NPROC": limits.pids,
            "MEMLOCK": 8 << 20,
            "MSGQUEUE": 0,
            "RTPRIO": 0,
            "NICE": 0,
        },
        "cgroup": {name: value for name, value in cgroup.items() if name in host.controllers},
        "seccomp": spec.seccomp.program,
        "landlock": 0 if "landlock" in spec.accepted else host.landlock,
    }


def _mount(mount: Mount) -> dict[str, object]:
    return mount.model_dump(mode="json", exclude={"per_session"})
