"""What an image says about how it is started, and how much of that a profile takes up.

Runs in the planner, and as the user in `explain`. Pure: what is in the store, and what was verified
of it, is looked up by supervisor.registry.images.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

from supervisor.errors import ConfigError
from supervisor.model import ImageRoot
from supervisor.profile.entry import Grant
from supervisor.profile.program import Program

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Image(NamedTuple):
    """An image of the store. `account` says who signed it, `origin` the rule by which that counts."""

    root: ImageRoot
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    env: Mapping[str, str]
    folder: str
    account: str
    origin: str

    def program(self, written: tuple[str, ...], instead: tuple[str, ...] = ()) -> Program:
        """Its entry point (or what stands `instead`) with its own arguments, or with those that were written."""
        argv = (*(instead or self.entrypoint), *(written or self.command))
        if not argv:
            raise ConfigError(f"{self.root.name} names no command: write one after --")
        if "\0" in "".join(argv):
            raise ConfigError(f"{self.root.name} names a command with a NUL in it")
        return Program(argv, (), ())

    def variables(self, patterns: tuple[str, ...]) -> dict[str, str]:
        """Its variables whose names the profile lets in."""
        known = {key: value for key, value in self.env.items() if _NAME.fullmatch(key) and "\0" not in value}
        return {key: value for key, value in known.items() if any(fnmatchcase(key, each) for each in patterns)}

    def grants(self, taken: Mapping[str, str], folder: str, origin: str) -> list[Grant]:
        """What is taken from it, and what is not."""
        left = sorted(set(self.env) - set(taken))
        ignored = "its user, ports, volumes and labels" + (f"; variables {', '.join(left)}" if left else "")
        found = [
            Grant(what=f"image {self.root.name} as its root", why=self.account, origin=self.origin),
            Grant(what=f"not taken from the image: {ignored}", why="the profile has its own word", origin=origin),
        ]
        if taken:
            names = f"variables of the image: {', '.join(sorted(taken))}"
            found.append(Grant(what=names, why="names that the profile lets in", origin=origin))
        if folder == self.folder:
            found.append(Grant(what=f"working folder {folder}", why="the image's own", origin=origin))
        return found
