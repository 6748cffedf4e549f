"""What was adopted of a client's file, written down beside the registry so that all of it can be undone.

Pure but for the record's own file. A record holds the text of each place before and after: as long as a place is as
it was left, putting it back is exact; one that was edited meanwhile gets back what was taken from it, no more.
"""

from __future__ import annotations

import hashlib
import os
from typing import Annotated

from pydantic import Field, ValidationError

from supervisor.errors import ConfigError
from supervisor.profile import toml
from supervisor.profile.written import Written, explain
from supervisor.registry import clients, jsonc
from supervisor.registry.jsonc import Object, Splice

FOLDER = "adopted"
LIMIT = 64 << 20
_KEYS = ("command", "args", "env")


class Place(Written):
    """A value in the file: its path of keys, its text before and after, the names of servers that it had."""

    path: tuple[str, ...]
    was: str
    now: str
    servers: tuple[str, ...]
    gateway: bool = False


class Record(Written):
    """Of one file: its places in the order of their adoption, and the servers that were registered for it."""

    version: Annotated[int, Field(ge=1, le=1)] = 1
    file: str
    backup: str
    places: tuple[Place, ...]
    servers: dict[str, dict[str, object]]


def record_path(registry: str, file: str) -> str:
    """Where the record of a file is."""
    name = hashlib.sha256(os.fsencode(file)).hexdigest()[:16]
    return os.path.join(os.path.dirname(registry), FOLDER, f"{name}.json")


def read(path: str) -> Record | None:
    """A record; None when there is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    with open(fd, "rb") as file:
        toml.check_owner(path, os.fstat(fd))
        data = file.read(LIMIT)
    try:
        return Record.model_validate_json(data, strict=False)
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error)[0]}") from None


def others(registry: str, file: str) -> list[Record]:
    """The records of all other files."""
    folder = os.path.join(os.path.dirname(registry), FOLDER)
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    found = [read(os.path.join(folder, name)) for name in names if name.endswith(".json")]
    return [each for each in found if each and each.file != file]


def put_back(text: str, place: Place, *, loose: bool) -> tuple[str, str]:
    """(the text with a place as it was, what could not be put back so; empty if nothing)."""
    node = jsonc.find(jsonc.parse(text, loose=loose), place.path)
    if node is None:
        return text, "is no longer there"
    left = jsonc.parse(place.now, loose=True)
    if text[node.start : node.end] == place.was:
        return text, ""
    if text[node.start : node.end] == place.now or node.plain() == left.plain():
        return jsonc.splice(text, [(node.start, node.end, place.was)]), ""
    before = jsonc.parse(place.was, loose=True)
    if isinstance(node, Object) and isinstance(left, Object) and isinstance(before, Object):
        if place.gateway:
            return _table(text, node, before, left, place)
        return _entry(text, node, before, left, place)
    return text, "is no longer what adopt left: it stays as it is"


def _entry(text: str, node: Object, before: Object, left: Object, place: Place) -> tuple[str, str]:
    if any(_plain(node, key) != _plain(left, key) for key in ("command", "args")):
        return text, "is no longer what adopt left: it stays as it is"
    splices: list[Splice] = []
    missing: list[str] = []
    for key in _KEYS:
        old, new = before.get(key), node.get(key)
        spelled = place.was[old.start : old.end] if old else ""
        if new and old:
            splices.append((new.start, new.end, spelled))
        elif new and key == "args":
            splices += clients.gather(node, {key}, text, "")
        elif old:
            missing.append(f"{clients.spelled(key)}: {spelled}")
    if missing:
        splices += clients.insert(node, text, missing)
    return jsonc.splice(text, splices), "was edited since; its command, arguments and variables are back"


def _table(text: str, node: Object, before: Object, left: Object, place: Place) -> tuple[str, str]:
    """Our own entry out, the servers that it stood for in; whatever else was edited stays."""
    old, there = {each.key for each in before.members}, {each.key for each in node.members}
    back = [
        place.was[each.start : each.value.end]
        for each in before.members
        if each.key in place.servers and each.key not in there
    ]
    own = [
        each.key
        for each in left.members
        if each.key not in old and each.key in there and _plain(node, each.key) == each.value.plain()
    ]
    if own:
        start = next(each.start for each in node.members if each.key == own[0])
        line = text.rfind("\n", 0, start) + 1
        gap = (",\r\n" if "\r\n" in text else ",\n") + text[line:start] if not text[line:start].strip() else ", "
        splices = clients.gather(node, set(own), text, gap.join(back))
    else:
        splices = clients.insert(node, text, back)
    return jsonc.splice(text, splices), "was edited since; its servers are back, the rest stays as it is"


def _plain(node: Object, key: str) -> jsonc.Plain | None:
    found = node.get(key)
    return found.plain() if found else None
