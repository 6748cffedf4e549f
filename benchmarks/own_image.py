"""Our own images, built, signed with a new key, and added to a store: for benchmarks.

Runs as whoever started the benchmark. An image takes half a minute, most of it pip's and apt's.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from supervisor.oci import keyfile
from supervisor.oci.store import Record
from supervisor.profile.entry import ServerEntry
from supervisor.registry.images import Found, find
from tests.unit.oci import making

RECIPES = Path(__file__).resolve().parent.parent / "images"


def make(folder: Path, name: str = "filesystem") -> Record:
    """The image in `folder/store`, from the layout `folder/layout`, which is built if it is not there."""
    layout, trust, store = folder / "layout", folder / "trust.toml", folder / "store"
    full, key = f"localhost/supervisor/{name}", making.key()
    (folder / "key").write_text(keyfile.write(key, b""))
    trust.write_text(making.trust(key, pattern=full))
    if not layout.exists():
        _image("build", RECIPES / name, "--output", layout)
    _image("sign", f"oci:{layout}", "--as", full, "--key", folder / "key")
    added = _image("add", f"oci:{layout}", "--as", full, "--trust", trust, "--store", store, "--json")
    return Record.model_validate_json(added)


def found(entry: ServerEntry) -> Found:
    """What the planner finds of it."""
    answer = find(entry)
    assert answer
    return answer


def _image(*arguments: str | Path) -> str:
    argv = [str(Path(sys.executable).parent / "supervisor"), "image", *map(str, arguments)]
    environment = os.environ | {"COSIGN_PASSWORD": ""}
    return subprocess.run(argv, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
