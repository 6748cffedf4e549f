"""The native runtime: namespaces, cgroups, Landlock and seccomp from the host's own /usr; no engine.

Runs as root in the monitor (or as the owner of a user namespace). It only translates: the spawner acts.
"""

from __future__ import annotations

import os

from supervisor.errors import ConfigError, Unenforceable
from supervisor.model import SYSTEM, HostFacts, Mount, Plan, SandboxSpec
from supervisor.sandbox.mounts import SECRETS

# What `--accept-missing` may name: a second wall around files, what keeps a server from using up the host, and the
# record of the files that it opens.
OPTIONAL = (
    *("landlock", "limits.memory", "limits.cpus", "limits.pids", "limits.disk", "limits.disk_files"),
    "file-audit",
)
# What the sandbox gets as it stands in the spec.
_COPIED = {"argv", "cwd", "env", "hostname", "uid", "links", "files", "rlimits", "engine", "accepted"}
_REACHED = {"addresses", "udp", "tcp"}


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
    if plan.spec.runtime == "gvisor":
        # the sentry opens no file by itself, and the gofer has a root of its own
        missing.pop("landlock", None)
    audit = plan.spec.audit
    if host.unseen:
        missing |= {"file-audit": host.unseen} if audit.files == "required" else {}
        audit = audit.model_copy(update={"files": "off"})
    refused = {name: reason for name, reason in missing.items() if name not in accept}
    if refused:
        raise Unenforceable(refused, runtime=plan.spec.runtime, optional=set(OPTIONAL))
    return plan.spec.model_copy(update={"accepted": tuple(sorted(missing)), "audit": audit})


def document(spec: SandboxSpec, host: HostFacts) -> dict[str, object]:
    """What the spawner or an engine's keeper takes: plain lists, tables, strings and numbers."""
    # where the host's /usr is not merged, /bin and its like are folders of their own
    folders = ["/usr", *(f"/{name}" for name in SYSTEM if name not in spec.links and os.path.isdir(f"/{name}"))]
    system = [Mount(source=each, target=each, noexec=False) for each in folders if not spec.image]
    # people's trees are mounted anew for each session, as its own user; so is what lies in its /tmp
    own = [each for each in spec.mounts if each.per_session or each.map_owner or each.target.startswith("/tmp/")]
    shared = [each for each in spec.mounts if each not in own]
    own += [Mount(source=SECRETS, target=SECRETS)] if spec.secrets else []
    limits = spec.limits
    cgroup = {"memory": limits.memory, "cpu": limits.millicpus, "pids": limits.pids}
    copied = spec.model_dump(include=_COPIED) | spec.network.model_dump(include=_REACHED)
    return copied | {
        "image": spec.image.digest if spec.image else "",
        "trees": [each.model_dump() for each in (*system, *shared)],
        "mounts": [each.model_dump() for each in own],
        "tmp": spec.tmp.model_dump() | {"noexec": int(spec.tmp.noexec)},
        "cgroup": {name: value for name, value in cgroup.items() if name in host.controllers},
        "seccomp": spec.seccomp.program,
        "landlock": 0 if "landlock" in spec.accepted else host.landlock,
    }
