"""How long an image of 150 MB takes to be fetched from disk, judged, unpacked and sealed, and how much memory.

`python benchmarks/images.py` makes the image from this host's /usr/lib, signs it, and says when each step began.
"""

from __future__ import annotations

import hashlib
import os
import resource
import subprocess
import tempfile
import time
from pathlib import Path

from supervisor.oci import add, keyfile, manifest, seal, sign
from supervisor.oci.document import Table
from supervisor.oci.layout import Folder, Layout, Writer, canonical
from supervisor.oci.reference import Reference, repository
from supervisor.oci.store import Store

NAME = "localhost/benchmark/image"
WANTED = 150_000_000
SOURCES = ("usr/lib/python3.11", "usr/lib/python3", "usr/lib/node_modules", "usr/lib/x86_64-linux-gnu")


def make(folder: Path) -> None:
    """A layout with one gzipped layer of about the wanted size."""
    names: list[str] = []
    size = 0
    for source in SOURCES:
        for path in sorted(Path("/", source).rglob("*")):
            if path.is_file() and not path.is_symlink() and size < WANTED:
                names.append(str(path)[1:])
                size += path.stat().st_size
    (folder / "names").write_text("\n".join(names) + "\n")
    layer, packed = folder / "layer.tar", folder / "layer.tar.gz"
    subprocess.run(["tar", "-cf", layer, "-C", "/", "-T", folder / "names", "--hard-dereference"], check=True)
    with layer.open("rb") as file:
        diff_id = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    subprocess.run(["gzip", "-6", "-k", layer], check=True)
    writer = Writer(folder / "layout")
    described = writer.adopt(packed, f"{manifest.OCI_LAYER}+gzip")
    system, machine = add.this_platform().split("/")
    config: Table = {"os": system, "architecture": machine, "rootfs": {"type": "layers", "diff_ids": [diff_id]}}
    document: Table = {
        "schemaVersion": 2,
        "mediaType": manifest.OCI_MANIFEST,
        "config": writer.blob(canonical(config), manifest.OCI_CONFIG),
        "layers": [described],
    }
    writer.list(writer.blob(canonical(document), manifest.OCI_MANIFEST), "latest")
    print(f"{len(names)} files, {size / 1e6:.0f} MB; layer {int(str(described['size'])) / 1e6:.0f} MB gzipped")


def row(what: str, start: float) -> None:
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3
    print(f"{time.perf_counter() - start:6.2f} s  {what:36} largest child so far {peak:4.0f} MB")


def main() -> None:
    """Make, add, open."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder)
        key = keyfile.generate()
        reference = Reference(repository(NAME))
        found = Layout(Folder(str(folder / "layout"))).only()
        digest = found.digest
        payload = sign.simple_text(NAME, digest)
        sign.write_simple(folder / "layout", payload, sign.signature(key, payload), digest)
        rule = f'[[repository]]\npattern = "{NAME}"\nkeys = ["k"]\n'
        policy = add.Policy("trust.toml", f'trust = 1\n[keys.k]\npublic = """{keyfile.public(key)}"""\n{rule}')
        wanted = add.Wanted(reference, "oci", str(folder / "layout"))
        store = Store(folder / "store")
        start = time.perf_counter()
        record = add.add(store, wanted, policy, lambda text: row(f"  {text:34}", start), lambda _digest: None)
        row("added", start)
        start = time.perf_counter()
        fd = seal.open_sealed(store, record)
        row("open sealed", start)
        print(f"sealed {os.fstat(fd).st_size / 1e6:.0f} MB, own memory {_own():.0f} MB")


def _own() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    main()
