"""The native runtime: namespaces, cgroups, Landlock and seccomp from the host's own /usr; no engine.

Runs as root in the monitor (or as the owner of a user namespace). It only translates: the spawner acts.
"""

from __future__ import annotations

import os

from supervisor.errors import ConfigError, Unenforceable
from supervisor.model import HostFacts, Mount, SandboxSpec

_SYSTEM = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
# What `--accept-missing` may name, with what is lost without it.
OPTIONAL = {
    "landlock": "a second wall around files besides the mounts",
    "limits.memory": "a server can use up the host's memory",
    "limits.cpus": "a server can use up the host's processors",
    "limits.pids": "a server can use up the host's process table",
}


def check(spec: SandboxSpec, host: HostFacts, accept: tuple[str, ...]) -> SandboxSpec:
    """The spec with the gaps that were accepted by name written into it; never a part of a spec.

    Unenforceable lists every other gap with its reason and remedy. A name that stands for no gap on this host is
    not written down, because that layer is on.
    """
    unknown = [name for name in accept if name not in OPTIONAL]
    if unknown:
        listed = ", ".join(sorted(OPTIONAL))
        raise ConfigError(f'--accept-missing "{unknown[0]}": no such layer; it takes {listed}')
    refused = {name: reason for name, reason in host.missing.items() if name not in accept}
    if refused:
        raise Unenforceable(refused, runtime="native", optional=set(OPTIONAL))
    return spec.model_copy(update={"accepted": tuple(sorted(host.missing))})


def document(spec: SandboxSpec, host: HostFacts) -> dict[str, object]:
    """What the spawner takes: plain lists, tables, strings and numbers."""
    links, folders = system_links()
    system = [Mount(source=each, target=each, noexec=False) for each in ("/usr", *folders)]
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
        "links": links,
        "files": _etc(spec),
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


def system_links() -> tuple[dict[str, str], list[str]]:
    """The host's /bin, /lib and so on: (links into /usr, folders of their own where /usr is not merged)."""
    links, folders = {}, []
    for name in _SYSTEM:
        if os.path.islink(f"/{name}"):
            links[name] = os.readlink(f"/{name}")
        elif os.path.isdir(f"/{name}"):
            folders.append(f"/{name}")
    return links, folders


def _mount(mount: Mount) -> dict[str, object]:
    return mount.model_dump(mode="json", exclude={"per_session"})


def _etc(spec: SandboxSpec) -> dict[str, str]:
    return {
        "/etc/passwd": (
            f"sandbox:x:{spec.uid}:{spec.uid}:sandbox:{spec.env['HOME']}:/bin/sh\n"
            "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
        ),
        "/etc/group": f"sandbox:x:{spec.uid}:\nnogroup:x:65534:\n",
        "/etc/hosts": f"127.0.0.1 localhost {spec.hostname}\n::1 localhost {spec.hostname}\n",
        # without a search list, a name is asked for as it was written
        "/etc/resolv.conf": "".join(f"nameserver {address}\n" for address, _ in spec.network.udp),
        "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    }
