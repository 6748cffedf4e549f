"""Key files: sealed and opened with a password, and read by programs that are not ours."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from supervisor.errors import ConfigError
from supervisor.oci import keyfile, sign


def unwrapped(text: str) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = json.loads(base64.b64decode("".join(text.splitlines()[1:-1])))
    return found


def wrapped(document: object) -> str:
    body = base64.b64encode(json.dumps(document).encode()).decode()
    return f"-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n{body}\n-----END ENCRYPTED SIGSTORE PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    "key",
    [
        keyfile.generate(),
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["p256", "p384", "ed25519", "rsa"],
)
def test_a_key_file_is_opened_with_its_password_alone(key: keyfile.Private) -> None:
    text = keyfile.write(key, b"secret")
    assert keyfile.public(keyfile.read(text, b"secret", "k")) == keyfile.public(key)
    with pytest.raises(ConfigError, match="k: wrong password"):
        keyfile.read(text, b"Secret", "k")


def test_a_key_file_has_the_fields_that_cosign_writes() -> None:
    found = unwrapped(keyfile.write(keyfile.generate(), b""))
    assert list(found) == ["kdf", "cipher", "ciphertext"]
    assert found["kdf"]["params"] == {"N": 65536, "r": 8, "p": 1}
    assert found["cipher"]["name"] == "nacl/secretbox"


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        (("kdf", "name"), "argon2", "sealed with"),
        (("cipher", "name"), "aes", "sealed with"),
        (("kdf", "params"), {"N": 1 << 30, "r": 8, "p": 1}, "which no signer writes"),
        (("kdf", "params"), {"N": 65535, "r": 8, "p": 1}, "which no signer writes"),
        (("kdf", "params"), {"N": 65536, "r": 800, "p": 1}, "which no signer writes"),
        (("cipher", "nonce"), "YQ==", "a nonce of 1 bytes"),
        (("kdf", "salt"), "!", "not base64"),
    ],
)
def test_a_file_that_asks_for_something_else_is_refused(where: tuple[str, str], value: object, said: str) -> None:
    document = unwrapped(keyfile.write(keyfile.generate(), b""))
    document[where[0]][where[1]] = value
    with pytest.raises(ConfigError, match=said):
        keyfile.read(wrapped(document), b"", "k")


@pytest.mark.parametrize("text", ["", "x", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_what_is_no_key_file_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="not a cosign key file"):
        keyfile.read(text, b"", "k")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="asks openssl")
def test_openssl_verifies_what_a_key_from_a_file_signed(tmp_path: Path) -> None:
    key = keyfile.read(keyfile.write(keyfile.generate(), b"x"), b"x", "k")
    payload = sign.simple_text("registry.example.org/a", "sha256:" + "0" * 64)
    (tmp_path / "pub").write_text(keyfile.public(key))
    (tmp_path / "payload").write_bytes(payload)
    (tmp_path / "signature").write_bytes(sign.signature(key, payload))
    argv = ["openssl", "dgst", "-sha256", "-verify", "pub", "-signature", "signature", "payload"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "Verified OK"
