"""Which keys count, and that each verifies what it signed and nothing else."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, padding, rsa, x25519
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from supervisor.oci import keys
from supervisor.oci.keyfile import Private

P256, P384 = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())
ED, RSA = ed25519.Ed25519PrivateKey.generate(), rsa.generate_private_key(65537, 2048)
DATA = b"what is signed"


@pytest.mark.parametrize(
    ("key", "signature"),
    [
        (P256, P256.sign(DATA, ec.ECDSA(SHA256()))),
        (P384, P384.sign(DATA, ec.ECDSA(SHA384()))),
        (P384, P384.sign(DATA, ec.ECDSA(SHA256()))),
        (ED, ED.sign(DATA)),
        (RSA, RSA.sign(DATA, padding.PKCS1v15(), SHA256())),
    ],
    ids=["p256", "p384-sha384", "p384-sha256", "ed25519", "rsa"],
)
def test_a_key_verifies_its_own_signature_and_no_other(key: Private, signature: bytes) -> None:
    usable = keys.usable(key.public_key())
    assert usable.verifies(signature, DATA)
    assert not usable.verifies(signature, DATA + b"x")
    assert not usable.verifies(signature[:-1], DATA)
    assert not usable.verifies(b"", DATA)
    for other in (P256, P384, ED, RSA):
        if other is not key:
            assert not keys.usable(other.public_key()).verifies(signature, DATA)


@pytest.mark.parametrize(
    "signature",
    [P256.sign(DATA, ec.ECDSA(SHA512())), RSA.sign(DATA, padding.PKCS1v15(), SHA512())],
    ids=["p256-sha512", "rsa-sha512"],
)
def test_another_hash_does_not_count(signature: bytes) -> None:
    for key in (P256, RSA):
        assert not keys.usable(key.public_key()).verifies(signature, DATA)


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP521R1()),
        ec.generate_private_key(ec.SECP256K1()),
        rsa.generate_private_key(65537, 1024),
        dsa.generate_private_key(2048),
        ed448.Ed448PrivateKey.generate(),
        x25519.X25519PrivateKey.generate(),
    ],
    ids=["p521", "secp256k1", "rsa1024", "dsa", "ed448", "x25519"],
)
def test_another_kind_of_key_is_refused(key: ec.EllipticCurvePrivateKey) -> None:
    pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    with pytest.raises(ValueError, match="only ECDSA P-256 and P-384, Ed25519, and RSA"):
        keys.read(pem)


@pytest.mark.parametrize("text", ["", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "x" * 20_000])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="key"):
        keys.read(text)


def test_a_private_key_is_not_taken_for_a_public_one() -> None:
    with pytest.raises(ValueError, match="not a public key"):
        keys.read("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")


@pytest.mark.parametrize("text", ["YQ=", "YQ==\n", "YR==", " YQ==", "Y-==", "YQ==YQ=="])
def test_base64_has_one_way_to_be_written(text: str) -> None:
    with pytest.raises(ValueError, match="base64"):
        keys.decode(text, "it")
    assert keys.decode("YQ==", "it") == b"a"
