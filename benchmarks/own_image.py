"""Our own image of the filesystem server, built, signed with a new key, and added to a store: for cold_start.

Runs as whoever started the benchmark. It takes half a minute, most of it pip's and apt's.
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

NAME = "localhost/supervisor/filesystem"
RECIPE = Path(__file__).resolve().parent.parent / "images" / "filesystem"


def make(folder: Path) -> Record:
    """The image in `folder/store`."""
    layout, trust, store = folder / "layout", folder / "trust.toml", folder / "store"
    key = making.key()
    (folder / "key").write_text(keyfile.write(key, b""))
    trust.write_text(making.trust(key, pattern=NAME))
    _image("build", RECIPE, "--output", layout)
    _image("sign", f"oci:{layout}", "--as", NAME, "--key", folder / "key")
    added = _image("add", f"oci:{layout}", "--as", NAME, "--trust", trust, "--store", store, "--json")
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
