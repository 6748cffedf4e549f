"""What a pinned manifest says there is: the names of a server's items, and the arguments that they declare.

Runs in the planner, on a file whose content a stranger wrote: parsed, never believed. Only for policies that name a
tool or an argument, so that a name which nothing has is found when they are loaded.
"""

from __future__ import annotations

import json

from supervisor.errors import ConfigError
from supervisor.roles.arguments import Item, item

_LISTS = {
    "tools": ("tools", "name"),
    "prompts": ("prompts", "name"),
    "resources": ("resources", "uri"),
    "templates": ("resourceTemplates", "uriTemplate"),
}


def items(path: str) -> list[Item]:
    """Every item of every era; ConfigError for a file that cannot be read."""
    try:
        with open(path, "rb") as file:
            eras = json.loads(file.read())["eras"]
        return [
            item(kind, str(each[key]), each)
            for era in eras.values()
            for kind, (member, key) in _LISTS.items()
            for page in era["pages"].get(kind, [])
            for each in page.get(member, [])
        ]
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ConfigError(f"{path}: not a manifest; pin the server again") from None
