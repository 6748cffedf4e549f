"""Key files as cosign writes and reads them: PKCS#8, sealed with a key that scrypt makes of a password.

Runs as whoever signs. The cipher is NaCl's secretbox (XSalsa20-Poly1305), which is libsodium's to do.
"""

from __future__ import annotations

import base64
import json
import os
import textwrap

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from supervisor.errors import ConfigError, Refused
from supervisor.oci import keys
from supervisor.oci.document import Reader, parse

Private = EllipticCurvePrivateKey | Ed25519PrivateKey | RSAPrivateKey
_LABEL = "ENCRYPTED SIGSTORE PRIVATE KEY"
_LABELS = (_LABEL, "ENCRYPTED COSIGN PRIVATE KEY")
_COST, _BLOCK, _PARALLEL = 1 << 16, 8, 1
_MAX_COST = 1 << 20
_MAX_FILE = 1 << 16


def generate() -> EllipticCurvePrivateKey:
    """A new key of cosign's kind, ECDSA P-256."""
    return generate_private_key(SECP256R1())


def write(key: Private, password: bytes) -> str:
    """The key file's text."""
    plain = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    salt, nonce = os.urandom(32), os.urandom(SecretBox.NONCE_SIZE)
    secret = Scrypt(salt, 32, _COST, _BLOCK, _PARALLEL).derive(password)
    sealed = SecretBox(secret).encrypt(plain, nonce).ciphertext
    document = {
        "kdf": {"name": "scrypt", "params": {"N": _COST, "r": _BLOCK, "p": _PARALLEL}, "salt": _text(salt)},
        "cipher": {"name": "nacl/secretbox", "nonce": _text(nonce)},
        "ciphertext": _text(sealed),
    }
    body = "\n".join(textwrap.wrap(_text(json.dumps(document, separators=(",", ":")).encode()), 64))
    return f"-----BEGIN {_LABEL}-----\n{body}\n-----END {_LABEL}-----\n"


def public(key: Private) -> str:
    """The public half in PEM, as trust.toml and cosign take it."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def read(text: str, password: bytes, what: str) -> Private:
    """The key in a key file; ConfigError for a wrong password or what is no such file."""
    lines = text.strip().splitlines()
    label = lines[0].removeprefix("-----BEGIN ").removesuffix("-----") if lines else ""
    if label not in _LABELS or lines[-1] != f"-----END {label}-----" or len(text) > _MAX_FILE:
        raise ConfigError(f"{what}: not a cosign key file (-----BEGIN {_LABEL}-----)")
    try:
        reader = Reader(parse(keys.decode("".join(lines[1:-1]), "the key"), what), what)
        plain = _open(reader, password, what)
        key = load_der_private_key(plain, None)
        if not isinstance(key, Private):
            raise ValueError("a kind of key that nobody here can sign with")
        keys.usable(key.public_key())
    except (ValueError, Refused) as error:
        raise ConfigError(f"{what}: {error}") from None
    return key


def _open(reader: Reader, password: bytes, what: str) -> bytes:
    kdf, cipher = reader.one("kdf"), reader.one("cipher")
    params = kdf.one("params")
    cost, block, parallel = params.number("N"), params.number("r"), params.number("p")
    if kdf.text("name") != "scrypt" or cipher.text("name") != "nacl/secretbox":
        raise ConfigError(f"{what}: sealed with {kdf.text('name')!r:.40} and {cipher.text('name')!r:.40}")
    if cost > _MAX_COST or cost & (cost - 1) or cost < 2 or block != _BLOCK or parallel != _PARALLEL:
        raise ConfigError(f"{what}: scrypt with N={cost}, r={block}, p={parallel}, which no signer writes")
    salt = keys.decode(kdf.text("salt"), "the salt")
    nonce = keys.decode(cipher.text("nonce"), "the nonce")
    sealed = keys.decode(reader.text("ciphertext"), "the ciphertext")
    if len(nonce) != SecretBox.NONCE_SIZE:
        raise ConfigError(f"{what}: a nonce of {len(nonce)} bytes")
    try:
        return SecretBox(Scrypt(salt, 32, cost, block, parallel).derive(password)).decrypt(sealed, nonce)
    except CryptoError:
        raise ConfigError(f"{what}: wrong password, or a damaged key file") from None


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
