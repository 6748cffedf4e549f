"""Servers that are well known: what each needs, by the name of its program or package.

Runs as whoever types `supervisor adopt`. Data, and a function for each kind of need.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from glob import escape, iglob
from os.path import dirname, realpath

from supervisor.errors import ConfigError
from supervisor.profile.links import read
from supervisor.registry import commands
from supervisor.registry.draft import Draft

_NAME = re.compile(r"(?:@modelcontextprotocol/server-|mcp[-_]server[-_])([a-z0-9_-]+)")


def identify(draft: Draft) -> str:
    """The short name of a known server, or empty."""
    for word in (*draft.argv[: draft.own], realpath(draft.argv[0])):
        found = _NAME.search(word)
        name = found[1].replace("_", "-") if found else ""
        if name in KNOWN:
            return name
    return ""


def _filesystem(draft: Draft) -> None:
    folders = []
    for word in draft.rest:
        if not word.startswith("-") and not commands.paths(word):
            raise ConfigError(f"the folder {word} is not there")
        folders += commands.paths(word)
    if not folders:
        raise ConfigError("it names no folder, and would ask the client for some; write one behind its command")
    draft.write_in(folders)
    draft.why.append("it reads and writes the folders that it names")


def _memory(draft: Draft) -> None:
    path = draft.env.get("MEMORY_FILE_PATH", "")
    if not path:
        raise ConfigError(
            "it would keep its memory in its own package; set MEMORY_FILE_PATH in its env to a file in a "
            "folder of its own"
        )
    draft.keep_file(path, "its memory", beside=False)


def _git(draft: Draft) -> None:
    path = draft.option("--repository", "-r")
    if not path or not os.path.isdir(path):
        raise ConfigError(f"the repository {path} is not there" if path else "name its repository: --repository")
    draft.write_in([path])
    draft.why.append("it reads and writes the repository that it names; hooks in it cannot run")


def _sqlite(draft: Draft) -> None:
    path = draft.option("--db-path")
    if not path:
        raise ConfigError("name its database: --db-path")
    # a journal is made beside the database
    draft.keep_file(path, "its database", beside=True)


def _fetch(draft: Draft) -> None:
    draft.profile = "net-allowlist"
    draft.why.append('no host is allowed yet: write those it may fetch from into allow = ["example.com:443"]')
    prefix = dirname(dirname(draft.argv[0]))
    sources = iglob(f"{escape(prefix)}/lib/python3*/site-packages/mcp_server_fetch/__init__.py")
    option = "--allow-private-ips"
    if option not in draft.argv and any(option in read(each) for each in sources):
        draft.argv.append(option)
        draft.why.append(f"{option}: names resolve to the sandbox's own addresses; the broker refuses private ones")


def _nothing(draft: Draft) -> None:
    draft.why.append("it needs no file and no network")


def _api(*hosts: str) -> Callable[[Draft], None]:
    def suggest(draft: Draft) -> None:
        draft.profile = "net-allowlist"
        draft.allow += hosts
        draft.why.append(f"it talks to {', '.join(hosts)}")

    return suggest


KNOWN: dict[str, Callable[[Draft], None]] = {
    "filesystem": _filesystem,
    "memory": _memory,
    "git": _git,
    "sqlite": _sqlite,
    "fetch": _fetch,
    **dict.fromkeys(("time", "sequential-thinking", "everything"), _nothing),
    "brave-search": _api("api.search.brave.com:443"),
    "github": _api("api.github.com:443"),
    "google-maps": _api("maps.googleapis.com:443"),
    "slack": _api("slack.com:443"),
}
