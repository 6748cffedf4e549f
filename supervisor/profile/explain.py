"""A spec in a few lines for a person: what `run`, `exec` and `call` print. Pure."""

from __future__ import annotations

from supervisor.model import SandboxSpec


def summary(spec: SandboxSpec) -> str:
    """Files, network and limits, on two lines."""
    shown = [f"{each.source} {each.mode} at {each.target}" for each in spec.mounts if each.per_session]
    limits = spec.limits
    return (
        f"files: {'; '.join(shown) or 'none of yours'}; /usr read-only; private /tmp of {spec.tmp.size >> 20} MiB\n"
        f"network: {', '.join(spec.network.allow) or spec.network.mode}; limits: {limits.memory >> 20} MiB memory, "
        f"{limits.millicpus / 1000:g} CPU, {limits.pids} processes"
    )
