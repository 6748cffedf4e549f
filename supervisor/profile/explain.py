"""A spec in a few lines for a person: what `run`, `exec` and `call` print. Pure."""

from __future__ import annotations

from supervisor.model import SandboxSpec


def summary(spec: SandboxSpec) -> str:
    """Files, network and limits, on two lines."""
    people = [each for each in spec.mounts if each.per_session]
    # what is kept in a writable folder is told by explain
    folders = [f"{each.target}/" for each in people if each.mode == "rw" and not each.is_file]
    shown = [
        f"{each.source} {each.mode} at {each.target}"
        for each in people
        if not any(each.target.startswith(folder) for folder in folders)
    ]
    limits = spec.limits
    return (
        f"files: {'; '.join(shown) or 'none of yours'}; /usr read-only; private /tmp of {spec.tmp.size >> 20} MiB\n"
        f"network: {', '.join(spec.network.allow) or spec.network.mode}; limits: {limits.memory >> 20} MiB memory, "
        f"{limits.millicpus / 1000:g} CPU, {limits.pids} processes"
    )
