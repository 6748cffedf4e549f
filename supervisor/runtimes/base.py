"""What the monitor knows of an engine: which process speaks to it, and what that is given.

Runs as root in the monitor. The process, a keeper, speaks the spawner's protocol and refuses a document with every
field that its engine cannot hold.
"""

from __future__ import annotations

from supervisor.model import HostFacts, SandboxSpec
from supervisor.runtimes import native

KEEPER = """import os, sys; sys.path.insert(0, sys.argv[1])
from supervisor.runtimes import keeper, {0}; keeper.main(3, {0}.ENGINE); os._exit(0)"""


def document(spec: SandboxSpec, host: HostFacts) -> dict[str, object]:
    """The native runtime's, and beside it what is an engine's alone."""
    made = native.document(spec, host)
    if spec.engine:
        made["engine"] = spec.engine | {"digest": spec.digest[:16], "accepted": list(spec.accepted)}
    return made
