"""The verdict: who signed what for which repository, and every way in which a signature must not count."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field, replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from supervisor.errors import Refused
from supervisor.oci import keyfile, manifest, sign, statement, trust, verify
from supervisor.oci.document import Table, Value
from supervisor.oci.keyfile import Private
from supervisor.oci.layout import canonical
from supervisor.oci.reference import digest_of
from supervisor.oci.verifier import no_keyless
from tests.unit.oci import making
from tests.unit.oci.making import NAME

KEY, OTHER = making.key(), making.key()
SLSA = "https://slsa.dev/provenance/v1"


@dataclass
class Case:
    """An image, what is found with it, and what is asked."""

    made: making.Image = field(default_factory=making.image)
    found: list[verify.Candidate] = field(default_factory=list)
    policy: str = making.trust(KEY)
    tag: str = "1.0"

    def hold(self, layer: Table, *, referrer: bool = False, target: str = "", **more: Value) -> Case:
        target = target or self.made.digest
        document: Table = {
            "schemaVersion": 2,
            "mediaType": manifest.OCI_MANIFEST,
            "config": self.made.keep(b"{}", manifest.EMPTY),
            "layers": [layer],
            **more,
        }
        if referrer and "subject" not in more:
            document["subject"] = {"mediaType": manifest.OCI_MANIFEST, "digest": target, "size": 1}
        holder = str(self.made.keep(canonical(document), manifest.OCI_MANIFEST)["digest"])
        self.found.append(verify.Candidate(target, holder, referrer))
        return self

    def simple(self, payload: bytes = b"", key: Private = KEY, signature: str = "", certificate: str = "") -> Case:
        payload = payload or sign.simple_text(NAME, self.made.digest)
        layer = self.made.keep(payload, statement.SIMPLE)
        made = signature or base64.b64encode(sign.signature(key, payload)).decode()
        layer["annotations"] = {statement.SIGNATURE: made}
        if certificate:
            layer["annotations"] = {statement.SIGNATURE: made, statement.CERTIFICATE: certificate}
        return self.hold(layer)

    def bundle(
        self, kind: str = statement.SIGN, key: Private = KEY, predicate: Table | None = None, digest: str = ""
    ) -> Case:
        text = sign.attest(digest or self.made.digest, kind, predicate or {})
        return self.hold(self.made.keep(sign.bundle(key, text), statement.BUNDLE), referrer=True)

    def question(self) -> verify.Question:
        return verify.Question(
            NAME, self.tag, self.made.digest, "", making.PLATFORM, self.made.documents, tuple(self.found)
        )

    def judge(self, documents: dict[str, bytes] | None = None, platform: str = making.PLATFORM) -> verify.Verified:
        policy = trust.parse("trust.toml", self.policy.encode())
        question = replace(self.question(), documents=documents or self.made.documents, platform=platform)
        return verify.verify(question, policy, no_keyless)

    def refused(
        self, said: str, documents: dict[str, bytes] | None = None, platform: str = making.PLATFORM
    ) -> None:
        with pytest.raises(Refused, match=said):
            self.judge(documents, platform)


def claim(changes: dict[str, object], digest: str = "") -> bytes:
    """Cosign's text with dotted keys changed."""
    document = json.loads(sign.simple_text(NAME, digest or making.image().digest))
    for dotted, value in changes.items():
        here = document
        *way, last = dotted.split(".")
        for part in way:
            here = here[part]
        here[last] = value
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    "key",
    [
        KEY,
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["p256", "p384", "ed25519", "rsa"],
)
@pytest.mark.parametrize("bundle", [False, True], ids=["simple", "bundle"])
def test_a_signature_by_a_key_that_counts_is_enough(key: Private, bundle: bool) -> None:
    case = Case(policy=making.trust(key, bound=NAME))
    found = (case.bundle(key=key) if bundle else case.simple(key=key)).judge()
    assert found.signers == ("release",)
    assert found.image.digest == case.made.digest
    assert found.rule.startswith("trust.toml:")


def test_an_image_without_any_signature_is_refused() -> None:
    Case().refused("wants a signature by release; it has none")


def test_a_repository_that_no_pattern_matches_is_refused_before_anything_is_read() -> None:
    Case(policy=making.trust(KEY, pattern="other.example/*")).simple().refused(
        "no pattern in trust.toml matches it"
    )


def test_a_signature_by_another_key_is_refused() -> None:
    Case().simple(key=OTHER).refused(r"not made by a key that counts here: release \(ECDSA secp256r1\)")
    Case(policy=making.trust(KEY, bound=NAME)).bundle(key=OTHER).refused("not made by a key that counts here")


def test_a_key_of_another_kind_is_refused() -> None:
    case = Case(policy=making.trust(ed25519.Ed25519PrivateKey.generate()))
    case.simple(key=KEY).refused(r"not made by a key that counts here: release \(Ed25519\)")


def test_a_signature_for_another_digest_is_refused_also_under_this_image_s_tag() -> None:
    other = "sha256:" + "0" * 64
    Case().simple(claim({}, other)).refused(f"made for another image, {other}")
    Case(policy=making.trust(KEY, bound=NAME)).bundle(digest=other).refused(f"made for another image, {other}")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"critical.identity.docker-reference": "registry.example.org/team/other"}, "made for the repository"),
        ({"critical.identity.docker-reference": NAME.upper()}, "made for the repository"),
        ({"critical.identity.docker-reference": f"{NAME}:2.0"}, 'made for the tag "2.0", not "1.0"'),
        ({"critical.identity.docker-reference": f"{NAME}@sha256:{'1' * 64}"}, "names two digests"),
        ({"critical.identity.docker-reference": ""}, "made for the repository"),
        ({"critical.identity.docker-reference": 3}, "must be a string"),
        ({"critical.type": "atomic container signature"}, 'its type is "atomic container signature"'),
        ({"critical.type": "Cosign Container Image Signature"}, "its type is"),
        ({"critical.other": 1}, 'critical: unknown key "other"'),
        ({"critical.image.other": 1}, 'image: unknown key "other"'),
        ({"critical.identity.other": 1}, 'identity: unknown key "other"'),
        ({"other": 1}, 'unknown key "other"'),
        ({"critical.image.docker-manifest-digest": "sha256:x"}, "must be sha256"),
        ({"critical.image.Docker-Manifest-Digest": "sha256:" + "0" * 64}, "differ only in case"),
        ({"optional": {"time": 1.5}}, "not a plain integer"),
    ],
)
def test_a_claim_that_says_something_else_is_refused(changes: dict[str, object], said: str) -> None:
    Case().simple(claim(changes)).refused(said)


def test_a_claim_with_a_key_twice_is_refused() -> None:
    text = claim({}).decode()
    twice = text.replace('"type":', '"type": "x", "type":')
    Case().simple(twice.encode()).refused('the key "type" appears twice')


def test_a_tag_is_only_compared_where_both_name_one() -> None:
    tagged = claim({"critical.identity.docker-reference": f"{NAME}:1.0"})
    assert Case().simple(tagged).judge().signers
    assert Case(tag="").simple(tagged).judge().signers


def test_a_certificate_or_a_damaged_signature_in_the_old_layout_is_refused() -> None:
    Case().simple(certificate="x").refused("certificates are read in bundles alone")
    Case().simple(signature="AAAA").refused("not made by a key that counts here")
    Case().simple(signature="A").refused("the signature is not base64")


def test_truncated_oversized_and_missing_blobs_are_refused() -> None:
    case = Case().simple()
    payload = next(d for d, data in case.made.documents.items() if b"critical" in data)
    data = case.made.documents[payload]
    case.refused("is not what its digest says", documents={**case.made.documents, payload: data[:-1]})
    case.refused("is not what its digest says", documents={**case.made.documents, payload: data + b" "})
    case.refused("is missing", documents={d: x for d, x in case.made.documents.items() if d != payload})
    short = Case()
    text = sign.simple_text(NAME, short.made.digest)
    layer = short.made.keep(text, statement.SIMPLE) | {"size": len(text) + 1}
    short.hold(layer).refused("bytes, not the")


def test_a_bundle_counts_for_a_key_that_is_bound_to_the_repository_alone() -> None:
    assert Case(policy=making.trust(KEY, bound=NAME)).bundle().judge().signers == ("release",)
    Case(policy=making.trust(KEY)).bundle().refused('"release" is not bound to one: write repository = ')
    wide = making.trust(KEY, pattern="registry.example.org/team/*", bound="registry.example.org/team/other")
    Case(policy=wide).bundle().refused('"release" is not bound to one')


def test_an_attestation_is_no_approval() -> None:
    Case(policy=making.trust(KEY, bound=NAME)).bundle(SLSA).refused("which is no approval and not asked for")
    wanted = making.trust(KEY, bound=NAME, more=f'predicates = ["{SLSA}"]\n')
    Case(policy=wanted).bundle(SLSA).refused("wants a signature by release")


def test_a_policy_can_ask_for_provenance_by_a_builder() -> None:
    more = f'predicates = ["{SLSA}"]\nbuilders = ["https://ci.example/"]\n'
    policy = making.trust(KEY, bound=NAME, more=more)
    built: Table = {"runDetails": {"builder": {"id": "https://ci.example/"}}}
    assert Case(policy=policy).simple().bundle(SLSA, predicate=built).judge().predicates == (SLSA,)
    Case(policy=policy).simple().refused(f"wants an attestation {SLSA}")
    Case(policy=policy).simple().bundle(SLSA).refused('built by ""')
    Case(policy=policy).simple().bundle(SLSA, key=OTHER, predicate=built).refused("not made by a key")
    elsewhere: Table = {"runDetails": {"builder": {"id": "https://other.example/"}}}
    Case(policy=policy).simple().bundle(SLSA, predicate=elsewhere).refused('built by "https://other.example/"')


def test_a_threshold_counts_signers_not_signatures() -> None:
    policy = making.trust(KEY) + f'threshold = 2\n[keys.second]\npublic = """{keyfile.public(OTHER)}"""\n'
    policy = policy.replace('keys = ["release"]', 'keys = ["release", "second"]')
    Case(policy=policy).simple().simple().bundle().refused("wants 2 signatures by release, second, and has release")
    assert Case(policy=policy).simple().simple(key=OTHER).judge().signers == ("release", "second")


def test_a_signature_that_does_not_count_does_no_harm_beside_one_that_does() -> None:
    assert Case().simple(key=OTHER).simple(claim({"critical.type": "x"})).simple().judge().signers == ("release",)


def test_a_referrer_must_say_that_it_belongs_to_the_image() -> None:
    case = Case(policy=making.trust(KEY, bound=NAME))
    text = sign.bundle(KEY, sign.attest(case.made.digest, statement.SIGN, {}))
    layer = case.made.keep(text, statement.BUNDLE)
    elsewhere: Table = {"mediaType": manifest.OCI_MANIFEST, "digest": "sha256:" + "0" * 64, "size": 1}
    case.hold(layer, referrer=True, subject=elsewhere).refused("does not say that it belongs to")


def test_a_form_of_signature_in_the_other_s_place_is_refused() -> None:
    case = Case(policy=making.trust(KEY, bound=NAME))
    text = sign.bundle(KEY, sign.attest(case.made.digest, statement.SIGN, {}))
    case.hold(case.made.keep(text, statement.BUNDLE)).refused("is no signature that counts here")
    payload = sign.simple_text(NAME, case.made.digest)
    Case().hold(Case().made.keep(payload, statement.SIMPLE), referrer=True).refused(
        "is no signature that counts here"
    )


def changed(case: Case, **changes: object) -> Case:
    """A bundle with some of its fields changed after it was signed."""
    document = json.loads(sign.bundle(KEY, sign.attest(case.made.digest, statement.SIGN, {})))
    for dotted, value in changes.items():
        here = document
        *way, last = dotted.split("__")
        for part in way:
            here = here[int(part)] if part.isdigit() else here[part]
        here[last] = value
    return case.hold(case.made.keep(json.dumps(document).encode(), statement.BUNDLE), referrer=True)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"mediaType": "application/vnd.dev.sigstore.bundle+json;version=0.1"},
            "only sigstore bundles of version 0.3",
        ),
        ({"other": 1}, 'unknown key "other"'),
        ({"messageSignature": {}}, "signs plain bytes"),
        ({"dsseEnvelope__payloadType": "text/plain"}, 'the payload is "text/plain"'),
        ({"dsseEnvelope__signatures": []}, "0 signatures in one envelope"),
        ({"dsseEnvelope__payload": "e30"}, "the payload is not base64"),
        ({"dsseEnvelope__payload": "e30="}, "not made by a key"),
        ({"dsseEnvelope__signatures__0__sig": "AAAA"}, "not made by a key"),
        ({"dsseEnvelope__signatures__0__other": 1}, 'unknown key "other"'),
        ({"verificationMaterial": {}}, "has not exactly one of"),
        ({"verificationMaterial__certificate": {"rawBytes": "AAAA"}}, "has not exactly one of"),
        ({"verificationMaterial": {"certificate": {"rawBytes": "AAAA"}}}, r"no \[identities.NAME\] counts here"),
    ],
)
def test_a_bundle_that_says_something_else_is_refused(changes: dict[str, object], said: str) -> None:
    changed(Case(policy=making.trust(KEY, bound=NAME)), **changes).refused(said)


def test_a_statement_of_another_kind_or_about_many_images_is_refused() -> None:
    case = Case(policy=making.trust(KEY, bound=NAME))
    for change, said in (
        ({"_type": "https://in-toto.io/Statement/v0.1"}, "not https://in-toto.io/Statement/v1"),
        ({"subject": []}, "a signature for 0 images"),
        ({"subject": [{"digest": {"sha256": "0" * 64}}] * 2}, "a signature for 2 images"),
        ({"subject": [{"digest": {"sha512": "0" * 128}}]}, "made for another image"),
        ({"other": 1}, 'unknown key "other"'),
    ):
        document = json.loads(sign.attest(case.made.digest, statement.SIGN, {})) | change
        fresh = Case(policy=case.policy)
        text = sign.bundle(KEY, json.dumps(document).encode())
        fresh.hold(fresh.made.keep(text, statement.BUNDLE), referrer=True).refused(said)


def index(*platforms: str) -> tuple[Case, dict[str, making.Image]]:
    """A case whose image is an index of images."""
    images = {each: making.image(platform=each) for each in platforms}
    case = Case(making.Image())
    children: list[Value] = []
    for platform, made in images.items():
        case.made.documents |= made.documents
        system, machine = platform.split("/")
        child: Table = {"mediaType": manifest.OCI_MANIFEST, "digest": made.digest, "size": len(made.data)}
        children.append(child | {"platform": {"os": system, "architecture": machine}})
    case.made.data = canonical({"schemaVersion": 2, "mediaType": manifest.OCI_INDEX, "manifests": children})
    case.made.digest = str(case.made.keep(case.made.data, manifest.OCI_INDEX)["digest"])
    return case, images


def test_a_signature_for_an_index_or_for_this_platform_s_image_counts() -> None:
    case, images = index("linux/amd64", "linux/arm64")
    assert case.simple().judge().image.digest == images["linux/amd64"].digest
    case, images = index("linux/amd64", "linux/arm64")
    assert case.simple(sign.simple_text(NAME, images["linux/amd64"].digest)).judge().signers


def test_a_signature_for_another_platform_s_image_is_refused() -> None:
    case, images = index("linux/amd64", "linux/arm64")
    case.simple(sign.simple_text(NAME, images["linux/arm64"].digest))
    case.refused("made for the image of linux/arm64, not of linux/amd64")


def test_an_index_that_lies_about_its_children_is_refused() -> None:
    case, images = index("linux/amd64", "linux/arm64")
    case.simple().refused("no image for linux/riscv64", platform="linux/riscv64")
    child = images["linux/amd64"].digest
    case.refused("is missing", documents={d: x for d, x in case.made.documents.items() if d != child})
    swapped = making.Image()
    arm = making.image(platform="linux/arm64")
    descriptor: Table = {"mediaType": manifest.OCI_MANIFEST, "digest": arm.digest, "size": len(arm.data)}
    descriptor["platform"] = {"os": "linux", "architecture": "amd64"}
    swapped.data = canonical({"schemaVersion": 2, "mediaType": manifest.OCI_INDEX, "manifests": [descriptor]})
    swapped.digest = digest_of(swapped.data)
    swapped.documents = {**arm.documents, swapped.digest: swapped.data}
    Case(swapped).simple().refused("its configuration is for linux/arm64, not for linux/amd64")


def test_an_index_with_two_images_for_one_platform_is_refused() -> None:
    case, _ = index("linux/amd64", "linux/arm64")
    two = json.loads(case.made.data)
    two["manifests"][1]["platform"]["architecture"] = "amd64"
    made = making.Image(documents=dict(case.made.documents))
    made.data = json.dumps(two).encode()
    made.digest = str(made.keep(made.data, manifest.OCI_INDEX)["digest"])
    Case(made).simple().refused("2 images for linux/amd64")


def test_an_image_whose_layers_are_not_those_of_its_configuration_is_refused() -> None:
    made = making.image()
    document = json.loads(made.data)
    document["layers"] *= 2
    other = making.Image(documents=dict(made.documents))
    other.data = json.dumps(document).encode()
    other.digest = str(other.keep(other.data, manifest.OCI_MANIFEST)["digest"])
    Case(other).simple().refused("2 layers, but 1 in its configuration")
