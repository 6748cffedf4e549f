"""A plan for a container engine: what it needs besides, and which engines `runtime = "auto"` may try.

Runs in the planner, and as the user in `explain`. Looks whether a socket is there, and asks no engine anything.
"""

from __future__ import annotations

import os
from typing import Protocol, TypeVar

from supervisor.model import Plan
from supervisor.profile import seccomp
from supervisor.profile.entry import ServerEntry
from supervisor.profile.image import Image

NOBODY = 65534
# after the native one, in this order: a user of its own for each session, one for all
ENGINES = ("podman", "docker")
Planned = TypeVar("Planned", bound=Plan)


class Stored(Protocol):
    """An image of the store: where, and its layers as (blob, digest of what it unpacks to)."""

    @property
    def image(self) -> Image: ...
    @property
    def place(self) -> str: ...
    @property
    def layers(self) -> tuple[tuple[str, str], ...]: ...


def socket(runtime: str, entry: ServerEntry) -> str:
    """Where the engine listens: as it is written, or root's own, or this user's."""
    if entry.engine:
        return entry.engine
    name = {"podman": "podman/podman.sock", "docker": "docker.sock"}[runtime]
    # a planner that root started is nobody
    if os.geteuid() in (0, NOBODY):
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


def others(made: Plan, entry: ServerEntry, found: Stored) -> tuple[Plan, ...]:
    """What may be tried if the native runtime cannot: every engine that is there."""
    if entry.runtime != "auto":
        return ()
    plain = Plan(spec=made.spec, told=made.told)
    there = [each for each in ENGINES if os.path.exists(socket(each, entry))]
    return tuple(fitted(plain, each, entry, found) for each in there)
