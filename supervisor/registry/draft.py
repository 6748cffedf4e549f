"""A registry entry while it is being suggested: what is granted so far, and why, in the words of the report.

Runs as whoever types `supervisor adopt`. Looks at names of files, never into what they hold.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from supervisor.errors import ConfigError, Refused
from supervisor.profile.granted import below, permitted
from supervisor.registry import commands
from supervisor.registry.installed import Machine

# shown to every server, or made anew for it
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/dev", "/proc", "/sys", "/run")


@dataclass
class Draft:
    """`argv` and `env` with every path as it really is. The first `own` words are the program itself."""

    argv: list[str]
    env: dict[str, str]
    machine: Machine
    own: int = 1
    profile: str = "none"
    params: dict[str, str] = field(default_factory=dict)
    ro: list[str] = field(default_factory=list)
    rw: list[str] = field(default_factory=list)
    allow: list[str] = field(default_factory=list)
    why: list[str] = field(default_factory=list)

    @property
    def rest(self) -> list[str]:
        """The program's arguments."""
        return self.argv[self.own :]

    def option(self, *names: str) -> str:
        """The value of the first of these options that is given, or empty."""
        for index, word in enumerate(self.rest):
            name, sign, value = word.partition("=")
            if name in names:
                return value if sign else "".join(self.rest[index + 1 : index + 2])
        return ""

    def real(self) -> None:
        """Replace paths that lead through links: a grant follows none."""
        for index, word in enumerate(self.argv[self.own :], self.own):
            self.argv[index] = self._real(word)
        self.env = {key: self._real(value) for key, value in self.env.items()}

    def _real(self, word: str) -> str:
        for path in commands.paths(word):
            real = os.path.realpath(path)
            if real != os.path.normpath(path):
                self.why.append(f"{path} is a link, or behind one: {real}")
                return word.replace(path, real)
        return word

    def named(self) -> list[str]:
        """The files and folders of the host that its arguments and variables name."""
        values = (value for key, value in self.env.items() if key != "PATH")
        found = [path for word in (*self.rest, *values) for path in commands.paths(word)]
        return [each for each in dict.fromkeys(found) if not any(below(each, system) for system in SYSTEM)]

    def write_in(self, folders: list[str]) -> None:
        """The first may be written as a scope, where nothing can be executed; the others are plain grants."""
        first, *others = folders
        self.profile = "fs-scoped"
        self.params |= {"root": first, "scope": first}
        self.rw += others

    def keep_file(self, path: str, what: str, *, beside: bool) -> None:
        """Let it write one file: with its folder, or alone where the folder is too much and `beside` needs none."""
        folder = os.path.dirname(path)
        if not path.startswith("/") or not os.path.isdir(folder):
            raise ConfigError(f'{what} "{path}": no such folder; name a file in a folder that is there, from /')
        try:
            permitted(folder, what, self.machine.home)
        except Refused:
            if beside or not os.path.isfile(path):
                raise ConfigError(
                    f"{what}: {folder} is too much to grant; move {path} to a folder of its own"
                ) from None
            self.rw.append(path)
            self.why.append(f"it may write {path}, and nothing beside it")
            return
        self.write_in([folder])
        self.why.append(f"it keeps {what} in {folder}")

    def reach_named(self) -> None:
        """Allow the hosts of the URLs that it is given."""
        for word in (*self.rest, *self.env.values()):
            self.allow += [each for each in commands.reach(word) if each not in self.allow]

    def fields(self) -> dict[str, object]:
        """The table for the registry."""
        found: dict[str, object] = {
            "profile": self.profile,
            "command": self.argv,
            "params": self.params,
            "ro": self.ro,
            "rw": self.rw,
            "env": self.env,
            "allow": self.allow,
        }
        return {key: value for key, value in found.items() if value}
