"""Certificates: who is named, by whom, when, and what the logs prove; each wrong in its own way is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta

import pytest

from supervisor.errors import ConfigError, Refused
from supervisor.oci import keyless, manifest, sign, statement, trust, verify
from supervisor.oci.document import Table
from supervisor.oci.layout import canonical
from tests.unit.oci import making
from tests.unit.oci.making import NAME
from tests.unit.oci.own_sigstore import NOW, Sigstore

SUBJECT, ISSUER = "https://ci.example/team/server/release.yml", "https://issuer.example"
OWN = Sigstore()
JUDGE = keyless.Certificates(OWN.trusted_root())
POLICY = f"""trust = 1
[identities.ci]
subject = "{SUBJECT}"
issuer = "{ISSUER}"
repository = "{NAME}"

[[repository]]
pattern = "{NAME}"
identities = ["ci"]
"""


def judged(
    bundle: bytes, made: making.Image, policy: str = POLICY, judge: keyless.Certificates = JUDGE
) -> verify.Verified:
    """The verdict on an image with one bundle."""
    layer = made.keep(bundle, statement.BUNDLE)
    holder: Table = {
        "schemaVersion": 2,
        "mediaType": manifest.OCI_MANIFEST,
        "config": made.keep(b"{}", manifest.EMPTY),
        "layers": [layer],
        "subject": {"mediaType": manifest.OCI_MANIFEST, "digest": made.digest, "size": len(made.data)},
    }
    digest = str(made.keep(canonical(holder), manifest.OCI_MANIFEST)["digest"])
    found = (verify.Candidate(made.digest, digest, referrer=True),)
    question = verify.Question(NAME, "", made.digest, "", making.PLATFORM, made.documents, found)
    return verify.verify(question, trust.parse("trust.toml", policy.encode()), judge)


def payload(made: making.Image) -> bytes:
    return sign.attest(made.digest, statement.SIGN, {})


def test_a_bundle_by_the_named_identity_counts() -> None:
    made = making.image()
    assert judged(OWN.bundle(payload(made), SUBJECT, ISSUER), made).signers == ("ci",)


def test_another_identity_or_issuer_is_refused() -> None:
    made = making.image()
    with pytest.raises(Refused, match=f"ci: Certificate's SANs do not match {SUBJECT}"):
        judged(OWN.bundle(payload(made), SUBJECT + "x", ISSUER), made)
    with pytest.raises(Refused, match=r"ci: Certificate's OIDCIssuer does not match"):
        judged(OWN.bundle(payload(made), SUBJECT, ISSUER + ".evil"), made)


def test_a_signature_after_the_certificate_s_life_or_before_it_is_refused() -> None:
    made = making.image()
    with pytest.raises(Refused, match="after its certificate had expired"):
        judged(OWN.bundle(payload(made), SUBJECT, ISSUER, at=NOW + timedelta(minutes=11)), made)
    with pytest.raises(Refused, match="before its certificate was valid"):
        judged(OWN.bundle(payload(made), SUBJECT, ISSUER, at=NOW - timedelta(minutes=1)), made)


def test_another_authority_certificate_log_or_transparency_log_is_refused() -> None:
    made = making.image()
    for part, said in (("authority", "certificate chain"), ("certificates", "SCT"), ("log", "log|checkpoint|key")):
        other = Sigstore(
            **{**{name: getattr(OWN, name) for name in ("authority", "certificates", "log")}, part: Sigstore().log}
        )
        with pytest.raises(Refused, match=said):
            judged(other.bundle(payload(made), SUBJECT, ISSUER), made)


def test_a_bundle_for_another_image_is_refused() -> None:
    made, other = making.image(), making.image([making.files({"other": b""})])
    with pytest.raises(Refused, match=f"made for another image, {other.digest}"):
        judged(OWN.bundle(payload(other), SUBJECT, ISSUER), made)


def test_an_identity_that_is_not_bound_to_the_repository_does_not_count() -> None:
    made = making.image()
    with pytest.raises(Refused, match='"ci" is not bound to one'):
        judged(OWN.bundle(payload(made), SUBJECT, ISSUER), made, POLICY.replace(f'repository = "{NAME}"\n', ""))


def without(name: str) -> Callable[[Table], None]:
    def change(entry: Table) -> None:
        del entry[name]

    return change


@pytest.mark.parametrize(
    "change",
    [
        without("inclusionPromise"),
        without("inclusionProof"),
        without("canonicalizedBody"),
        lambda entry: entry.update(integratedTime=str(int(entry["integratedTime"]) + 1)),
        lambda entry: entry["inclusionProof"].update(rootHash="AAAA"),
        lambda entry: entry["inclusionProof"].update(treeSize="2"),
        lambda entry: entry["inclusionProof"]["checkpoint"].update(envelope="x"),
        lambda entry: entry["kindVersion"].update(kind="intoto"),
        lambda entry: entry["logId"].update(keyId="AAAA"),
    ],
)
def test_a_log_entry_that_proves_nothing_is_refused(change: Callable[[Table], None]) -> None:
    made = making.image()
    bundle = json.loads(OWN.bundle(payload(made), SUBJECT, ISSUER))
    change(bundle["verificationMaterial"]["tlogEntries"][0])
    with pytest.raises(Refused):
        judged(json.dumps(bundle).encode(), made)


def test_a_log_entry_of_another_signature_is_refused() -> None:
    made = making.image()
    one, two = (json.loads(OWN.bundle(payload(made), SUBJECT, ISSUER)) for _ in range(2))
    one["verificationMaterial"]["tlogEntries"] = two["verificationMaterial"]["tlogEntries"]
    with pytest.raises(Refused, match="log entry signatures do not match bundle"):
        judged(json.dumps(one).encode(), made)


def test_a_bundle_without_a_log_entry_or_with_two_is_refused() -> None:
    made = making.image()
    bundle = json.loads(OWN.bundle(payload(made), SUBJECT, ISSUER))
    entries = bundle["verificationMaterial"]["tlogEntries"]
    for count in (0, 2):
        bundle["verificationMaterial"]["tlogEntries"] = entries * count
        with pytest.raises(Refused, match="expected exactly one log entry"):
            judged(json.dumps(bundle).encode(), made)


def test_the_public_root_of_trust_comes_with_the_library() -> None:
    made = making.image()
    with pytest.raises(Refused, match="certificate chain"):
        judged(OWN.bundle(payload(made), SUBJECT, ISSUER), made, judge=keyless.Certificates(""))


def test_a_damaged_root_of_trust_is_an_error_of_the_configuration() -> None:
    for text in ("{", "{}", '{"mediaType": "x"}'):
        with pytest.raises(ConfigError, match=r"trusted_root.json: "):
            keyless.Certificates(text)
