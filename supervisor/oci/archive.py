"""An image in a tar: an OCI archive is a layout in a tar, a docker archive is what `docker save` writes.

Runs in the fetcher. The members are found by one strict reading of the tar; a docker archive has no manifest, so
one is made, always the same for the same layers and configuration: that digest is what a signature for it is made
over.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
from dataclasses import dataclass

from supervisor import given
from supervisor.errors import Refused
from supervisor.oci import tar
from supervisor.oci.document import Reader, Value, parse
from supervisor.oci.layout import Layout, canonical
from supervisor.oci.manifest import MAX_CONFIG, OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Descriptor, config
from supervisor.oci.reference import digest_of
from supervisor.oci.source import Found

_MAX_MEMBERS = 10_000
_PART = 1 << 20
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}


class _Stream:
    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._at = 0

    def read(self, size: int, /) -> bytes:
        parts = []
        while size and (part := os.pread(self._fd, min(size, _PART), self._at)):
            parts.append(part)
            self._at += len(part)
            size -= len(part)
        return b"".join(parts)


class Members:
    """The files of a tar by name, as a layout's files."""

    def __init__(self, path: str) -> None:
        self.what = path
        self._fd = given.opened(path)
        start = os.pread(self._fd, 6, 0)
        for magic, name in _MAGIC.items():
            if start.startswith(magic):
                raise Refused(f"{path}: compressed with {name}; decompress the archive first")
        self._files: dict[str, tuple[int, int]] = {}
        self._links: dict[str, str] = {}
        for entry in tar.Reader(_Stream(self._fd), path, most_entries=_MAX_MEMBERS):
            self._add(entry)

    def _add(self, entry: tar.Entry) -> None:
        name = posixpath.normpath(entry.name.decode(errors="replace"))
        if name in self._files or name in self._links:
            raise Refused(f"{self.what}: {name!r:.100} is there twice")
        if entry.kind == tar.FILE:
            self._files[name] = (entry.offset, entry.size)
        elif entry.kind == tar.SYMBOLIC_LINK:
            # docker save writes a layer once and links to it
            target = posixpath.join(posixpath.dirname(name), entry.link.decode(errors="replace"))
            self._links[name] = posixpath.normpath(target)

    def place(self, name: str) -> tuple[int, int] | None:
        """(offset, size) of a member, one link followed inside the archive."""
        name = posixpath.normpath(name)
        return self._files.get(self._links.get(name, name))

    def small(self, name: str, limit: int) -> bytes | None:
        """All of a member."""
        found = self.place(name)
        if found is None:
            return None
        if found[1] > limit:
            raise Refused(f"{self.what}: {name}: larger than {limit} bytes")
        return os.pread(self._fd, found[1], found[0])

    def copy(self, name: str, out: int, limit: int) -> int | None:
        """Copy a member."""
        found = self.place(name)
        return None if found is None else self.copy_range(*found, out, limit)

    def copy_range(self, offset: int, size: int, out: int, limit: int) -> int:
        """Copy a range of the archive, at most `limit` bytes and one more; how many that were."""
        size = min(size, limit + 1)
        for at in range(0, size, _PART):
            os.write(out, os.pread(self._fd, min(_PART, size - at), offset + at))
        return size

    def digest(self, offset: int, size: int) -> str:
        """The digest of a range."""
        hasher = hashlib.sha256()
        for at in range(0, size, _PART):
            hasher.update(os.pread(self._fd, min(_PART, size - at), offset + at))
        return f"sha256:{hasher.hexdigest()}"


@dataclass(frozen=True)
class DockerArchive:
    """The one image of a docker archive as a source; it carries no signatures."""

    members: Members
    found: Found
    config: bytes
    places: dict[str, tuple[int, int]]

    def tagged(self, tag: str) -> Found | None:
        """Tags in such an archive are whatever its maker typed; they are not read."""
        return None

    def only(self) -> Found:
        """The image."""
        return self.found

    def manifest(self, digest: str) -> Found | None:
        """The manifest that was made here."""
        return self.found if digest == self.found.digest else None

    def referrers(self, digest: str) -> tuple[Descriptor, ...]:
        """None; `--signatures` names a layout that has them."""
        return ()

    def blob(self, digest: str, size: int, out: int) -> None:
        """The configuration or a layer."""
        if digest == digest_of(self.config):
            os.write(out, self.config)
        elif digest not in self.places:
            raise Refused(f"{self.members.what}: blob {digest} is not there")
        else:
            self.members.copy_range(*self.places[digest], out, size)


def open_archive(path: str) -> Layout | DockerArchive:
    """Either kind; newer docker writes both into one file, and then the layout counts."""
    members = Members(path)
    if members.place("oci-layout") is not None:
        return Layout(members)
    listed = members.small("manifest.json", MAX_CONFIG)
    if listed is None:
        raise Refused(f"{path}: neither an OCI archive (oci-layout) nor a docker archive (manifest.json)")
    what = f"{path}: manifest.json"
    # the file is a list, the strict reader reads objects
    images = Reader(parse(b'{"images":' + listed + b"}", what), what).each("images", most=64)
    if len(images) != 1:
        raise Refused(f"{what}: {len(images)} images; save one alone")
    return _docker(members, images[0])


def _docker(members: Members, image: Reader) -> DockerArchive:
    data = members.small(image.text("Config"), MAX_CONFIG)
    if data is None:
        raise Refused(f"{members.what}: the configuration {image.text('Config')!r:.100} is missing")
    diff_ids = config(data, f"{members.what}: configuration").diff_ids
    layers: list[Value] = []
    places = {}
    for name in image.texts("Layers"):
        place = members.place(name)
        if place is None:
            raise Refused(f"{members.what}: the layer {name!r:.100} is missing")
        digest = members.digest(*place)
        places[digest] = place
        layers.append({"mediaType": OCI_LAYER, "digest": digest, "size": place[1]})
    if [each["digest"] for each in layers if isinstance(each, dict)] != list(diff_ids):
        raise Refused(f"{members.what}: its layers are not those that its configuration names")
    described = {"mediaType": OCI_CONFIG, "digest": digest_of(data), "size": len(data)}
    made = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described, "layers": layers}
    return DockerArchive(members, Found(canonical(made), OCI_MANIFEST), data, places)
