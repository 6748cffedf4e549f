"""Where an image and its signatures come from: a registry, a layout folder, an archive. One small interface.

Runs in the fetcher. Whatever a source says is a stranger's word: whoever asks by digest gets what has that digest,
or Refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from supervisor.errors import Refused
from supervisor.oci.manifest import Descriptor
from supervisor.oci.reference import digest_of


@dataclass(frozen=True)
class Found:
    """A manifest's bytes, and what the source called them."""

    data: bytes
    media_type: str

    @property
    def digest(self) -> str:
        """Of the bytes, not what anybody said."""
        return digest_of(self.data)


class Source(Protocol):
    """Every answer None means: it is not there."""

    def tagged(self, tag: str) -> Found | None:
        """The manifest that a tag points to now."""

    def manifest(self, digest: str) -> Found | None:
        """The manifest with this digest."""

    def blob(self, digest: str, size: int, out: int) -> None:
        """Write a blob to the file `out`; Refused when it is missing, or is not this one."""

    def referrers(self, digest: str) -> tuple[Descriptor, ...]:
        """The manifests that say they belong to this one."""


def checked(found: Found | None, digest: str, what: str) -> Found | None:
    """`found`, if it has the digest that was asked for."""
    if found is not None and found.digest != digest:
        raise Refused(f"{what}: asked for {digest}, got {found.digest}; it is not what it was, or somebody lies")
    return found


def fallback_tag(digest: str, suffix: str = "") -> str:
    """`sha256-<hex>`: where referrers are kept without the API, and with `.sig` cosign's signatures."""
    return digest.replace(":", "-") + suffix
