"""images.lock: which digest a tag was when somebody looked and verified it; to be committed beside the code.

Runs in the command line. Nothing here makes an image trusted: what is added by it is verified again.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from supervisor.errors import Refused
from supervisor.oci.reference import Reference, pinned
from supervisor.profile import toml
from supervisor.profile.written import Written, validate

_HEADER = "# Written by supervisor image add; commit it. supervisor image add --locked adds all of it.\nlock = 1\n"


class Entry(Written):
    """One `[[image]]`."""

    name: str
    tag: str = ""
    digest: str

    @property
    def reference(self) -> Reference:
        """What to add; ConfigError when it is no name or no digest."""
        return Reference(pinned(f"{self.name}@{self.digest}").repository, self.digest, self.tag)


class LockText(Written):
    """The whole file."""

    lock: Literal[1]
    image: Annotated[tuple[Entry, ...], Field(strict=False)] = ()


def read(path: Path) -> list[Entry]:
    """The entries; none where there is no file."""
    if not path.exists():
        return []
    source = toml.read(str(path))
    entries = list(validate(source, LockText).image)
    for each in entries:
        each.reference  # noqa: B018 - raises for what is no reference
    return entries


def check(path: Path, name: str, tag: str, digest: str) -> None:
    """Refused when the tag is locked to another digest."""
    for each in read(path):
        if (each.name, each.tag) == (name, tag) and tag and each.digest != digest:
            raise Refused(
                f"{path}: {name}:{tag} is locked to {each.digest}, but is {digest} now; --update takes the new one"
            )


def write(path: Path, name: str, tag: str, digest: str) -> None:
    """Put one entry in, in place of an older one of the same name and tag; the file is replaced whole."""
    kept = [each for each in read(path) if (each.name, each.tag) != (name, tag)]
    entries = sorted([*kept, Entry(name=name, tag=tag, digest=digest)], key=lambda e: (e.name, e.tag, e.digest))
    text = _HEADER
    for each in entries:
        text += f'\n[[image]]\nname = "{each.name}"\n'
        text += f'tag = "{each.tag}"\n' if each.tag else ""
        text += f'digest = "{each.digest}"\n'
    fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(fd)
    os.chmod(temporary, 0o644)
    os.rename(temporary, path)
