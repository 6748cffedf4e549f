"""The registry of servers: `servers.toml`, read all or nothing.

Runs in the planner. Only a file that its owner alone can write is read.
"""

from __future__ import annotations

import os
import pwd

from pydantic import Field

from supervisor.model import Frozen, Name, ServerEntry
from supervisor.profile import toml


class ServerText(Frozen):
    """One `[server.NAME]` table."""

    profile: str
    command: tuple[str, ...] = Field(default=(), strict=False)
    params: dict[str, str] = {}
    ro: tuple[str, ...] = Field(default=(), strict=False)
    rw: tuple[str, ...] = Field(default=(), strict=False)
    env: dict[str, str] = {}
    allow: tuple[str, ...] = Field(default=(), strict=False)
    users: tuple[str, ...] = Field(default=(), strict=False)
    accept_missing: tuple[str, ...] = Field(default=(), strict=False)


class CatalogText(Frozen):
    """The whole file."""

    server: dict[Name, ServerText] = {}


def load(path: str) -> dict[str, ServerEntry]:
    """The servers of a file by name; ConfigError or Refused name file and line."""
    source = toml.read(path)
    written = source.validate(CatalogText)
    try:
        home = pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        home = "/nonexistent"
    entries = {}
    for name, text in written.server.items():
        entries[name] = ServerEntry(
            name=name,
            origin=f"{path}:{toml.line_of(source.text, ('server', name))}",
            cwd=os.path.dirname(os.path.abspath(path)),
            home=home,
            **text.model_dump(),
        )
    return entries
