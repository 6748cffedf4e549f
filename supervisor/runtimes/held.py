"""What an engine can hold of a document, and what of it it is told in whatever words.

Runs in the keeper, and as the user in `explain`. Standard library only.
"""

from __future__ import annotations

import os
import resource
from typing import NamedTuple, Protocol

from supervisor.runtimes import gate
from supervisor.runtimes.api import Table, entries
from supervisor.runtimes.document import engine as engine_part
from supervisor.sandbox import enter
from supervisor.sandbox.mounts import SECRETS, MountSpec

PERIOD = 100_000
# what starts a kernel for each container: its processes are none of the host's
_GUESTS = ("runsc", "gvisor", "kata")
# /dev/shm is not /tmp there: room for a semaphore
SHARED_MEMORY = 1 << 16


class Places(Protocol):
    """Where files of ours are put for a container, and of which engine."""

    name: str

    def place(self, name: str, data: bytes, mode: int = 0o444) -> str:
        """Write one; its path."""

    def empty(self) -> str:
        """The path of an empty folder."""


class Shown(NamedTuple):
    """A tree or file of the host in a container, read-only; `ours`: a file that we made and that nobody writes."""

    source: str
    target: str
    flags: list[str]
    ours: bool


def gaps(document: enter.Document, engine: str, facts: Table) -> dict[str, str]:
    """What no engine holds, and what this one says that it does not."""
    found: dict[str, str] = {}
    starts = os.path.basename(str(facts.get("starts", "")))
    if os.geteuid() != 0 and not facts.get("rootless"):
        found["runtime"] = f"what root's {engine} has made is read back by root alone: use a podman of your own"
    elif any(name in starts for name in _GUESTS):
        found["runtime"] = (
            f"this {engine} starts containers with {starts}, and what that makes cannot be read back: "
            'runtime = "gvisor", or give it runc'
        )
    if not engine_part(document).get("image"):
        found["image"] = f"{engine} runs images: name one that was added (--image, image = ...)"
    for each in _specs(document):
        if each.mode == "rw" and os.geteuid() != 0:
            found[f"mount {each.target}"] = (
                f'only root can make what is written in {engine} belong to the folder\'s owner: runtime = "native"'
            )
    give = "mount the controller for it, and start it again"
    if facts.get("rootless"):
        give = "delegate the controller to user@.service (cgroup v2)"
    for name in ("memory", "cpus", "pids"):
        # processes are counted by user namespace besides: a resource limit, which each container has of its own
        if name not in entries(facts["limits"]) and not (name == "pids" and facts.get("rootless")):
            found[f"limits.{name}"] = f"this {engine} has no control group for it: {give}"
    return found


def _specs(document: enter.Document) -> list[MountSpec]:
    return enter.specs(document, "trees") + enter.specs(document, "mounts")


def late(document: enter.Document, engine: str) -> list[MountSpec]:
    """What the keeper itself mounts in a container, as root: what engines cannot map, write to or show."""
    specs = [each for each in _specs(document) if each.target != SECRETS]
    own = [each for each in specs if each.mode == "rw" or each.map_owner or (each.is_file and engine == "docker")]
    found = [each for each in specs if any(_below(each, other) or each is other for other in own)]
    return sorted(found, key=lambda each: each.target) if os.geteuid() == 0 else []


def _below(each: MountSpec, other: MountSpec) -> bool:
    return each.target.startswith(f"{other.target}/")


def mounts(places: Places, document: enter.Document) -> list[Shown]:
    """The gate, the made-up files of /etc, and what the spec mounts."""
    found = [Shown(gate_of(places, document), gate.PLACE, ["ro", "nosuid", "nodev"], ours=True)]
    digest = str(engine_part(document)["digest"])
    for path, text in sorted(enter.texts(document, "files").items()):
        where = places.place(f"{digest}{path}", text.encode())
        found.append(Shown(where, path, ["ro", "nosuid", "nodev", "noexec"], ours=True))
    own = {each.target: each for each in late(document, places.name)}
    for each in sorted(_specs(document), key=lambda spec: spec.target):
        if each.target == SECRETS:
            # what is mounted there comes with each session; the image has no such folder
            found.append(Shown(places.empty(), SECRETS, ["ro", "nosuid", "nodev", "noexec"], ours=True))
            continue
        if each.target in own:
            if not any(_below(each, other) for other in own.values()):
                empty = places.place("empty-file", b"") if each.is_file else places.empty()
                found.append(Shown(empty, each.target, ["ro", "nosuid", "nodev", "noexec"], ours=True))
            continue
        flags = ["ro", "nosuid", "nodev", *(["noexec"] if each.noexec else [])]
        found.append(Shown(each.source, each.target, flags, ours=False))
    return found


def gate_of(places: Places, document: enter.Document) -> str:
    """The path of a document's gate."""
    return places.place(f"{engine_part(document)['digest']}/gate", gate.made(document), 0o555)


def rlimits(document: enter.Document) -> dict[str, int]:
    """None of them above what whoever starts the engine's containers may set."""
    found = {}
    for name, value in enter.numbers(document, "rlimits").items():
        hard = resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[1]
        found[name] = value if hard == resource.RLIM_INFINITY else min(value, hard)
    return found
