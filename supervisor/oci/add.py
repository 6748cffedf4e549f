"""Adding an image, and verifying it again: fetcher, verifier and unpacker in their order, and the store at the end.

Runs as whoever owns the store. No byte of the image is parsed here: workers do that, and everything that they
hand over is hashed again. Nothing is unpacked before the verdict, and nothing is kept without one.
"""

from __future__ import annotations

import base64
import os
import platform as machine
import time
from collections.abc import Callable
from dataclasses import dataclass

from supervisor.errors import Refused, SupervisorError
from supervisor.oci import rules, seal, settings, worker
from supervisor.oci.client import Endpoint
from supervisor.oci.document import Reader, Table, Value
from supervisor.oci.manifest import MAX_DOCUMENT
from supervisor.oci.reference import Reference, digest_of, is_digest, repository
from supervisor.oci.store import Candidate, Contents, Layer, Record, Run, Staging, Store, digest_of_file
from supervisor.profile import load, seccomp

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
_MAX_DOCUMENTS = 1024
_MAX_BYTES = 64 << 20


@dataclass(frozen=True)
class Wanted:
    """What to add and from where; `kind` is registry, oci or archive."""

    reference: Reference
    kind: str = "registry"
    path: str = ""
    signatures: str = ""
    endpoints: tuple[Endpoint, ...] = ()
    platform: str = ""


@dataclass(frozen=True)
class Policy:
    """trust.toml, read by whoever checked who can write it; a private sigstore's root of trust, or ""."""

    path: str
    text: str
    trusted_root: str = ""

    @property
    def worker(self) -> str:
        """Which verifier is needed: certificates want a library that takes its time to import."""
        return "keyless" if "identities" in self.text else "verifier"

    def table(self) -> Table:
        """As the verifier is told of it."""
        return {"path": self.path, "text": self.text, "trusted_root": self.trusted_root}

    def basis(self, name: str) -> str:
        """What a verdict about a repository's images stands on."""
        return rules.basis(self.path, self.text.encode(), name, self.trusted_root)


def this_platform() -> str:
    """What images are chosen for here."""
    name = machine.machine()
    return f"linux/{_MACHINES.get(name, name)}"


def add(
    store: Store, wanted: Wanted, policy: Policy, progress: worker.Progress, accept: Callable[[str], None]
) -> Record:
    """The whole way; `accept` is shown the digest before anything is verified, and may raise."""
    with store.staging() as staging:
        question = _source(wanted, staging)
        found = worker.ask("fetch", question, worker_filter(wanted.kind), fds=[staging.fd], progress=progress)
        digest = found.text("digest")
        if not is_digest(digest):
            raise SupervisorError("the image fetcher named no digest")
        accept(digest)
        progress("verifying")
        documents = found.texts("documents", most=_MAX_DOCUMENTS)
        contents: dict[str, bytes] = {}
        for each in documents:
            contents[each] = staging.read(each, MAX_DOCUMENT)
            if sum(map(len, contents.values())) > _MAX_BYTES:
                raise Refused(f"{wanted.reference}: manifests and signatures of more than {_MAX_BYTES} bytes")
        candidates = tuple(Candidate.model_validate(each.table) for each in found.each("candidates", most=1000))
        asked = _Asked(wanted, digest, found.text("media_type"), contents, candidates)
        verdict = worker.ask(policy.worker, asked.question(policy), worker_filter(), progress=progress)
        layers = tuple(Layer.model_validate(each.table) for each in verdict.each("layers", most=1000))
        _bring(store, staging, question, layers, wanted=wanted, digest=digest, progress=progress)
        sealed, size, made = _unpack(store, staging, layers, progress)
        record = asked.record(verdict, policy, layers, sealed=sealed, size=size, made=made)
        store.commit(staging, record)
        return record


def worker_filter(kind: str = "") -> bytes:
    """The system calls of a worker: what is open already, and for a registry the network."""
    groups = ("image-worker", "image-network") if kind == "registry" else ("image-worker",)
    found = seccomp.load_groups(load.share_folder("profiles") / "syscalls", groups)
    return seccomp.compile_filter(found, write_execute=False)


def _source(wanted: Wanted, staging: Staging) -> Table:
    name = wanted.reference
    return {
        "kind": wanted.kind,
        "path": wanted.path,
        "signatures": wanted.signatures,
        "repository": str(name.repository),
        "tag": name.tag,
        "digest": name.digest,
        "platform": wanted.platform or this_platform(),
        "endpoints": [settings.question(each) for each in wanted.endpoints],
        "staging": staging.fd,
    }


def _bring(
    store: Store,
    staging: Staging,
    question: Table,
    layers: tuple[Layer, ...],
    *,
    wanted: Wanted,
    digest: str,
    progress: worker.Progress,
) -> None:
    """The layers that the verdict names and the store lacks; then the tag must still be what it was."""
    missing = {each.digest: each.size for each in layers if not store.has(each.digest)}
    if not missing and not (wanted.reference.tag and wanted.kind == "registry"):
        return
    blobs: list[Value] = [{"digest": each, "size": size} for each, size in missing.items()]
    again = worker.ask(
        "fetch", {**question, "blobs": blobs}, worker_filter(wanted.kind), fds=[staging.fd], progress=progress
    )
    if wanted.reference.tag and (now := again.text("digest")) and now != digest:
        raise Refused(
            f"{wanted.reference.repository}:{wanted.reference.tag} was {digest} at first and is {now} now; "
            "if the tag was moved meanwhile, add it again"
        )


def _unpack(
    store: Store, staging: Staging, layers: tuple[Layer, ...], progress: worker.Progress
) -> tuple[str, int, Contents]:
    """(digest, size, contents) of the sealed file system, which stands in the staging folder then."""
    opened: list[int] = []
    memory = seal.memory_file("image")
    try:
        question: list[Value] = []
        for layer in layers:
            opened.append(store.open(layer.digest) if store.has(layer.digest) else staging.open(layer.digest))
            question.append({"fd": opened[-1], **layer.model_dump()})
        asked: Table = {"layers": question, "output": memory, "limits": {}}
        made = worker.ask("unpacker", asked, worker_filter(), fds=[*opened, memory], progress=progress)
        contents = Contents.model_validate(made.table)
        digest = seal.seal(memory)
        size = os.fstat(memory).st_size
        _keep(staging, memory, digest, size)
    finally:
        for fd in (*opened, memory):
            os.close(fd)
    return digest, size, contents


def _keep(staging: Staging, memory: int, digest: str, size: int) -> None:
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    out = os.open(digest[7:], flags, 0o600, dir_fd=staging.fd)
    try:
        at = 0
        while at < size:
            at += os.sendfile(out, memory, at, size - at)
    finally:
        os.close(out)


@dataclass(frozen=True)
class _Asked:
    """An image whose documents are here."""

    wanted: Wanted
    digest: str
    media_type: str
    documents: dict[str, bytes]
    candidates: tuple[Candidate, ...]

    def question(self, policy: Policy) -> Table:
        documents: Table = {key: base64.b64encode(data).decode() for key, data in self.documents.items()}
        return {
            "repository": str(self.wanted.reference.repository),
            "tag": self.wanted.reference.tag,
            "digest": self.digest,
            "media_type": self.media_type,
            "platform": self.wanted.platform or this_platform(),
            "documents": documents,
            "candidates": [each.model_dump() for each in self.candidates],
            "trust": policy.table(),
        }

    def record(
        self, verdict: Reader, policy: Policy, layers: tuple[Layer, ...], *, sealed: str, size: int, made: Contents
    ) -> Record:
        return Record(
            name=str(self.wanted.reference.repository),
            digest=self.digest,
            tag=self.wanted.reference.tag,
            media_type=self.media_type,
            platform=self.wanted.platform or this_platform(),
            manifest=verdict.text("manifest"),
            config=verdict.text("config"),
            layers=layers,
            documents=tuple(self.documents),
            candidates=self.candidates,
            signers=tuple(verdict.texts("signers")),
            predicates=tuple(verdict.texts("predicates")),
            rule=verdict.text("rule"),
            policy=policy.path,
            basis=policy.basis(str(self.wanted.reference.repository)),
            run=Run.model_validate(verdict.one("run").table),
            sealed=sealed,
            sealed_size=size,
            contents=made,
            added=int(time.time()),
        )


def verify(store: Store, record: Record, policy: Policy, progress: worker.Progress) -> tuple[str, ...]:
    """Judge a stored image again, by the policy of now, from what is in the store now; who signed it.

    Refused when the verdict has changed, or a blob has. A good verdict is written down.
    """
    contents = {}
    for digest in record.documents:
        with os.fdopen(store.open(digest), "rb") as file:
            contents[digest] = file.read(MAX_DOCUMENT + 1)
        if digest_of(contents[digest]) != digest:
            raise Refused(f"{record.reference}: {digest} in {store.path} has been changed")
    progress("verifying")
    wanted = Wanted(Reference(repository(record.name), record.digest, record.tag), platform=record.platform)
    asked = _Asked(wanted, record.digest, record.media_type, contents, record.candidates)
    verdict = worker.ask(policy.worker, asked.question(policy), worker_filter(), progress=progress)
    layers = tuple(Layer.model_validate(each.table) for each in verdict.each("layers", most=1000))
    if layers != record.layers or verdict.text("manifest") != record.manifest:
        raise Refused(f"{record.reference}: its record names other layers than its manifest; add it again")
    for number, digest in enumerate([*(each.digest for each in layers), record.sealed]):
        progress(f"hashing {number + 1} of {len(layers) + 1}")
        fd = store.open(digest)
        try:
            if (found := digest_of_file(fd)) != digest:
                raise Refused(f"{record.reference}: {digest} in {store.path} is {found} now; add it again")
        finally:
            os.close(fd)
    signers, basis = tuple(verdict.texts("signers")), policy.basis(record.name)
    judged = {"signers": signers, "predicates": tuple(verdict.texts("predicates")), "rule": verdict.text("rule")}
    store.update(record.model_copy(update=judged | {"policy": policy.path, "basis": basis}))
    return signers
