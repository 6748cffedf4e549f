"""What a pinned manifest says there is: the names of a server's items, and the arguments that they declare.

Runs in the planner, on a file whose content a stranger wrote: parsed, never believed. Only for policies that name a
tool or an argument, so that a name which nothing has is found when they are loaded.
"""

from __future__ import annotations

import json
from typing import Any

from supervisor.errors import ConfigError
from supervisor.roles.arguments import Item, item

_LISTS = {
    "tools": ("tools", "name"),
    "prompts": ("prompts", "name"),
    "resources": ("resources", "uri"),
    "templates": ("resourceTemplates", "uriTemplate"),
}


def version(path: str) -> str:
    """What the server calls its version, in its own words; "" where it says nothing."""
    for era in _eras(path).values():
        info = _table(_table(era).get("handshake")).get("serverInfo")
        said = _table(info).get("version")
        if isinstance(said, str):
            return said[:200]
    return ""


def _table(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _eras(path: str) -> dict[str, object]:
    try:
        with open(path, "rb") as file:
            return _table(_table(json.loads(file.read())).get("eras"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ConfigError(f"{path}: not a manifest; pin the server again") from None


def items(path: str) -> list[Item]:
    """Every item of every era; ConfigError for a file that cannot be read."""
    eras: dict[str, Any] = _eras(path)
    try:
        return [
            item(kind, str(each[key]), each)
            for era in eras.values()
            for kind, (member, key) in _LISTS.items()
            for page in era["pages"].get(kind, [])
            for each in page.get(member, [])
        ]
    except (TypeError, KeyError, AttributeError):
        raise ConfigError(f"{path}: not a manifest; pin the server again") from None
