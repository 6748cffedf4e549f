"""The verifier's main: a one-shot process without privileges that turns an image's documents into a verdict.

Everything comes on standard input, the text of trust.toml too; it can open nothing, start nothing and reach nobody.
"""

from __future__ import annotations

import base64
import resource
from collections.abc import Callable

from supervisor.errors import Refused
from supervisor.oci import confine, statement, trust, verify
from supervisor.oci.document import Reader, Table
from supervisor.oci.manifest import COMPRESSION
from supervisor.oci.trust import Signer

_MEMORY = 1 << 30
_SECONDS = 60


def no_keyless(_bundle: statement.Bundle, _signers: tuple[Signer, ...], what: str) -> Signer:
    """What is said of certificates by a verifier that was not asked to know any."""
    raise Refused(f"{what}: signed with a certificate, and no [identities.NAME] counts here")


def serve(question: Table, confined: Callable[[], None], keyless: verify.Keyless = no_keyless) -> dict[str, object]:
    """{repository, tag, digest, media_type, platform, documents, candidates, trust} -> what may be unpacked."""
    trust.parse("trust.toml", b"trust = 1\n")  # what this imports late is here before no file can be opened
    confine.drop([])
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
    confined()
    asked = Reader(question, "the verifier's question")
    policy = asked.one("trust")
    rule = trust.parse(policy.text("path"), policy.text("text").encode())
    return _answer(verify.verify(_question(asked), rule, keyless))


def _question(asked: Reader) -> verify.Question:
    return verify.Question(
        repository=asked.text("repository"),
        tag=asked.text("tag"),
        digest=asked.text("digest"),
        media_type=asked.text("media_type"),
        platform=asked.text("platform"),
        documents={digest: base64.b64decode(text) for digest, text in asked.map("documents").items()},
        candidates=tuple(
            verify.Candidate(each.text("target"), each.text("manifest"), bool(each.number("referrer")))
            for each in asked.each("candidates", most=1000)
        ),
    )


def _answer(verified: verify.Verified) -> dict[str, object]:
    image = verified.image
    layers = zip(image.manifest.layers, image.config.diff_ids, strict=True)
    config = image.config
    return {
        "manifest": image.digest,
        "config": image.manifest.config.digest,
        "layers": [
            {
                "digest": layer.digest,
                "size": layer.size,
                "compression": COMPRESSION[layer.media_type],
                "diff_id": diff_id,
            }
            for layer, diff_id in layers
        ],
        "run": {
            "entrypoint": config.entrypoint,
            "command": config.command,
            "env": config.env,
            "folder": config.folder,
        },
        "signers": verified.signers,
        "predicates": verified.predicates,
        "rule": verified.rule,
    }
