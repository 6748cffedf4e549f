"""The fetcher: a one-shot process that brings an image's documents, and later its layers, into a staging folder.

Runs as a uid of its own (root) or as the user, with one folder to write in, and either the network or one path to
read. What it says is not believed: whoever started it hashes every file again. It never decides anything.
"""

from __future__ import annotations

import codecs
import os
import resource
import stat
from collections.abc import Callable, Iterable

from supervisor import given
from supervisor.errors import ConfigError, Refused, SupervisorError
from supervisor.oci import confine, manifest, worker
from supervisor.oci.archive import DockerArchive, open_archive
from supervisor.oci.client import Client, Endpoint
from supervisor.oci.document import Reader, Table
from supervisor.oci.layout import Folder, Layout
from supervisor.oci.limits import Download
from supervisor.oci.manifest import Descriptor, Index
from supervisor.oci.reference import repository
from supervisor.oci.registry import Registry
from supervisor.oci.source import Found, Source, fallback_tag

codecs.lookup("idna")  # host names are encoded with it, when no file can be opened any more
_RESOLVER = ("/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf", "/etc/gai.conf", "/etc/host.conf")
_STAGING = confine.READ | confine.WRITE | confine.LIST | confine.MAKE | confine.REMOVE | confine.TRUNCATE


class Staging:
    """The folder that is written into; a file's name is its digest's hexadecimal part."""

    def __init__(self, folder: int, limits: Download) -> None:
        self._folder = folder
        self._limits = limits
        self._bytes = 0
        self.documents: list[str] = []

    def keep(self, found: Found) -> None:
        """A manifest."""
        if found.digest in self.documents:
            return
        self._count(len(found.data), found.digest)
        with os.fdopen(self._create(found.digest), "wb") as file:
            file.write(found.data)
        self.documents.append(found.digest)

    def document(self, source: Source, described: Descriptor) -> None:
        """A small blob: a configuration, or what is signed."""
        if described.digest in self.documents:
            return
        if described.size > manifest.MAX_DOCUMENT:
            raise Refused(f"{described.digest}: {described.size} bytes, larger than {manifest.MAX_DOCUMENT}")
        self._count(described.size, described.digest)
        self.blob(source, described.digest, described.size)
        self.documents.append(described.digest)

    def blob(self, source: Source, digest: str, size: int) -> None:
        """Any blob."""
        out = self._create(digest)
        try:
            source.blob(digest, size, out)
            os.fsync(out)
        finally:
            os.close(out)

    def _count(self, size: int, what: str) -> None:
        self._bytes += size
        if self._bytes > self._limits.documents:
            raise Refused(f"{what}: manifests and signatures of more than {self._limits.documents} bytes")

    def _create(self, digest: str) -> int:
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(digest.removeprefix("sha256:"), flags, 0o600, dir_fd=self._folder)


def serve(question: Table, confined: Callable[[], None]) -> dict[str, object]:
    """Phase one (no `blobs`): everything but the layers. Phase two: the layers, and where the tag points now."""
    asked = Reader(question, "the fetcher's question")
    limits = Download()
    kind, path = asked.text("kind"), asked.text("path", "")
    signatures = asked.text("signatures", "")
    staging = asked.number("staging")
    endpoints = [_endpoint(each) for each in asked.each("endpoints", most=64)]
    client = Client({each.host: each for each in endpoints}, limits) if kind == "registry" else None
    if path:
        _look(kind, path)
    if signatures:
        _look("oci", signatures)
    paths = [each for each in (path, signatures) if each]
    readable = [(each, confine.READ | (0 if os.path.isfile(each) else confine.LIST)) for each in paths]
    readable += [(each, confine.READ) for each in _RESOLVER] if client else []
    confine.drop([(f"/proc/self/fd/{staging}", _STAGING), *readable], own=staging, read_all=bool(paths))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits.bytes, limits.bytes))
    confined()
    source: Source | Layout | DockerArchive
    if client:
        source = Registry(repository(asked.text("repository")), endpoints, client, limits)
    else:
        source = _local(kind, path)
    keeper = Staging(staging, limits)
    if "blobs" in question:
        return _layers(asked, source, keeper)
    return _documents(asked, source, _local("oci", signatures) if signatures else source, keeper, limits)


def _endpoint(asked: Reader) -> Endpoint:
    return Endpoint(
        host=asked.text("host"),
        plain=bool(asked.number("plain")),
        private=bool(asked.number("private")),
        ca=asked.text("ca"),
        username=asked.text("username"),
        password=asked.text("password"),
        login=tuple(asked.texts("login")),
    )


def _look(kind: str, path: str) -> None:
    """ConfigError unless it is the file or the folder that was named: no rule can be made for anything else."""
    try:
        if kind == "archive":
            given.regular(path)
        elif not stat.S_ISDIR(os.stat(path).st_mode):
            raise ConfigError(f"{path}: not a folder; an archive is named oci-archive:{path}")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None


def _local(kind: str, path: str) -> Layout | DockerArchive:
    try:
        return open_archive(path) if kind == "archive" else Layout(Folder(path))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None


def _top(asked: Reader, source: Source | Layout | DockerArchive) -> Found:
    """The manifest that was meant, asked for twice when a tag was given."""
    name, tag, digest = asked.text("repository"), asked.text("tag"), asked.text("digest")
    found = source.tagged(tag) if tag else None
    if tag and found is None and not digest:
        raise SupervisorError(f"{name}:{tag} is not there")
    if found and digest and found.digest != digest:
        raise Refused(f"{name}:{tag} is {found.digest} now, not {digest}")
    if not tag and not digest and isinstance(source, Layout | DockerArchive):
        found = source.only()
    wanted = digest or (found.digest if found else "")
    again = source.manifest(wanted)
    if again is None:
        raise SupervisorError(f"{name}@{wanted} is not there")
    if found and found.media_type and again.media_type and found.media_type != again.media_type:
        raise Refused(f"{name}: first called {found.media_type}, then {again.media_type}")
    return found or again


def _documents(
    asked: Reader, source: Source | Layout | DockerArchive, signed: Source, staging: Staging, limits: Download
) -> dict[str, object]:
    worker.report("reading the manifest")
    found = _top(asked, source)
    name = f"{asked.text('repository')}@{found.digest}"
    staging.keep(found)
    targets = [found.digest]
    top = manifest.read(found.data, name, found.media_type)
    if isinstance(top, Index):
        child = manifest.choose(top, asked.text("platform"), name)
        inner = source.manifest(child.digest)
        if inner is None:
            raise Refused(f"{name}: the manifest {child.digest} is not there")
        staging.keep(inner)
        targets.append(child.digest)
        top = manifest.image(inner.data, f"{name}: {child.digest}", child.media_type)
    staging.document(source, top.config)
    worker.report("reading signatures")
    candidates = [each for target in targets for each in _signatures(signed, target, staging, limits)]
    return {
        "digest": found.digest,
        "media_type": found.media_type,
        "documents": staging.documents,
        "candidates": candidates,
    }


def _signatures(source: Source, target: str, staging: Staging, limits: Download) -> Iterable[dict[str, object]]:
    """What may be a signature of `target`; whether it is one is the verifier's to say."""
    found = source.tagged(fallback_tag(target, ".sig"))
    holders = [(found, 0)] if found else []
    for described in source.referrers(target)[: limits.signatures]:
        if described.artifact_type in ("", manifest.BUNDLE):
            holder = source.manifest(described.digest)
            holders += [(holder, 1)] if holder else []
    for holder, referrer in holders:
        read = manifest.read(holder.data, f"signature {holder.digest}", holder.media_type)
        if isinstance(read, Index) or (referrer and read.artifact_type not in ("", manifest.BUNDLE)):
            continue
        staging.keep(holder)
        for layer in read.layers[: limits.signatures]:
            if layer.media_type in (manifest.SIMPLE, manifest.BUNDLE):
                staging.document(source, layer)
        yield {"target": target, "manifest": holder.digest, "referrer": referrer}


def _layers(asked: Reader, source: Source, staging: Staging) -> dict[str, object]:
    blobs = asked.each("blobs", most=manifest.MAX_LAYERS)
    for number, each in enumerate(blobs):
        size = each.number("size")
        worker.report(f"layer {number + 1} of {len(blobs)}: {size / 1e6:.1f} MB")
        staging.blob(source, each.text("digest"), size)
    tag = asked.text("tag")
    found = source.tagged(tag) if tag else None
    return {"digest": found.digest if found else ""}
