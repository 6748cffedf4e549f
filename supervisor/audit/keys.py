"""The signing key's files, as OpenSSL writes and reads them, and the names that the signer's files have.

Pure; standard library only. An Ed25519 key in PKCS #8 or SubjectPublicKeyInfo is a fixed head and 32 bytes
(RFC 8410).
"""

from __future__ import annotations

import base64
import binascii

from supervisor.errors import ConfigError

PRIVATE, PUBLIC = "signing.key", "signing.pub"
LAST = "last-"
_PRIVATE_HEAD = bytes.fromhex("302e020100300506032b657004220420")
_PUBLIC_HEAD = bytes.fromhex("302a300506032b6570032100")


def last_name(log: str) -> str:
    """The file of the last checkpoint of a log. ConfigError: no log has such a name."""
    if len(log) != 32 or set(log) - set("0123456789abcdef"):
        raise ConfigError(f"{log[:64]!r} is not the identity of a log")
    return f"{LAST}{log}"


def _pem(label: str, data: bytes) -> bytes:
    return f"-----BEGIN {label}-----\n{base64.b64encode(data).decode()}\n-----END {label}-----\n".encode()


def _raw(text: bytes, label: str, head: bytes, origin: str) -> bytes:
    lines = text.decode("ascii", "replace").strip().splitlines()
    try:
        data = base64.b64decode("".join(lines[1:-1]), validate=True)
    except binascii.Error:
        data = b""
    if (
        not lines
        or lines[0] != f"-----BEGIN {label}-----"
        or len(data) != len(head) + 32
        or not data.startswith(head)
    ):
        raise ConfigError(f"{origin}: not an Ed25519 {label.lower()} in PEM")
    return data[len(head) :]


def private_pem(raw: bytes) -> bytes:
    """32 secret bytes as a file."""
    return _pem("PRIVATE KEY", _PRIVATE_HEAD + raw)


def public_pem(raw: bytes) -> bytes:
    """A public key as a file."""
    return _pem("PUBLIC KEY", _PUBLIC_HEAD + raw)


def private_raw(text: bytes, origin: str) -> bytes:
    """The 32 bytes in such a file, or ConfigError."""
    return _raw(text, "PRIVATE KEY", _PRIVATE_HEAD, origin)


def public_raw(text: bytes, origin: str) -> bytes:
    """The 32 bytes in such a file, or ConfigError."""
    return _raw(text, "PUBLIC KEY", _PUBLIC_HEAD, origin)
