"""What signatures are made over: cosign's simple signing text, DSSE envelopes, in-toto statements, bundles.

Pure; runs in the verifier. Each reader returns what a document claims, or raises Refused. A claim is worth nothing
until somebody who counts has signed it.
"""

from __future__ import annotations

from dataclasses import dataclass

from supervisor.errors import Refused
from supervisor.oci import keys
from supervisor.oci.document import Reader, parse
from supervisor.oci.manifest import BUNDLE, MAX_DOCUMENT, SIMPLE
from supervisor.oci.reference import is_digest

__all__ = ["BUNDLE", "MAX_DOCUMENT", "SIMPLE"]

SIMPLE_TYPE = "cosign container image signature"
SIGNATURE = "dev.cosignproject.cosign/signature"
CERTIFICATE = "dev.sigstore.cosign/certificate"
_BUNDLE_TOO = "application/vnd.dev.sigstore.bundle+json;version=0.3"
IN_TOTO = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
SIGN = "https://sigstore.dev/cosign/sign/v1"
_MAX_SUBJECTS = 1024


@dataclass(frozen=True)
class Simple:
    """The claim of a simple signing text; `tag` is "" where the signer wrote none."""

    repository: str
    tag: str
    digest: str


@dataclass(frozen=True)
class Bundle:
    """A sigstore bundle: a DSSE envelope, and a certificate where no key of one's own was used."""

    payload: bytes
    signature: bytes
    certificate: bytes
    raw: bytes

    @property
    def signed(self) -> bytes:
        """The bytes that the signature is over: DSSE's pre-authentication encoding."""
        kind = IN_TOTO.encode()
        return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(self.payload), self.payload)


@dataclass(frozen=True)
class Statement:
    """What an in-toto statement says, and of which digests."""

    predicate_type: str
    digests: tuple[str, ...]
    builder: str


def simple(data: bytes, what: str) -> Simple:
    """Cosign's text; every field of `critical` must be known, or it is not understood."""
    reader = Reader(parse(data, what, limit=MAX_DOCUMENT), what)
    reader.only("critical", "optional")
    critical = reader.one("critical")
    critical.only("identity", "image", "type")
    if (kind := critical.text("type")) != SIMPLE_TYPE:
        raise Refused(f'{what}: its type is "{kind:.80}", not "{SIMPLE_TYPE}"')
    identity, image = critical.one("identity"), critical.one("image")
    identity.only("docker-reference")
    image.only("docker-manifest-digest")
    digest = image.text("docker-manifest-digest")
    if not is_digest(digest):
        raise image.fault("docker-manifest-digest", "sha256: and 64 digits of 0-9a-f")
    name, tag = _name(identity.text("docker-reference"), digest, what)
    return Simple(name, tag, digest)


def _name(text: str, digest: str, what: str) -> tuple[str, str]:
    """(repository, tag) as cosign and containers/image write them."""
    name, at, named = text.partition("@")
    if at and named != digest:
        raise Refused(f"{what}: names two digests, {named:.80} and {digest}")
    head, slash, last = name.rpartition("/")
    last, _, tag = last.partition(":")
    name = f"{head}{slash}{last}"
    host, slash, rest = name.partition("/")
    # the one registry that goes by two names
    return (f"docker.io{slash}{rest}" if host == "index.docker.io" else name), tag


def bundle(data: bytes, what: str) -> Bundle:
    """A sigstore bundle, version 0.3, around one signed statement."""
    reader = Reader(parse(data, what, limit=MAX_DOCUMENT), what)
    reader.only("mediaType", "verificationMaterial", "dsseEnvelope", "messageSignature")
    if (kind := reader.text("mediaType")) not in (BUNDLE, _BUNDLE_TOO):
        raise Refused(f'{what}: is "{kind:.80}"; only sigstore bundles of version 0.3 are read')
    if "messageSignature" in reader.table:
        raise Refused(f"{what}: signs plain bytes, not a statement about an image")
    envelope, material = reader.one("dsseEnvelope"), reader.one("verificationMaterial")
    material.only("publicKey", "certificate", "tlogEntries", "timestampVerificationData")
    envelope.only("payload", "payloadType", "signatures")
    if ("publicKey" in material.table) == ("certificate" in material.table):
        raise Refused(f"{what}: has not exactly one of a public key's hint and a certificate")
    if (kind := envelope.text("payloadType")) != IN_TOTO:
        raise Refused(f'{what}: the payload is "{kind:.80}", not {IN_TOTO}')
    signatures = envelope.each("signatures", most=16)
    if len(signatures) != 1:
        raise Refused(f"{what}: {len(signatures)} signatures in one envelope; one is read")
    signatures[0].only("sig", "keyid")
    certificate = material.one("certificate").text("rawBytes") if "certificate" in material.table else ""
    try:
        return Bundle(
            keys.decode(envelope.text("payload"), "the payload"),
            keys.decode(signatures[0].text("sig"), "the signature"),
            keys.decode(certificate, "the certificate"),
            data,
        )
    except ValueError as error:
        raise Refused(f"{what}: {error}") from None


def statement(data: bytes, what: str) -> Statement:
    """An in-toto statement, version 1."""
    reader = Reader(parse(data, what, limit=MAX_DOCUMENT), what)
    reader.only("_type", "subject", "predicateType", "predicate")
    if (kind := reader.text("_type")) != STATEMENT:
        raise Refused(f'{what}: is "{kind:.80}", not {STATEMENT}')
    digests = []
    for subject in reader.each("subject", most=_MAX_SUBJECTS):
        subject.only("name", "uri", "digest", "content", "downloadLocation", "mediaType", "annotations")
        named = subject.map("digest").get("sha256", "")
        digests.append(f"sha256:{named}")
    predicate = reader.maybe("predicate")
    details = predicate.maybe("runDetails") if predicate else None
    builder = details.maybe("builder") if details else None
    return Statement(reader.text("predicateType"), tuple(digests), builder.text("id", "") if builder else "")
