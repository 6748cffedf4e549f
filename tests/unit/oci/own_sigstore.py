"""A sigstore of the tests' own: a certificate authority, a certificate log and a transparency log, a key each.

It makes bundles that the library verifies in full, and whose times, names and proofs a test can choose.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import rfc8785
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from supervisor.oci import statement

ISSUER_OID = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
SCT_OID = x509.ObjectIdentifier("1.3.6.1.4.1.11129.2.4.2")
NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
Key = ec.EllipticCurvePrivateKey


def new() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def spki(key: Key) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


@dataclass
class Sigstore:
    """The three keys, and the root certificate."""

    authority: Key = field(default_factory=new)
    certificates: Key = field(default_factory=new)
    log: Key = field(default_factory=new)

    def __post_init__(self) -> None:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self.authority.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - timedelta(days=365))
            .not_valid_after(NOW + timedelta(days=3650))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(sign=False), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.authority.public_key()), critical=False)
        )
        self.root = builder.sign(self.authority, SHA256())

    def trusted_root(self) -> str:
        """The root of trust as the library reads it."""
        period = {"start": "2020-01-01T00:00:00Z"}

        def log(key: Key) -> dict[str, object]:
            details = {"rawBytes": text(spki(key)), "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": period}
            identity = {"keyId": text(hashlib.sha256(spki(key)).digest())}
            return {
                "baseUrl": "https://log.example",
                "hashAlgorithm": "SHA2_256",
                "publicKey": details,
                "logId": identity,
            }

        chain = {"certificates": [{"rawBytes": text(self.root.public_bytes(Encoding.DER))}]}
        authority = {
            "subject": {"organization": "test", "commonName": "test authority"},
            "uri": "https://authority.example",
            "certChain": chain,
            "validFor": period,
        }
        return json.dumps(
            {
                "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
                "tlogs": [log(self.log)],
                "certificateAuthorities": [authority],
                "ctlogs": [log(self.certificates)],
                "timestampAuthorities": [],
            }
        )

    def certificate(self, key: Key, subject: str, issuer: str, start: datetime) -> x509.Certificate:
        """For ten minutes, with the certificate log's word in it."""
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.root.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + timedelta(minutes=10))
            .add_extension(_usage(sign=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(_identifier(self.root), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(subject)]), critical=True)
            .add_extension(x509.UnrecognizedExtension(ISSUER_OID, issuer.encode()), critical=False)
        )
        before = builder.sign(self.authority, SHA256()).tbs_certificate_bytes
        stamp = self._stamp(before, start)
        return builder.add_extension(x509.UnrecognizedExtension(SCT_OID, stamp), critical=False).sign(
            self.authority, SHA256()
        )

    def _stamp(self, before: bytes, moment: datetime) -> bytes:
        """RFC 6962: the log's signature over a certificate without it, as a list in an OCTET STRING."""
        milliseconds = int(moment.timestamp() * 1000)
        issuer = hashlib.sha256(spki(self.authority)).digest()
        entry = issuer + len(before).to_bytes(3, "big") + before
        signed = struct.pack("!BBQH", 0, 0, milliseconds, 1) + entry + b"\0\0"
        signature = self.certificates.sign(signed, ec.ECDSA(SHA256()))
        log = hashlib.sha256(spki(self.certificates)).digest()
        one = b"\0" + log + struct.pack("!Q", milliseconds) + b"\0\0\x04\x03"
        one += struct.pack("!H", len(signature)) + signature
        inner = struct.pack("!H", len(one)) + one
        whole = struct.pack("!H", len(inner)) + inner
        return b"\x04" + _length(len(whole)) + whole

    def bundle(
        self, payload: bytes, subject: str, issuer: str, *, start: datetime = NOW, at: datetime = NOW
    ) -> bytes:
        """A statement signed by somebody whom a certificate from `start` on names, logged `at`."""
        key = new()
        certificate = self.certificate(key, subject, issuer, start)
        signature = key.sign(statement.Bundle(payload, b"", b"", b"").signed, ec.ECDSA(SHA256()))
        material = {
            "certificate": {"rawBytes": text(certificate.public_bytes(Encoding.DER))},
            "tlogEntries": [self._entry(certificate, payload, signature, at)],
        }
        envelope = {
            "payload": text(payload),
            "payloadType": statement.IN_TOTO,
            "signatures": [{"sig": text(signature)}],
        }
        document = {"mediaType": statement.BUNDLE, "verificationMaterial": material, "dsseEnvelope": envelope}
        return json.dumps(document).encode()

    def _entry(
        self, certificate: x509.Certificate, payload: bytes, signature: bytes, at: datetime
    ) -> dict[str, object]:
        """A log of one entry: its own hash is the root."""
        signer = text(certificate.public_bytes(Encoding.PEM))
        spec: dict[str, Any] = {
            "envelopeHash": {"algorithm": "sha256", "value": hashlib.sha256(b"").hexdigest()},
            "payloadHash": {"algorithm": "sha256", "value": hashlib.sha256(payload).hexdigest()},
            "signatures": [{"signature": text(signature), "verifier": signer}],
        }
        body = rfc8785.dumps({"apiVersion": "0.0.1", "kind": "dsse", "spec": spec})
        identity = hashlib.sha256(spki(self.log)).digest()
        seconds = int(at.timestamp())
        promise: dict[str, Any] = {
            "body": text(body),
            "integratedTime": seconds,
            "logID": identity.hex(),
            "logIndex": 0,
        }
        root = hashlib.sha256(b"\0" + body).digest()
        note = f"log.example\n1\n{text(root)}\n"
        signed = identity[:4] + self.log.sign(note.encode(), ec.ECDSA(SHA256()))
        checkpoint = f"{note}\n\u2014 log.example {text(signed)}\n"
        return {
            "logIndex": "0",
            "logId": {"keyId": text(identity)},
            "kindVersion": {"kind": "dsse", "version": "0.0.1"},
            "integratedTime": str(seconds),
            "inclusionPromise": {
                "signedEntryTimestamp": text(self.log.sign(rfc8785.dumps(promise), ec.ECDSA(SHA256())))
            },
            "inclusionProof": {
                "logIndex": "0",
                "rootHash": text(root),
                "treeSize": "1",
                "hashes": [],
                "checkpoint": {"envelope": checkpoint},
            },
            "canonicalizedBody": text(body),
        }


def _identifier(root: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    found = root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(found)


def _usage(*, sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=not sign,
        crl_sign=not sign,
        encipher_only=False,
        decipher_only=False,
    )


def _length(size: int) -> bytes:
    return (
        bytes([size])
        if size < 128
        else b"\x81" + bytes([size])
        if size < 256
        else b"\x82" + struct.pack("!H", size)
    )
