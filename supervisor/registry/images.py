"""The image that an entry names: found in the store, judged by what was verified, and sealed.

Runs in the planner, which can only read, and as the user in `explain`. What says no: no record, no verdict, a
trust.toml that has changed since the verdict, a lock that does not list it, bytes that are not what was verified.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from supervisor.errors import ConfigError, Refused, SupervisorError
from supervisor.model import ImageRoot
from supervisor.oci import lock, rules
from supervisor.oci.reference import pinned
from supervisor.oci.seal import open_sealed
from supervisor.oci.store import Record, Store
from supervisor.profile import toml
from supervisor.profile.entry import ServerEntry
from supervisor.profile.image import Image

NOBODY = 65534


class Found(NamedTuple):
    """An image, and where its bytes are."""

    image: Image
    store: Store
    record: Record

    @property
    def place(self) -> str:
        """The folder of the store."""
        return str(self.store.path)

    @property
    def layers(self) -> tuple[tuple[str, str], ...]:
        """Each blob, with the digest of what it unpacks to."""
        return tuple((each.digest, each.diff_id) for each in self.record.layers)

    def sealed(self) -> int:
        """Its file system in a sealed memory file; Refused when the store's bytes have been changed."""
        return open_sealed(self.store, self.record)


def find(entry: ServerEntry) -> Found | None:
    """The image of an entry, None when it names none. What is wrong with it is told with its next step."""
    if not entry.image:
        return None
    reference = str(pinned(entry.image))
    place = Path(entry.store)
    if not place.is_dir():
        raise ConfigError(f"{reference} is not in {place}, which is not there: supervisor image add {reference}")
    # a planner that root started is nobody, and reads for root
    store = Store(place, frozenset({0, os.geteuid()} - {NOBODY}))
    record = store.find(reference)
    if record.reference != reference:
        raise Refused(f"{reference}: its record in {place} is of {record.reference}; remove it and add it again")
    _judged(record)
    _locked(entry, record)
    env = dict(each.partition("=")[::2] for each in record.run.env)
    root = ImageRoot(name=reference, digest=record.manifest, config=record.config)
    account = f"signed by {', '.join(record.signers)}"
    run = record.run
    return Found(Image(root, run.entrypoint, run.command, env, run.folder, account, record.rule), store, record)


def _judged(record: Record) -> None:
    """Refused unless what decided then would decide the same now."""
    again = f"supervisor image verify {record.reference}"
    if not (record.signers and record.policy and record.basis):
        raise Refused(f"{record.reference} was never verified by a trust.toml: {again}")
    beside = os.path.join(os.path.dirname(record.policy), "trusted_root.json")
    try:
        root = toml.checked(beside).decode() if os.path.exists(beside) else ""
        now = rules.basis(record.policy, toml.checked(record.policy), record.name, root)
    except SupervisorError as error:
        raise Refused(
            f"{record.reference} was verified by {record.rule}, which does not hold any more: {error}"
        ) from None
    if now != record.basis:
        raise Refused(
            f"{record.policy} has changed for {record.name} since {record.digest} was verified by "
            f"{record.rule}: {again}"
        )


def _locked(entry: ServerEntry, record: Record) -> None:
    """Refused when there is a lock that does not list it."""
    beside = os.path.join(os.path.dirname(entry.origin.rpartition(":")[0]), "images.lock")
    path = entry.lock or ("" if entry.personal or not os.path.exists(beside) else beside)
    if not path:
        return
    listed = [each for each in lock.read(Path(path)) if each.name == record.name]
    if record.digest in [each.digest for each in listed]:
        return
    if not listed:
        raise Refused(f"{path} does not list {record.name}: supervisor image add {record.reference} --lock {path}")
    others = ", ".join(each.digest for each in listed)
    raise Refused(
        f"{path} locks {record.name} to {others}, not to {record.digest}: name what is locked, or --update it"
    )
