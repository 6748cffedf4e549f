"""An OCI image layout as a source: a folder, or the same inside an archive; and the writer of our own layouts.

The reader runs in the fetcher, on what a stranger may have made: names are fixed or digests, no link is followed,
and nothing is believed without its digest. The writer runs as whoever builds or signs.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Protocol

from supervisor.errors import Refused, SupervisorError
from supervisor.oci.document import Reader, Table, parse
from supervisor.oci.manifest import INDEXES, MANIFESTS, MAX_MANIFEST, OCI_INDEX, Descriptor, Index, read
from supervisor.oci.reference import digest_of, is_digest
from supervisor.oci.source import Found, checked, fallback_tag

REF_NAME = "org.opencontainers.image.ref.name"
_MAX_SUBJECTS = 64
_PART = 1 << 20


class Files(Protocol):
    """Where a layout's files are; a name is `index.json`, `oci-layout` or `blobs/sha256/<hex>`."""

    what: str

    def small(self, name: str, limit: int) -> bytes | None:
        """All of a file; None when it is not there."""

    def copy(self, name: str, out: int, limit: int) -> int | None:
        """Copy a file into a descriptor; its size, or None when it is not there."""


class Folder:
    """A layout on disk."""

    def __init__(self, path: str) -> None:
        self.what = path
        self._top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def small(self, name: str, limit: int) -> bytes | None:
        """All of a file, at most `limit` bytes."""
        fd = self._open(name)
        if fd is None:
            return None
        with os.fdopen(fd, "rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise Refused(f"{self.what}/{name}: larger than {limit} bytes")
        return data

    def copy(self, name: str, out: int, limit: int) -> int | None:
        """Copy a file, at most `limit` bytes and one more."""
        fd = self._open(name)
        if fd is None:
            return None
        size = 0
        with os.fdopen(fd, "rb", buffering=0) as file:
            while size <= limit and (part := file.read(min(_PART, limit + 1 - size))):
                size += os.write(out, part)
        return size

    def _open(self, name: str) -> int | None:
        """Folder by folder, because a link anywhere on the way would lead out."""
        here = os.dup(self._top)
        try:
            *folders, last = name.split("/")
            for each in folders:
                below = os.open(each, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
                os.close(here)
                here = below
            fd = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=here)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SupervisorError(f"{self.what}/{name}: {error.strerror}") from None
        finally:
            os.close(here)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise Refused(f"{self.what}/{name}: not a regular file")
        return fd


class Layout:
    """The source over such files."""

    def __init__(self, files: Files) -> None:
        self._files = files
        what = f"{files.what}: oci-layout"
        mark = files.small("oci-layout", 4096)
        if mark is None:
            raise Refused(f"{files.what}: no OCI layout (there is no oci-layout file)")
        if (version := Reader(parse(mark, what), what).text("imageLayoutVersion")) != "1.0.0":
            raise Refused(f"{what}: version {version:.20}; only 1.0.0 is read")
        index = files.small("index.json", MAX_MANIFEST)
        found = read(index or b"", f"{files.what}: index.json", OCI_INDEX)
        if not isinstance(found, Index):
            raise Refused(f"{files.what}: index.json is no index")
        self._listed = found.manifests

    def tagged(self, tag: str) -> Found | None:
        """The manifest that index.json gives this name; Refused when it gives it to two."""
        found = {each.digest: each for each in self._listed if each.annotations.get(REF_NAME) == tag}
        if len(found) > 1:
            raise Refused(f'{self._files.what}: index.json has {len(found)} manifests named "{tag}"')
        return next((self._listed_manifest(each) for each in found.values()), None)

    def only(self) -> Found:
        """The image of a layout that has one; Refused when it has more, and nobody said which."""
        images = [each for each in self._listed if each.media_type in (*INDEXES, *MANIFESTS)]
        images = [each for each in images if not each.artifact_type and not _is_attachment(each)]
        if len({each.digest for each in images}) != 1:
            names = ", ".join(sorted(each.annotations.get(REF_NAME, each.digest) for each in images)) or "none"
            raise Refused(f"{self._files.what}: name one of its images, as in oci:FOLDER:NAME or @DIGEST: {names}")
        found = self._listed_manifest(images[0])
        if found is None:
            raise Refused(f"{self._files.what}: the manifest {images[0].digest} is missing")
        return found

    def manifest(self, digest: str) -> Found | None:
        """The manifest with this digest."""
        data = self._files.small(_blob(digest), MAX_MANIFEST)
        listed = next((each.media_type for each in self._listed if each.digest == digest), "")
        return checked(Found(data, listed) if data is not None else None, digest, self._files.what)

    def blob(self, digest: str, size: int, out: int) -> None:
        """Copy a blob, hashing it."""
        what = f"{self._files.what}: blob {digest}"
        copied = self._files.copy(_blob(digest), out, size)
        if copied is None:
            raise Refused(f"{what} is not there")
        if copied != size:
            raise Refused(f"{what}: {'more than ' if copied > size else ''}{min(copied, size)} bytes, not {size}")
        os.lseek(out, 0, os.SEEK_SET)
        with os.fdopen(os.dup(out), "rb") as file:
            found = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        if found != digest:
            raise Refused(f"{what}: what is there has the digest {found}")

    def referrers(self, digest: str) -> tuple[Descriptor, ...]:
        """The fallback tag's index, and what index.json itself lists with this subject."""
        tagged = self.tagged(fallback_tag(digest))
        index = read(tagged.data, f"{self._files.what}: referrers", tagged.media_type) if tagged else None
        found = list(index.manifests) if isinstance(index, Index) else []
        artifacts = [each for each in self._listed if each.artifact_type]
        if len(artifacts) > _MAX_SUBJECTS:
            raise Refused(f"{self._files.what}: index.json lists more than {_MAX_SUBJECTS} artifacts")
        for each in artifacts:
            data = self._listed_manifest(each)
            manifest = read(data.data, f"{self._files.what}: {each.digest}", each.media_type) if data else None
            if (
                manifest
                and not isinstance(manifest, Index)
                and manifest.subject
                and manifest.subject.digest == digest
            ):
                found.append(each)
        return tuple({each.digest: each for each in found}.values())

    def _listed_manifest(self, listed: Descriptor) -> Found | None:
        found = self.manifest(listed.digest)
        return Found(found.data, listed.media_type) if found else None


def _is_attachment(listed: Descriptor) -> bool:
    name = listed.annotations.get(REF_NAME, "")
    return name.startswith("sha256-") and is_digest("sha256:" + name[7:71])


def _blob(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def canonical(value: object) -> bytes:
    """JSON in the one way that we write it: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


class Writer:
    """A layout of our own; index.json is written last, and whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._blobs = path / "blobs" / "sha256"
        self._blobs.mkdir(parents=True, exist_ok=True)
        if not (path / "oci-layout").exists():
            (path / "oci-layout").write_bytes(canonical({"imageLayoutVersion": "1.0.0"}))

    def blob(self, data: bytes, media_type: str) -> Table:
        """Write a blob; its descriptor."""
        digest = digest_of(data)
        target = self._blobs / digest.removeprefix("sha256:")
        if not target.exists():
            temporary = target.with_suffix(".part")
            temporary.write_bytes(data)
            temporary.rename(target)
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def adopt(self, file: Path, media_type: str) -> Table:
        """Move a file of this file system in as a blob; its descriptor."""
        with file.open("rb") as stream:
            digest = f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"
        size = file.stat().st_size
        file.rename(self._blobs / digest.removeprefix("sha256:"))
        return {"mediaType": media_type, "digest": digest, "size": size}

    def list(self, descriptor: Table, name: str) -> None:
        """Put a manifest into index.json under a name, in place of what had that name."""
        path = self._path / "index.json"
        old = parse(path.read_bytes(), str(path))["manifests"] if path.exists() else []
        tables = [each for each in old if isinstance(each, dict)] if isinstance(old, list) else []
        kept = [each for each in tables if not _named(each, name)]
        entry: Table = {**descriptor, "annotations": {REF_NAME: name}}
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [*kept, entry]}
        temporary = path.with_suffix(".part")
        temporary.write_bytes(canonical(index))
        temporary.rename(path)


def _named(entry: Table, name: str) -> bool:
    annotations = entry.get("annotations")
    return isinstance(annotations, dict) and annotations.get(REF_NAME) == name
