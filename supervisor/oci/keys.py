"""Public keys of signers: which kinds count, what their signatures are made over, how they are told apart.

Pure; runs in the verifier and where images are signed. Two keys are the same if their SubjectPublicKeyInfo is,
whatever they are called.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from typing import TypeAlias

import cryptography.hazmat.backends.openssl.backend  # noqa: F401 - or it is imported when no file can be read
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256, SHA384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

Usable: TypeAlias = EllipticCurvePublicKey | Ed25519PublicKey | RSAPublicKey
_CURVES = {"secp256r1": (SHA256,), "secp384r1": (SHA384, SHA256)}
_MAX_PEM = 1 << 14


@dataclass(frozen=True)
class Key:
    """A key that may sign; `kind` is for people."""

    public: Usable
    kind: str
    fingerprint: str

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Whether this key made the signature over these bytes."""
        try:
            if isinstance(self.public, Ed25519PublicKey):
                self.public.verify(signature, data)
                return True
            if isinstance(self.public, RSAPublicKey):
                self.public.verify(signature, data, PKCS1v15(), SHA256())
                return True
        except InvalidSignature:
            return False
        # cosign signs with SHA-256 whatever the curve, newer tools with the curve's own
        return any(_verifies(self.public, signature, data, each()) for each in _CURVES[self.public.curve.name])


def _verifies(key: EllipticCurvePublicKey, signature: bytes, data: bytes, algorithm: SHA256 | SHA384) -> bool:
    try:
        key.verify(signature, data, ECDSA(algorithm))
    except InvalidSignature:
        return False
    return True


def read(pem: str) -> Key:
    """A key in PEM; ValueError says why it cannot count."""
    if len(pem) > _MAX_PEM or not pem.strip().startswith("-----BEGIN PUBLIC KEY-----"):
        raise ValueError("not a public key in PEM (-----BEGIN PUBLIC KEY-----)")
    try:
        return usable(load_pem_public_key(pem.encode()))
    except UnsupportedAlgorithm:
        raise ValueError("a kind of key that is not known here") from None


def usable(key: object) -> Key:
    """The key, if it is ECDSA P-256 or P-384, Ed25519, or RSA of 2048 to 8192 bits."""
    if isinstance(key, EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return Key(key, f"ECDSA {key.curve.name}", fingerprint(key))
    if isinstance(key, Ed25519PublicKey):
        return Key(key, "Ed25519", fingerprint(key))
    if isinstance(key, RSAPublicKey) and 2048 <= key.key_size <= 8192:
        return Key(key, f"RSA {key.key_size}", fingerprint(key))
    raise ValueError("only ECDSA P-256 and P-384, Ed25519, and RSA of 2048 to 8192 bits count")


def fingerprint(key: Usable) -> str:
    """SHA-256 of the SubjectPublicKeyInfo, in hexadecimal."""
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def decode(text: str, what: str) -> bytes:
    """Base64 in the one way that some bytes are written; ValueError otherwise."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"{what} is not base64") from None
    if base64.b64encode(data).decode() != text:
        raise ValueError(f"{what} is base64, but not written in the usual way")
    return data
