"""What every runtime is to the monitor: `check` before anything starts, `prepare` once per spec.

Runs as root in the monitor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from supervisor.errors import ConfigError, Unenforceable
from supervisor.model import HostFacts, SandboxSpec


class Runtime(Protocol):
    """A way to run a spec. No runtime enforces part of one: `check` raises Unenforceable, listing every field."""

    name: str

    def gaps(self, spec: SandboxSpec, host: HostFacts) -> dict[str, str]:
        """Field -> reason and remedy, for each field of `spec` that cannot be enforced here."""

    def document(self, spec: SandboxSpec, host: HostFacts) -> dict[str, object]:
        """The spec as the process that starts it wants it."""


def check(
    runtime: Runtime,
    spec: SandboxSpec,
    host: HostFacts,
    *,
    accept: tuple[str, ...],
    optional: Mapping[str, str],
) -> SandboxSpec:
    """The spec with the gaps that were accepted by name written into it.

    Unenforceable lists every other gap. Only what is in `optional` can be accepted; a name that stands for no
    gap on this host is not written down, because that layer is on.
    """
    unknown = [name for name in accept if name not in optional]
    if unknown:
        listed = ", ".join(sorted(optional))
        raise ConfigError(f'--accept-missing "{unknown[0]}": no such layer; it takes {listed}')
    gaps = runtime.gaps(spec, host)
    refused = {name: reason for name, reason in gaps.items() if name not in accept}
    if refused:
        raise Unenforceable(refused, runtime=runtime.name, optional=set(optional))
    return spec.model_copy(update={"accepted": tuple(sorted(gaps))})
