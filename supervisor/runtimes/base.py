"""The contract of the runtimes: what checks a plan, what a document is, and which process makes the sandboxes.

Runs as root in the monitor, which knows no more of an engine than this. Each process speaks the spawner's
protocol; an engine's, the keeper, refuses a document with every field that it cannot hold.
"""

from __future__ import annotations

from supervisor.errors import Unenforceable
from supervisor.model import HostFacts, Plan, SandboxSpec
from supervisor.runtimes import native

# what the keeper of each runtime executes, as supervisor.monitor.children.start does
KEEPERS = {
    name: f"""import os, sys; sys.path.insert(0, sys.argv[1])
from supervisor.runtimes import keeper, {name}; keeper.main(3, {name}.ENGINE); os._exit(0)"""
    for name in ("podman", "docker")
}
# what an engine may lack and an operator may accept by name: limits, and a user namespace
OPTIONAL = (*native.OPTIONAL, "namespaces.user")


def check(plan: Plan, host: HostFacts, accept: tuple[str, ...]) -> SandboxSpec:
    """The spec with the gaps that were accepted written into it; what an engine itself lacks, its keeper says."""
    own = tuple(name for name in accept if name != "namespaces.user")
    if plan.spec.runtime == "native":
        return native.check(plan, host, own)
    kernel = {name: host.missing[name] for name in ("landlock", "seccomp") if name in host.missing}
    try:
        spec = native.check(plan, host.model_copy(update={"missing": kernel}), own)
    except Unenforceable as error:
        raise Unenforceable(error.gaps, runtime=plan.spec.runtime, optional=set(OPTIONAL)) from None
    return spec.model_copy(update={"accepted": tuple(sorted({*spec.accepted, *accept}))})


def document(spec: SandboxSpec, host: HostFacts) -> dict[str, object]:
    """What the runtime's process takes: plain lists, tables, strings and numbers."""
    if not (spec.engine and spec.image):
        return native.document(spec, host)
    made = native.document(spec, host.model_copy(update={"controllers": ("cpu", "memory", "pids")}))
    image = {"config": spec.image.config, **spec.engine.model_dump(mode="json", include={"store", "layers"})}
    return made | {
        "trees": [],
        "mounts": [each.model_dump(mode="json") for each in spec.mounts],
        "engine": {
            "socket": spec.engine.socket,
            "pump": spec.engine.pump,
            "digest": spec.digest[:16],
            "accepted": list(spec.accepted),
            "image": image,
        },
    }
