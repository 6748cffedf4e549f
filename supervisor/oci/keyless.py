"""The verifier with certificates: sigstore bundles whose signer is a name that an issuer vouched for, for minutes.

A one-shot process like the verifier, with one library more (the extra `sigstore`). The root of trust comes with
the library or from the operator; nothing is asked of anybody: certificate, transparency proof and time are all in
the bundle.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import resources

from cryptography.x509 import Certificate, load_der_x509_certificate

from supervisor.errors import ConfigError, Refused
from supervisor.oci import keys, statement, verifier
from supervisor.oci.document import Reader, Table, parse
from supervisor.oci.trust import Signer

try:
    from sigstore.errors import Error
    from sigstore.models import Bundle, InvalidBundle, TrustedRoot
    from sigstore.verify import Verifier
    from sigstore.verify.policy import Identity
    from sigstore_models.trustroot.v1 import TrustedRoot as Root
except ImportError:
    _MISSING = "trust.toml has [identities]: pip install 'mcp-sandbox-supervisor[sigstore]'"
else:
    _MISSING = ""
codecs.lookup("utf-16be")  # canonical JSON sorts keys by it, when no file can be opened any more
_PUBLIC = "https%3A%2F%2Ftuf-repo-cdn.sigstore.dev"


def serve(question: Table, confined: Callable[[], None]) -> dict[str, object]:
    """As the verifier's, with certificates."""
    if _MISSING:
        raise ConfigError(_MISSING)
    asked = Reader(question, "the verifier's question").one("trust")
    return verifier.serve(question, confined, Certificates(asked.text("trusted_root", "")))


class Certificates:
    """Who a bundle's certificate names, if that can be proved."""

    def __init__(self, trusted_root: str) -> None:
        text = trusted_root or (resources.files("sigstore._store") / _PUBLIC / "trusted_root.json").read_text(
            "utf-8"
        )
        try:
            self._verifier = Verifier(trusted_root=TrustedRoot(Root.from_json(text)))
        except (ValueError, KeyError, Error) as error:
            raise ConfigError(f"trusted_root.json: {error}") from None

    def __call__(self, bundle: statement.Bundle, signers: tuple[Signer, ...], what: str) -> Signer:
        """The signer of these whom the certificate names; Refused says why it is none."""
        certificate = _certificate(bundle, what)
        try:
            parsed = Bundle.from_json(bundle.raw)
        except (ValueError, KeyError, TypeError, InvalidBundle) as error:
            raise Refused(f"{what}: a bundle that cannot be checked: {error}") from None
        _check_time(certificate, bundle, what)
        reasons = []
        for signer in signers:
            if not signer.issuer:
                continue
            try:
                kind, payload = self._verifier.verify_dsse(
                    parsed, Identity(identity=signer.subject, issuer=signer.issuer)
                )
            except Error as error:
                reasons.append(f"{signer.name}: {error}")
                continue
            if kind != statement.IN_TOTO or payload != bundle.payload:
                raise Refused(f"{what}: what was signed is not what is read")
            return signer
        raise Refused(f"{what}: {'; '.join(reasons) or 'signed with a certificate, and no identity counts here'}")


def _certificate(bundle: statement.Bundle, what: str) -> Certificate:
    try:
        certificate = load_der_x509_certificate(bundle.certificate)
        keys.usable(certificate.public_key())
    except ValueError as error:
        raise Refused(f"{what}: its certificate: {error}") from None
    return certificate


def _check_time(certificate: Certificate, bundle: statement.Bundle, what: str) -> None:
    """The library checks this too; a person gets to read which of the two it was."""
    material = Reader(parse(bundle.raw, what), what).one("verificationMaterial")
    for entry in material.each("tlogEntries", most=16) if "tlogEntries" in material.table else []:
        seconds = entry.text("integratedTime", "0")
        if not seconds.isdigit() or len(seconds) > 12:
            raise entry.fault("integratedTime", "seconds, as a string")
        if seconds == "0":
            continue
        moment = datetime.fromtimestamp(int(seconds), UTC)
        if moment < certificate.not_valid_before_utc:
            raise Refused(f"{what}: signed {moment}, before its certificate was valid")
        if moment > certificate.not_valid_after_utc:
            raise Refused(f"{what}: signed {moment}, after its certificate had expired")
