"""Whether an image may be used: signatures and attestations against one rule of trust.toml, fail-closed.

Pure; runs in the verifier. Everything is judged from bytes whose digests were checked. A signature that does not
count says why; the image is refused with all those reasons when too few are left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from supervisor.errors import Refused
from supervisor.oci import keys, manifest, statement
from supervisor.oci.manifest import Config, Descriptor, Index, Manifest
from supervisor.oci.reference import digest_of
from supervisor.oci.trust import Rule, Signer, Trust

# who of these signers a bundle's certificate names; Refused says why it is none of them
Keyless = Callable[[statement.Bundle, tuple[Signer, ...], str], Signer]


@dataclass(frozen=True)
class Candidate:
    """A manifest with signatures: found as the `.sig` tag of `target`, or as its referrer."""

    target: str
    manifest: str
    referrer: bool


@dataclass(frozen=True)
class Question:
    """An image and everything that was found with it; `documents` maps digests to bytes."""

    repository: str
    tag: str
    digest: str
    media_type: str
    platform: str
    documents: Mapping[str, bytes]
    candidates: tuple[Candidate, ...]


@dataclass(frozen=True)
class Image:
    """The image that a reference means on one platform."""

    digest: str
    manifest: Manifest
    config: Config
    others: Mapping[str, str]


@dataclass(frozen=True)
class Verified:
    """What may be unpacked, and by whose word."""

    image: Image
    signers: tuple[str, ...]
    predicates: tuple[str, ...]
    rule: str


def document(question: Question, digest: str, what: str) -> bytes:
    """A document by digest; Refused when it is missing or is another."""
    data = question.documents.get(digest)
    if data is None:
        raise Refused(f"{what}: {digest} is missing")
    if digest_of(data) != digest:
        raise Refused(f"{what}: {digest} is not what its digest says")
    return data


def resolve(question: Question) -> Image:
    """From the reference to one platform's manifest and configuration."""
    what = f"{question.repository}@{question.digest}"
    data = document(question, question.digest, what)
    top = manifest.read(data, what, question.media_type)
    others: dict[str, str] = {}
    chosen = question.digest
    media_type = question.media_type
    if isinstance(top, Index):
        child = manifest.choose(top, question.platform, what)
        others = {each.digest: each.platform for each in top.manifests if each.digest != child.digest}
        chosen, media_type = child.digest, child.media_type
        data = document(question, chosen, what)
        if len(data) != child.size:
            raise Refused(f"{what}: the manifest for {question.platform} has {len(data)} bytes, not {child.size}")
    found = manifest.image(data, f"{question.repository}@{chosen}", media_type)
    config = manifest.config(_sized(question, found.config, f"{what}: configuration"), f"{what}: configuration")
    if config.platform != question.platform:
        raise Refused(f"{what}: its configuration is for {config.platform}, not for {question.platform}")
    if len(config.diff_ids) != len(found.layers):
        raise Refused(f"{what}: {len(found.layers)} layers, but {len(config.diff_ids)} in its configuration")
    return Image(chosen, found, config, others)


def _sized(question: Question, described: Descriptor, what: str) -> bytes:
    data = document(question, described.digest, what)
    if len(data) != described.size:
        raise Refused(f"{what}: {len(data)} bytes, not the {described.size} that are promised")
    return data


def verify(question: Question, trust: Trust, keyless: Keyless) -> Verified:
    """The verdict; Refused with every reason."""
    rule = trust.rule(question.repository)
    judge = _Judge(question, resolve(question), rule, keyless)
    for candidate in question.candidates:
        judge.look_at(candidate)
    return judge.verdict()


class _Judge:
    """One image, one rule, and what has been found so far."""

    def __init__(self, question: Question, image: Image, rule: Rule, keyless: Keyless) -> None:
        self._question = question
        self._image = image
        self._rule = rule
        self._keyless = keyless
        self._signers: set[str] = set()
        self._predicates: set[str] = set()
        self._reasons: list[str] = []

    def verdict(self) -> Verified:
        """Enough, or Refused."""
        rule = self._rule
        name = f"{self._question.repository}@{self._question.digest}"
        reasons = "".join(f"\n  {each}" for each in dict.fromkeys(self._reasons[:20]))
        if len(self._signers) < rule.threshold:
            needed = "a signature" if rule.threshold == 1 else f"{rule.threshold} signatures"
            have = f", and has {', '.join(sorted(self._signers))}" if self._signers else ""
            signers = ", ".join(each.name for each in rule.signers)
            raise Refused(f"{name}: {rule.origin} wants {needed} by {signers}{have}{reasons or '; it has none'}")
        for each in rule.predicates:
            if each not in self._predicates:
                raise Refused(f"{name}: {rule.origin} wants an attestation {each} by a signer of its own{reasons}")
        return Verified(self._image, tuple(sorted(self._signers)), tuple(sorted(self._predicates)), rule.origin)

    def look_at(self, candidate: Candidate) -> None:
        """Count what can be counted, and write down why the rest cannot."""
        what = f"signature {candidate.manifest[:19]}"
        try:
            holder = manifest.read(document(self._question, candidate.manifest, what), what)
            if isinstance(holder, Index):
                raise Refused(f"{what}: an index where a signature was expected")
            if candidate.referrer and (holder.subject is None or holder.subject.digest != candidate.target):
                raise Refused(f"{what}: does not say that it belongs to {candidate.target}")
            if not holder.layers:
                raise Refused(f"{what}: empty")
        except Refused as refusal:
            self._reasons.append(str(refusal))
            return
        for number, layer in enumerate(holder.layers):
            try:
                self._layer(layer, f"{what}, layer {number}", referrer=candidate.referrer)
            except Refused as refusal:
                self._reasons.append(str(refusal))

    def _layer(self, layer: Descriptor, what: str, *, referrer: bool) -> None:
        if layer.media_type == statement.SIMPLE and not referrer:
            self._simple(layer, what)
        elif layer.media_type == statement.BUNDLE and referrer:
            self._bundle(_sized(self._question, layer, what), what)
        else:
            raise Refused(f'{what}: "{layer.media_type:.80}" is no signature that counts here')

    def _simple(self, layer: Descriptor, what: str) -> None:
        payload = _sized(self._question, layer, what)
        claim = statement.simple(payload, what)
        self._check_digest(claim.digest, what)
        question = self._question
        if claim.repository != question.repository:
            raise Refused(f"{what}: made for the repository {claim.repository:.200}, not {question.repository}")
        if claim.tag and question.tag and claim.tag != question.tag:
            raise Refused(f'{what}: made for the tag "{claim.tag:.80}", not "{question.tag}"')
        if statement.CERTIFICATE in layer.annotations:
            raise Refused(f"{what}: a certificate in cosign's old layout; certificates are read in bundles alone")
        try:
            signature = keys.decode(layer.annotations.get(statement.SIGNATURE, ""), "the signature")
        except ValueError as error:
            raise Refused(f"{what}: {error}") from None
        self._signers.add(_by_key(self._rule.signers, signature, payload, what).name)

    def _check_digest(self, digest: str, what: str) -> None:
        """A signature counts for what was named, or for what that means on this platform."""
        if digest in (self._question.digest, self._image.digest):
            return
        if digest in self._image.others:
            other = self._image.others[digest] or "another platform"
            raise Refused(f"{what}: made for the image of {other}, not of {self._question.platform}")
        raise Refused(f"{what}: made for another image, {digest}")

    def _bundle(self, payload: bytes, what: str) -> None:
        bundle = statement.bundle(payload, what)
        repository = self._question.repository
        # a statement names no repository, so it counts for a signer who signs for this one alone
        bound = tuple(each for each in self._rule.signers if each.bound == repository)
        if bundle.certificate:
            signer = self._keyless(bundle, bound or self._rule.signers, what)
        else:
            signer = _by_key(bound or self._rule.signers, bundle.signature, bundle.signed, what)
        if signer.bound != repository:
            raise Refused(
                f'{what}: a bundle names no repository, and "{signer.name}" is not bound to one: write '
                f'repository = "{repository}" where trust.toml defines it'
            )
        claim = statement.statement(bundle.payload, what)
        if len(claim.digests) != 1 and claim.predicate_type == statement.SIGN:
            raise Refused(f"{what}: a signature for {len(claim.digests)} images at once")
        if not {self._question.digest, self._image.digest} & set(claim.digests):
            self._check_digest(claim.digests[0] if claim.digests else "none", what)
        if claim.predicate_type == statement.SIGN:
            self._signers.add(signer.name)
        elif claim.predicate_type not in self._rule.predicates:
            raise Refused(f"{what}: says {claim.predicate_type:.200}, which is no approval and not asked for")
        elif self._rule.builders and claim.builder not in self._rule.builders:
            raise Refused(f'{what}: built by "{claim.builder:.200}", which {self._rule.origin} does not name')
        else:
            self._predicates.add(claim.predicate_type)


def _by_key(signers: tuple[Signer, ...], signature: bytes, data: bytes, what: str) -> Signer:
    for signer in signers:
        if signer.key is not None and signer.key.verifies(signature, data):
            return signer
    names = ", ".join(f"{each.name} ({each.key.kind})" for each in signers if each.key) or "there is none"
    raise Refused(f"{what}: not made by a key that counts here: {names}")
