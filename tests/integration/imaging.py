"""What both callers need to use images: a folder with a policy and a store, and the command line over it."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from supervisor.oci.keyfile import Private
from tests.integration.caller import Caller
from tests.unit.oci import making


@dataclass(frozen=True)
class Bench:
    """A caller with a folder that is its own."""

    caller: Caller
    folder: Path

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def write(self, name: str, text: str, mode: int = 0o600) -> Path:
        """A file that belongs to the caller."""
        path = self.folder / name
        path.write_text(text)
        path.chmod(mode)
        os.chown(path, self.caller.plot.uid, self.caller.plot.gid)
        return path

    def own(self, path: Path) -> Path:
        """Give a tree to the caller."""
        for each in (path, *path.rglob("*")):
            os.chown(each, self.caller.plot.uid, self.caller.plot.gid, follow_symlinks=False)
        return path

    def image(self, action: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """`supervisor image ACTION ...`, with this folder's store and policy."""
        where: list[str | Path] = []
        if action not in ("sign", "build"):
            where += ["--store", self.store]
        if action in ("add", "verify"):
            where += ["--trust", self.folder / "trust.toml"]
        return self.caller.finish(self.caller.command("image", action, *arguments, *where), cwd=self.folder)

    def json(self, action: str, *arguments: str | Path) -> object:
        """Its answer as JSON; the command must succeed."""
        done = self.image(action, *arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def refused(self, said: str, status: int, action: str, *arguments: str | Path) -> None:
        """It must fail with this message and status, and leave the store as it was."""
        before = self.contents()
        done = self.image(action, *arguments)
        assert said in done.stderr, done.stderr
        assert done.returncode == status
        assert self.contents() == before

    def contents(self) -> set[str]:
        """What the store holds now, except its lock."""
        files = (path for path in self.store.rglob("*") if path.is_file() and path.name != "lock")
        return {str(path.relative_to(self.store)) for path in files}


def bench(caller: Caller, name: str) -> Bench:
    """A new folder in the caller's home."""
    folder = caller.plot.home / "tmp" / name
    folder.mkdir(parents=True)
    made = Bench(caller, folder)
    made.own(folder)
    return made


def signed_layout(place: Bench, made: making.Image, key: Private, name: str = making.NAME) -> Path:
    """The image in a layout of the caller's, signed, and a policy that says so."""
    path = making.layout(place.folder / "layout", made)
    making.signed(path, made, key, name)
    place.own(path)
    place.write("trust.toml", making.trust(key, pattern=name))
    return path
