"""A spec in words for a person: what `run`, `exec` and `call` print, and the steps that `explain` prints.

Runs in the planner and, as the user, in the command line. Pure.
"""

from __future__ import annotations

from supervisor.model import SandboxSpec
from supervisor.sandbox import enter, mounts
from supervisor.shown import printable

# of these everybody has the same
_SYSTEM = ("/usr/", "/etc/", "/bin", "/sbin", "/lib")


def summary(spec: SandboxSpec) -> str:
    """Files, network and limits, on two lines."""
    people = [each for each in spec.mounts if each.per_session]
    # what is kept in a writable folder is told by explain
    folders = [f"{each.target}/" for each in people if each.mode == "rw" and not each.is_file]
    shown = [
        printable(f"{each.source} {each.mode} at {each.target}")
        for each in people
        if not any(each.target.startswith(folder) for folder in folders)
    ]
    own = [
        printable(each.target)
        for each in spec.mounts
        if not each.per_session and not each.target.startswith(_SYSTEM) and each.target != mounts.SECRETS
    ]
    extra = f"; the program's own {', '.join(own)}" if own else ""
    none = "none" if spec.network.mode == "none" else "no host allowed yet (--allow HOST:PORT)"
    limits, root = spec.limits, f"{spec.image.name} read-only" if spec.image else "/usr read-only"
    return (
        f"files: {'; '.join(shown) or 'none of yours'}; {root}{extra}; private /tmp of {spec.tmp.size >> 20} MiB\n"
        f"network: {', '.join(spec.network.allow) or none}; limits: {limits.memory >> 20} MiB memory, "
        f"{limits.millicpus / 1000:g} CPU, {limits.pids} processes"
    )


def told(spec: SandboxSpec) -> dict[str, str | int | float | bool]:
    """What whoever opens a session has to know of it: a summary, and limits and times that the proxy holds."""
    limits, session = spec.limits, spec.session
    return {
        "profile": spec.profile,
        "summary": summary(spec)[:4096],
        "start": session.start,
        "grace": session.grace,
        "image": spec.image.name if spec.image else "",
        "runtime": spec.runtime,
        "reaches": spec.network.mode != "none",
        "output_line": limits.output_line,
        "output": limits.output,
        "output_rate": limits.output_rate,
        "stderr": limits.stderr,
    }


def steps(document: enter.Document) -> list[str]:
    """What each step does, in the order in which they are taken, a line each."""
    texts = _texts(document)
    return [texts[step.name] for step in enter.plan(document, enter.specs(document, "trees"))]


def _texts(document: enter.Document) -> dict[str, str]:
    """Name of a step -> what it does with this document."""
    tmp, noexec = enter.numbers(document, "tmp"), ", nothing in it can be executed"
    hostname, uid, filters = document["hostname"], document["uid"], str(document["seccomp"])
    shown = (
        f"{'its secrets' if each.target == mounts.SECRETS else each.source} at {each.target} {each.mode}"
        f"{',noexec' if each.noexec else ''}"
        for each in enter.specs(document, "mounts")
    )
    own = ["the image's whole tree"] if document["image"] else []
    trees = ", ".join([*own, *(each.target for each in enter.specs(document, "trees"))])
    return {
        "cgroup": _cgroup(enter.numbers(document, "cgroup")),
        "descriptors": "new session; pipes as standard input, output and error; every other descriptor closed",
        "identity": f"user and group {uid} inside, an id of the session's own outside; dies with the spawner",
        "loopback": f'network namespace with "lo" and nothing else; host name "{hostname}"',
        "egress": _egress(document),
        "root": f"read-only root: {trees}; {len(mounts.DEVICES)} devices in /dev; "
        f"made up: {', '.join(sorted(enter.texts(document, 'files')))}",
        "proc": "/proc of its own: only its own processes, nothing of the kernel's settings",
        "tmp": f"private /tmp in memory: {tmp['size'] >> 20} MiB, {tmp['inodes']} files"
        f"{noexec if tmp['noexec'] else ''}",
        "mounts": "mount " + ("; ".join(shown) or "nothing of the host's besides"),
        "pivot_root": "pivot into the new root; the host's tree is detached",
        "rlimits": f"limits: {_listed(enter.numbers(document, 'rlimits'))}",
        "capabilities": "no capabilities: bounding, ambient, permitted, effective and inheritable empty; "
        "securebits locked",
        "no_new_privs": "no_new_privs",
        "landlock": _landlock(document),
        "seccomp": f"system call filter of {len(filters) * 3 // 4 // 8} instructions, loaded last"
        if filters
        else "no system call filter",
        "proof": "prove the host name and Landlock from inside; wait until the rest was read back from outside",
    }


def _listed(numbers: dict[str, int]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(numbers.items()))


def _cgroup(limits: dict[str, int]) -> str:
    if not limits:
        return "no cgroup limits; clocks that begin now"
    return f"join a cgroup of its own ({_listed(limits)}) and new cgroup and time namespaces: clocks begin now"


def _egress(document: enter.Document) -> str:
    addresses = [str(each) for each in enter.items(document, "addresses")]
    if not addresses:
        return "no way out of that namespace"
    sockets = len(enter.items(document, "udp") + enter.items(document, "tcp"))
    return f'{", ".join(addresses)} on "lo"; {sockets} sockets on it for the egress broker, the only way out'


def _landlock(document: enter.Document) -> str:
    if not document["landlock"]:
        return "no Landlock"
    writable = [each.target for each in enter.specs(document, "mounts") if each.mode == "rw"]
    listed = ", ".join([*writable, "/tmp"])
    return f"Landlock (ABI {document['landlock']}): write only {listed}; read only what is mounted"
