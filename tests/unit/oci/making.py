"""Images, signatures and policies that tests make; nothing here is used to check anything."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

from supervisor.oci import keyfile, manifest, sign, statement
from supervisor.oci.document import Table
from supervisor.oci.keyfile import Private
from supervisor.oci.layout import Writer, canonical
from supervisor.oci.reference import digest_of

NAME = "registry.example.org/team/server"
PLATFORM = "linux/amd64"


def info(name: str, kind: bytes = tarfile.REGTYPE, **values: object) -> tarfile.TarInfo:
    """A member of a tar; `values` are fields of TarInfo."""
    made = tarfile.TarInfo(name)
    made.type = kind
    for key, value in values.items():
        setattr(made, key, value)
    return made


def tar(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of these members, sizes filled in."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for member, data in members:
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def files(contents: dict[str, bytes]) -> bytes:
    """A tar of regular files."""
    return tar(*((info(name), data) for name, data in contents.items()))


@dataclass
class Image:
    """An image as its documents: digests to bytes."""

    digest: str = ""
    data: bytes = b""
    documents: dict[str, bytes] = field(default_factory=dict)
    layers: list[bytes] = field(default_factory=list)

    def keep(self, data: bytes, media_type: str) -> Table:
        """One more document; its descriptor."""
        self.documents[digest_of(data)] = data
        return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}


def image(
    layers: Iterable[bytes] = (), *, platform: str = PLATFORM, run: Table | None = None, level: int = 9
) -> Image:
    """An image of gzipped layers, by default of one with one file."""
    made = Image()
    plain = list(layers) or [files({"hello": b"hello\n"})]
    system, machine = platform.split("/", 1)
    config: Table = {
        "os": system,
        "architecture": machine,
        "config": run or {},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(each) for each in plain]},
    }
    made.layers = [gzip.compress(each, level, mtime=0) for each in plain]
    descriptors = [
        {"mediaType": f"{manifest.OCI_LAYER}+gzip", "digest": digest_of(each), "size": len(each)}
        for each in made.layers
    ]
    document = {
        "schemaVersion": 2,
        "mediaType": manifest.OCI_MANIFEST,
        "config": made.keep(canonical(config), manifest.OCI_CONFIG),
        "layers": descriptors,
    }
    made.data = canonical(document)
    made.digest = str(made.keep(made.data, manifest.OCI_MANIFEST)["digest"])
    return made


def layout(path: Path, made: Image, tag: str = "1.0") -> Path:
    """The image as an OCI layout folder."""
    writer = Writer(path)
    for data in (*made.layers, *made.documents.values()):
        writer.blob(data, "")
    writer.list({"mediaType": manifest.OCI_MANIFEST, "digest": made.digest, "size": len(made.data)}, tag)
    return path


def key() -> Private:
    """A new key of cosign's kind."""
    return generate_private_key(SECP256R1())


def signed(path: Path, made: Image, with_key: Private, name: str = NAME, tag: str = "") -> None:
    """Sign an image in a layout, as cosign does."""
    payload = sign.simple_text(name, made.digest, tag)
    sign.write_simple(path, payload, sign.signature(with_key, payload), made.digest)


def attested(
    path: Path, made: Image, with_key: Private, kind: str = statement.SIGN, predicate: Table | None = None
) -> None:
    """A bundle beside an image in a layout."""
    bundle = sign.bundle(with_key, sign.attest(made.digest, kind, predicate or {}))
    sign.write_bundle(path, bundle, sign.described(made.data, manifest.OCI_MANIFEST), kind)


def trust(with_key: Private, *, pattern: str = NAME, bound: str = "", more: str = "") -> str:
    """A trust.toml with one key and one rule."""
    repository = f'repository = "{bound}"\n' if bound else ""
    return (
        f'trust = 1\n[keys.release]\npublic = """{keyfile.public(with_key)}"""\n{repository}\n'
        f'[[repository]]\npattern = "{pattern}"\nkeys = ["release"]\n{more}'
    )
