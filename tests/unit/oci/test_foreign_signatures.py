"""Signatures and keys that other programs made (see vectors/README.md) are understood, and judged as they would."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from supervisor.errors import ConfigError, Refused
from supervisor.oci import keyfile, keys, statement
from supervisor.oci.reference import digest_of

VECTORS = Path(__file__).parent / "vectors"
DIGEST = digest_of((VECTORS / "manifest.json").read_bytes())


def vector(name: str) -> tuple[bytes, bytes]:
    """(payload, signature) of a file."""
    found = json.loads((VECTORS / name).read_bytes())
    assert found["mimeType"] == statement.SIMPLE
    return base64.b64decode(found["payload"]), keys.decode(found["annotations"][statement.SIGNATURE], "it")


def public(name: str) -> keys.Key:
    return keys.read((VECTORS / name).read_text())


@pytest.mark.parametrize(
    ("name", "repository", "tag"),
    [
        ("valid.json", "192.168.64.2:5000/cosign-signed-single-sample", ""),
        ("valid-with-tag.json", "192.168.64.2:5000/skopeo-signed", "tag"),
    ],
)
def test_a_signature_by_cosign_or_by_skopeo_is_read_and_verified(name: str, repository: str, tag: str) -> None:
    payload, signature = vector(name)
    claim = statement.simple(payload, "it")
    assert (claim.repository, claim.tag, claim.digest) == (repository, tag, DIGEST)
    assert public("cosign.pub").verifies(signature, payload)
    assert not public("bundle.pub").verifies(signature, payload)
    assert not public("cosign.pub").verifies(signature, payload + b" ")


def test_a_signature_by_another_key_is_not_taken_for_one_by_this_key() -> None:
    payload, signature = vector("unknown-key.json")
    assert not public("cosign.pub").verifies(signature, payload)


def test_a_sigstore_bundle_of_the_conformance_suite_is_read_and_verified() -> None:
    bundle = statement.bundle((VECTORS / "bundle.json").read_bytes(), "it")
    assert public("bundle.pub").verifies(bundle.signature, bundle.signed)
    assert not public("cosign.pub").verifies(bundle.signature, bundle.signed)
    claim = statement.statement(bundle.payload, "it")
    assert claim.predicate_type == "https://example.com/test"
    assert claim.digests == ("sha256:a0cfc71271d6e278e57cd332ff957c3f7043fdda354c4cbb190a30d56efa01bf",)


def test_a_bundle_that_signs_plain_bytes_is_refused() -> None:
    data = json.loads((VECTORS / "bundle.json").read_bytes())
    del data["dsseEnvelope"]
    data["messageSignature"] = {"messageDigest": {"algorithm": "SHA2_256", "digest": ""}, "signature": ""}
    with pytest.raises(Refused, match="signs plain bytes"):
        statement.bundle(json.dumps(data).encode(), "it")


def test_a_key_file_by_cosign_is_opened_with_its_password_alone() -> None:
    text = (VECTORS / "empty-password.key").read_text()
    key = keyfile.read(text, b"", "it")
    assert keys.read(keyfile.public(key)).kind == "ECDSA secp256r1"
    with pytest.raises(ConfigError, match="wrong password"):
        keyfile.read(text, b"x", "it")
