"""Records and blobs for tests of the store."""

from __future__ import annotations

from supervisor.oci.reference import digest_of
from supervisor.oci.store import Contents, Layer, Record, Run, Store

LAYER, CONFIG, MANIFEST = b"layer", b"config", b"manifest"


def record(name: str = "registry.example.org/a", layer: bytes = LAYER, sealed: bytes = b"sealed") -> Record:
    """A record of three small blobs and a file system."""
    manifest = digest_of(MANIFEST + layer)
    return Record(
        name=name,
        digest=manifest,
        tag="1.0",
        media_type="",
        platform="linux/amd64",
        manifest=manifest,
        config=digest_of(CONFIG),
        layers=(Layer(digest=digest_of(layer), size=len(layer), compression="", diff_id=digest_of(layer)),),
        documents=(manifest, digest_of(CONFIG)),
        candidates=(),
        signers=("release",),
        predicates=(),
        rule="trust.toml:1",
        run=Run(entrypoint=(), command=(), env=(), folder="/"),
        sealed=digest_of(sealed),
        sealed_size=len(sealed),
        contents=Contents(files=1, folders=0, links=0, bytes=1, dropped={}, case_variants=0),
        added=1,
    )


def put(store: Store, made: Record, layer: bytes = LAYER, sealed: bytes = b"sealed") -> Record:
    """Commit a record with its blobs."""
    made = made.model_copy(update={"sealed": digest_of(sealed), "sealed_size": len(sealed)})
    with store.staging() as staging:
        for data in (layer, CONFIG, MANIFEST + layer, sealed):
            (staging.path / digest_of(data)[7:]).write_bytes(data)
        store.commit(staging, made)
    return made
