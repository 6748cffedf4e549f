"""Manifests, indexes and configurations of images (OCI 1.1, and Docker's second schema), read strictly.

Pure; runs in the fetcher and the verifier. What a manifest does not say in full is refused: no URLs to fetch layers
from elsewhere, no unknown kind of layer, no blob without a size.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from supervisor.errors import Refused
from supervisor.oci.document import Reader, parse
from supervisor.oci.reference import is_digest

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
EMPTY = "application/vnd.oci.empty.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
MANIFESTS = (OCI_MANIFEST, DOCKER_MANIFEST)
INDEXES = (OCI_INDEX, DOCKER_LIST)
COMPRESSION = {
    OCI_LAYER: "",
    f"{OCI_LAYER}+gzip": "gzip",
    f"{OCI_LAYER}+zstd": "zstd",
    "application/vnd.docker.image.rootfs.diff.tar": "",
    "application/vnd.docker.image.rootfs.diff.tar.gzip": "gzip",
    "application/vnd.docker.image.rootfs.diff.tar.zstd": "zstd",
}
SIMPLE = "application/vnd.dev.cosign.simplesigning.v1+json"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
MAX_MANIFEST = 4 << 20
MAX_DOCUMENT = 4 << 20
MAX_CONFIG = 4 << 20
MAX_LAYERS = 128
_MAX_CHILDREN = 256
_MAX_BLOB = 8 << 30


@dataclass(frozen=True)
class Descriptor:
    """What a document says of a blob."""

    media_type: str
    digest: str
    size: int
    platform: str = ""
    artifact_type: str = ""
    annotations: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """One image, or one artifact (a signature) that looks like an image."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    artifact_type: str
    subject: Descriptor | None
    annotations: dict[str, str]


@dataclass(frozen=True)
class Index:
    """Several manifests, an image's platforms or an image's signatures."""

    media_type: str
    manifests: tuple[Descriptor, ...]


@dataclass(frozen=True)
class Config:
    """The part of an image's configuration that a sandbox can honour; nothing of it is taken for granted."""

    platform: str
    diff_ids: tuple[str, ...]
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    env: tuple[str, ...]
    folder: str


def _descriptor(reader: Reader) -> Descriptor:
    digest, size = reader.text("digest"), reader.number("size")
    if not is_digest(digest):
        raise reader.fault("digest", "sha256: and 64 digits of 0-9a-f")
    if size > _MAX_BLOB:
        raise Refused(f"{reader.what}: size {size}, more than {_MAX_BLOB}")
    if reader.texts("urls"):
        raise Refused(f"{reader.what}: a blob that is to be fetched from elsewhere (urls)")
    platform = reader.maybe("platform")
    return Descriptor(
        reader.text("mediaType"),
        digest,
        size,
        _platform(platform) if platform else "",
        reader.text("artifactType", ""),
        reader.map("annotations"),
    )


def _platform(reader: Reader) -> str:
    machine, variant = reader.text("architecture"), reader.text("variant", "")
    if (machine, variant) == ("arm64", "v8"):
        variant = ""  # the only one there is, written by some and not by others
    return "/".join(part for part in (reader.text("os"), machine, variant) if part)


def read(data: bytes, what: str, media_type: str = "") -> Manifest | Index:
    """A manifest or an index; `media_type` is what the registry or a descriptor called it.

    Refused when the document calls itself something else, or could be read as either.
    """
    reader = Reader(parse(data, what, limit=MAX_MANIFEST), what)
    if reader.number("schemaVersion") != 2:
        raise Refused(f"{what}: schemaVersion {reader.number('schemaVersion')}; only 2 is read")
    if "manifests" in reader.table and ("layers" in reader.table or "config" in reader.table):
        raise Refused(f"{what}: both an image and an index")
    said = reader.text("mediaType", "")
    kind = said or media_type or (OCI_INDEX if "manifests" in reader.table else OCI_MANIFEST)
    if said and media_type and said != media_type:
        raise Refused(f"{what}: offered as {media_type}, but calls itself {said}")
    if kind in INDEXES:
        return Index(kind, tuple(_descriptor(each) for each in reader.each("manifests", most=_MAX_CHILDREN)))
    if kind not in MANIFESTS:
        raise Refused(f'{what}: "{kind:.80}" is no kind of manifest that is read here')
    subject = reader.maybe("subject")
    return Manifest(
        kind,
        _descriptor(reader.one("config")),
        tuple(_descriptor(each) for each in reader.each("layers", most=MAX_LAYERS)),
        reader.text("artifactType", ""),
        _descriptor(subject) if subject else None,
        reader.map("annotations"),
    )


def image(data: bytes, what: str, media_type: str = "") -> Manifest:
    """The manifest of an image that can be unpacked: Refused for indexes, artifacts and unknown layers."""
    found = read(data, what, media_type)
    if isinstance(found, Index):
        raise Refused(f"{what}: an index inside an index")
    if found.artifact_type or found.config.media_type not in (OCI_CONFIG, DOCKER_CONFIG):
        raise Refused(f"{what}: not an image but {found.artifact_type or found.config.media_type}")
    if not found.layers:
        raise Refused(f"{what}: an image without layers")
    for number, layer in enumerate(found.layers):
        if layer.media_type not in COMPRESSION:
            raise Refused(f'{what}: layer {number} is "{layer.media_type:.80}", which cannot be unpacked here')
    return found


def choose(index: Index, platform: str, what: str) -> Descriptor:
    """The one child for this platform; Refused for none, and for two, which could be told apart by nobody."""
    images = [each for each in index.manifests if not each.artifact_type and each.media_type in MANIFESTS]
    found = [each for each in images if each.platform == platform]
    if not found:
        known = ", ".join(sorted({each.platform or "no platform" for each in images})) or "none"
        raise Refused(f"{what}: no image for {platform}; there are: {known}")
    if len(found) > 1:
        raise Refused(f"{what}: {len(found)} images for {platform}; an index must have one for each platform")
    return found[0]


def config(data: bytes, what: str) -> Config:
    """The configuration of an image."""
    reader = Reader(parse(data, what, limit=MAX_CONFIG), what)
    rootfs = reader.one("rootfs")
    if rootfs.text("type") != "layers":
        raise rootfs.fault("type", '"layers"')
    diff_ids = rootfs.texts("diff_ids", most=MAX_LAYERS)
    if not all(is_digest(each) for each in diff_ids):
        raise rootfs.fault("diff_ids", "sha256 digests")
    run = reader.maybe("config") or Reader({}, what)
    return Config(
        _platform(reader),
        tuple(diff_ids),
        tuple(run.texts("Entrypoint")),
        tuple(run.texts("Cmd")),
        tuple(run.texts("Env")),
        run.text("WorkingDir", "") or "/",
    )
