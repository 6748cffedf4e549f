"""A plan for a container engine or for gVisor: what it needs besides, and which ones `runtime = "auto"` may try.

Runs in the planner, and as the user in `explain`. Looks whether a socket or a program is there, and asks nobody.
"""

from __future__ import annotations

import os
from typing import Protocol, TypeVar

from supervisor.model import Plan
from supervisor.profile import seccomp
from supervisor.profile.entry import ServerEntry
from supervisor.profile.image import Image
from supervisor.runtimes import bundle

NOBODY = 65534
# after the native one, which tells of files and starts ten times as fast, and after gVisor: a user of its own for
# each session, one for all
ENGINES = ("podman", "docker")
# Of each process of a guest the host sees several threads: the sentry's and those that it traces. Some are runsc's
# own. The limit outside keeps a sentry that was taken over from using up the host.
_THREADS, _OWN_THREADS = 8, 256
_UNSEEN = (
    "what is opened through gvisor again, while the sentry has it open, never reaches the host's kernel: "
    'runtime = "native", or files = "auto"'
)
Planned = TypeVar("Planned", bound=Plan)


class Stored(Protocol):
    """An image of the store: where, and its layers as (blob, digest of what it unpacks to)."""

    @property
    def image(self) -> Image: ...
    @property
    def place(self) -> str: ...
    @property
    def layers(self) -> tuple[tuple[str, str], ...]: ...


def _root() -> bool:
    """Whether root asks: a planner that it started is nobody."""
    return os.geteuid() in (0, NOBODY)


def socket(runtime: str, entry: ServerEntry) -> str:
    """Where the engine listens: as it is written, or root's own, or this user's."""
    if entry.engine:
        return entry.engine
    name = {"podman": "podman/podman.sock", "docker": "docker.sock"}[runtime]
    # a planner that root started is nobody
    if _root():
        return f"/run/{name}"
    return f"{os.environ.get('XDG_RUNTIME_DIR') or f'/run/user/{os.geteuid()}'}/{name}"


def fitted(made: Planned, runtime: str, entry: ServerEntry, found: Stored) -> Planned:
    """The plan for this engine."""
    image = {
        "store": found.place,
        "config": found.image.root.config,
        "layers": [list(each) for each in found.layers],
    }
    engine = {"socket": socket(runtime, entry), "pump": seccomp.own("pump"), "image": image}
    # all containers of docker are of one user, whose processes the kernel would count together
    rlimits = {name: value for name, value in made.spec.rlimits.items() if runtime != "docker" or name != "NPROC"}
    spec = made.spec.model_copy(update={"runtime": runtime, "engine": engine, "rlimits": rlimits})
    return made.model_copy(update={"spec": spec, "told": made.told | {"runtime": runtime}})


def guest(made: Planned) -> Planned:
    """The plan for gVisor: the sentry counts the guest's processes, the control group what they cost outside."""
    spec, gaps = made.spec, made.gaps
    limits = spec.limits.model_copy(update={"pids": spec.limits.pids * _THREADS + _OWN_THREADS})
    if spec.audit.files == "required":
        gaps = gaps | {"file-audit": _UNSEEN}
    audit = spec.audit.model_copy(update={"files": "off"})
    engine = {"socket": bundle.RUNSC}
    spec = spec.model_copy(update={"runtime": "gvisor", "limits": limits, "audit": audit, "engine": engine})
    return made.model_copy(update={"spec": spec, "gaps": gaps, "told": made.told | {"runtime": "gvisor"}})


def others(made: Plan, entry: ServerEntry, found: Stored) -> tuple[Plan, ...]:
    """What may be tried if the native runtime cannot: every engine that is there."""
    if entry.runtime != "auto":
        return ()
    plain = Plan(spec=made.spec, told=made.told)
    there = [each for each in ENGINES if os.path.exists(socket(each, entry))]
    # as natively, root alone has users to give away
    guests = [guest(Plan(spec=made.spec, told=made.told, gaps=made.gaps))] if _root() and bundle.there() else []
    return (*guests, *(fitted(plain, each, entry, found) for each in there))
