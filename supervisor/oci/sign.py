"""Signing an image in an OCI layout with a key, so that cosign, and everything that reads its signatures, believes
it.

Runs as whoever signs. Two forms: the simple signing text under the tag `sha256-<hex>.sig`, which names the
repository, and the sigstore bundle as a referrer, which does not.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from supervisor.oci import manifest, statement
from supervisor.oci.document import Table, Value, parse
from supervisor.oci.keyfile import Private
from supervisor.oci.layout import Folder, Layout, Writer, canonical
from supervisor.oci.reference import digest_of
from supervisor.oci.source import fallback_tag

_EMPTY_CONFIG = b"{}"


def signature(key: Private, data: bytes) -> bytes:
    """The key's signature over some bytes, as cosign makes it."""
    if isinstance(key, EllipticCurvePrivateKey):
        return key.sign(data, ECDSA(SHA256()))
    if isinstance(key, Ed25519PrivateKey):
        return key.sign(data)
    return key.sign(data, PKCS1v15(), SHA256())


def simple_text(repository: str, digest: str, tag: str = "") -> bytes:
    """Cosign's text, byte for byte; a tag is written only where somebody wants the signature bound to it."""
    claim = {
        "critical": {
            "identity": {"docker-reference": f"{repository}:{tag}" if tag else repository},
            "image": {"docker-manifest-digest": digest},
            "type": statement.SIMPLE_TYPE,
        },
        "optional": None,
    }
    return json.dumps(claim, separators=(",", ":")).encode()


def attest(digest: str, predicate_type: str, predicate: Table) -> bytes:
    """An in-toto statement about one image."""
    subject = {"name": "", "digest": {"sha256": digest.removeprefix("sha256:")}}
    return canonical(
        {
            "_type": statement.STATEMENT,
            "subject": [subject],
            "predicateType": predicate_type,
            "predicate": predicate,
        }
    )


def bundle(key: Private, payload: bytes) -> bytes:
    """A sigstore bundle, version 0.3, around a statement."""
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    hint = base64.b64encode(hashlib.sha256(public).digest()).decode()
    signed = statement.Bundle(payload, b"", b"", b"").signed
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": statement.IN_TOTO,
        "signatures": [{"sig": base64.b64encode(signature(key, signed)).decode()}],
    }
    material = {"publicKey": {"hint": hint}}
    return canonical({"mediaType": statement.BUNDLE, "verificationMaterial": material, "dsseEnvelope": envelope})


def write_simple(path: Path, payload: bytes, made: bytes, digest: str) -> str:
    """Put a simple signature beside the image, after those that are there; the tag it is under."""
    writer, tag = Writer(path), fallback_tag(digest, ".sig")
    layer = writer.blob(payload, statement.SIMPLE)
    layer["annotations"] = {statement.SIGNATURE: base64.b64encode(made).decode()}
    layers: list[Value] = [*_layers(path, tag), layer]
    digests: list[Value] = [each["digest"] for each in layers if isinstance(each, dict)]
    config: Table = {
        "architecture": "",
        "config": {},
        "created": "0001-01-01T00:00:00Z",
        "history": [{"created": "0001-01-01T00:00:00Z"} for _ in layers],
        "os": "",
        "rootfs": {"type": "layers", "diff_ids": digests},
    }
    described = writer.blob(canonical(config), manifest.OCI_CONFIG)
    _list(writer, {"config": described, "layers": layers}, tag)
    return tag


def write_bundle(path: Path, made: bytes, target: Table, predicate_type: str) -> str:
    """Put a bundle beside the image, as its referrer and under the fallback tag; the tag it is under."""
    layer = Writer(path).blob(made, statement.BUNDLE)
    annotations: Table = {
        "dev.sigstore.bundle.content": "dsse-envelope",
        "dev.sigstore.bundle.predicateType": predicate_type,
    }
    return attach(path, layer, target, statement.BUNDLE, annotations)


def attach(path: Path, layer: Table, target: Table, artifact_type: str, annotations: Table) -> str:
    """Make a manifest of `artifact_type` that refers to `target`; the fallback tag that lists it."""
    writer, tag = Writer(path), fallback_tag(str(target["digest"]))
    holder: Table = {
        "schemaVersion": 2,
        "mediaType": manifest.OCI_MANIFEST,
        "artifactType": artifact_type,
        "config": writer.blob(_EMPTY_CONFIG, manifest.EMPTY),
        "layers": [layer],
        "subject": target,
        "annotations": annotations,
    }
    entry = writer.blob(canonical(holder), manifest.OCI_MANIFEST)
    entry["artifactType"] = artifact_type
    index: Table = {
        "schemaVersion": 2,
        "mediaType": manifest.OCI_INDEX,
        "manifests": [*_referrers(path, tag), entry],
    }
    writer.list(writer.blob(canonical(index), manifest.OCI_INDEX), tag)
    return tag


def _list(writer: Writer, parts: Table, tag: str) -> None:
    document: Table = {"schemaVersion": 2, "mediaType": manifest.OCI_MANIFEST, **parts}
    writer.list(writer.blob(canonical(document), manifest.OCI_MANIFEST), tag)


def _listed(path: Path, tag: str, key: str) -> list[Value]:
    """The list under `key` of the manifest that has this tag; empty where there is none."""
    if not (path / "index.json").exists():
        return []
    found = Layout(Folder(str(path))).tagged(tag)
    value = parse(found.data, tag)[key] if found else []
    return value if isinstance(value, list) else []


def _layers(path: Path, tag: str) -> list[Value]:
    return _listed(path, tag, "layers")


def _referrers(path: Path, tag: str) -> list[Value]:
    return _listed(path, tag, "manifests")


def described(data: bytes, media_type: str) -> Table:
    """The descriptor of a manifest."""
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}
