"""What a sandbox has besides its mounts: a made-up /etc, links to what the host has merged into /usr, rlimits.

Runs in the planner, and as the user in `explain`. Looks at the host's root, and takes nothing from its /etc.
"""

from __future__ import annotations

import os

from supervisor.model import SYSTEM, Limits, Network, SandboxSpec


def links() -> dict[str, str]:
    """/bin, /lib and so on, where the host has links for them; folders are mounted."""
    return {name: os.readlink(f"/{name}") for name in SYSTEM if os.path.islink(f"/{name}")}


def etc(*, uid: int, hostname: str, home: str, network: Network) -> dict[str, str]:
    """The whole of /etc."""
    return {
        "/etc/passwd": (
            f"sandbox:x:{uid}:{uid}:sandbox:{home}:/bin/sh\n"
            "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
        ),
        "/etc/group": f"sandbox:x:{uid}:\nnogroup:x:65534:\n",
        "/etc/hosts": f"127.0.0.1 localhost {hostname}\n::1 localhost {hostname}\n",
        # without a search list, a name is asked for as it was written
        "/etc/resolv.conf": "".join(f"nameserver {address}\n" for address, _ in network.udp),
        "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    }


def gaps(spec: SandboxSpec) -> dict[str, str]:
    """What a runtime cannot do at all."""
    if spec.runtime in ("podman", "docker") and not spec.image:
        return {"image": f"{spec.runtime} runs images: name one that was added (--image, image = ...)"}
    return {}


def rlimits(limits: Limits) -> dict[str, int]:
    """Of each process and, where the kernel counts by user, of the session."""
    return {
        "CORE": 0,
        "FSIZE": limits.file_size,
        "NOFILE": limits.files,
        # threads count; the cgroup counts as well, this one also holds where there is none
        "NPROC": limits.pids,
        # the kernel adds them up for whoever made the user namespace: root, on the host, would have none left
        "SIGPENDING": limits.pids,
        "MEMLOCK": 8 << 20,
        "MSGQUEUE": 0,
        "RTPRIO": 0,
        "NICE": 0,
    }
