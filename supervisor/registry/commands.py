"""A command line as somebody wrote it in a folder, made to mean the same from anywhere.

Runs as whoever types `supervisor add` or `adopt`. Looks for files; executes nothing.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from urllib.parse import urlsplit

from supervisor.errors import ConfigError
from supervisor.profile.entry import ServerEntry
from supervisor.profile.links import absolute
from supervisor.profile.program import INTERPRETER, VALUED

SCRIPTS = (".py", ".js", ".mjs", ".cjs", ".ts", ".mts", ".cts", ".jar", ".rb", ".sh")
# what a registry looks commands up in
SEARCH = ServerEntry(name="", origin="", profile="").search_path
_PORTS = {"postgres": 5432, "postgresql": 5432, "mysql": 3306, "redis": 6379, "rediss": 6379, "mongodb": 27017}
_URL = re.compile(r"[a-z][a-z0-9+.-]{1,20}://[^\s'\"<>]+", re.IGNORECASE)


def program(word: str, here: str, search: str) -> str:
    """The command as it is found from here: a registry has neither this folder nor this PATH."""
    if "/" in word:
        return absolute(os.path.join(here, word))
    found = shutil.which(word, path=search)
    return found if found and found != shutil.which(word, path=SEARCH) else word


def argument(word: str, here: str) -> str:
    """An argument that names a file from here names it from anywhere."""
    option, sign, value = word.rpartition("=") if word.startswith("-") else ("", "", word)
    if word.startswith("-") and not option:
        return word
    spelled = value in (".", "..") or value.startswith(("./", "../"))
    if spelled or ("/" in value and "://" not in value) or value.endswith(SCRIPTS):
        path = absolute(os.path.join(here, value))
        if os.path.exists(path):
            return option + sign + path
    return word


def own_words(argv: Sequence[str]) -> int:
    """How many words of a command line are the program itself: an interpreter's script is."""
    if not INTERPRETER.fullmatch(os.path.basename(argv[0])):
        return 1
    position = 1
    while position < len(argv):
        if argv[position] == "-m":
            return position + 2
        if not argv[position].startswith("-") and argv[position] != "run":
            return position + 1
        position += 2 if argv[position] in VALUED else 1
    return position


def paths(word: str) -> list[str]:
    """The files and folders that exist and that a word names, by their absolute paths."""
    value = word.partition("=")[2] if word.startswith("-") else word
    value = value.removeprefix("file://")
    return [value] if value.startswith("/") and "\0" not in value and os.path.exists(value) else []


def reach(word: str) -> list[str]:
    """What a profile has to allow for the URLs in a word; ConfigError for an address inside this machine."""
    found = []
    for each in _URL.findall(word):
        try:
            url = urlsplit(each)
            host, port = url.hostname, url.port
        except ValueError:
            continue
        if not host or url.scheme == "file":
            continue
        if host in ("localhost", "::1") or host.startswith("127."):
            raise ConfigError(f"it talks to {host}, which inside a sandbox is the sandbox itself")
        found.append(_rule(url.scheme.lower(), host, port))
    return found


def _rule(scheme: str, host: str, port: int | None) -> str:
    shown = f"[{host}]" if ":" in host else host
    if ":" in host or host.replace(".", "").isdigit():
        return f"{shown}:{port or (80 if scheme in ('http', 'ws') else _PORTS.get(scheme, 443))}"
    if scheme in ("https", "wss"):
        return f"{shown}:{port or 443}"
    if scheme in ("http", "ws"):
        return f"{shown}:80" if port in (None, 80) else f"http:{shown}:{port}"
    return f"tcp:{shown}:{port or _PORTS.get(scheme, 443)}"
