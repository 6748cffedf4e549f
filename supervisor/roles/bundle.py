"""What the planner hands to a gateway about one server: the policies that can concern it, who is in the groups.

Runs in the planner and in the gateway; the monitor passes it on unread. One line of text, deflated, because an
answer of the monitor's is short.
"""

from __future__ import annotations

import base64
import json
import zlib
from typing import NamedTuple

from supervisor.errors import ConfigError

# of the text in one answer, and of what it may become
LONGEST, _LARGEST = 24_000, 1 << 22


class Bundle(NamedTuple):
    """`statements`: (file:line, @id, text). `accounts`: the names of uids; `members`: the uids of groups."""

    server: str
    profile: str
    statements: tuple[tuple[str, str, str], ...]
    accounts: dict[int, str]
    members: dict[str, tuple[int, ...]]


def encode(made: Bundle) -> str:
    """As text; ConfigError when that is too long."""
    written = zlib.compress(json.dumps(made._asdict(), ensure_ascii=False, separators=(",", ":")).encode(), 9)
    text = base64.b64encode(written).decode()
    if len(text) > LONGEST:
        raise ConfigError(
            f'server "{made.server}": its {len(made.statements)} policies and the members of their groups are over '
            f"{LONGEST} bytes even when deflated: let policies name the server that they are for"
        )
    return text


def decode(text: str) -> Bundle:
    """From text; ConfigError when it is of another version of this program."""
    try:
        inflate = zlib.decompressobj()
        table = json.loads(inflate.decompress(base64.b64decode(text), _LARGEST))
        return Bundle(
            str(table["server"]),
            str(table["profile"]),
            tuple((str(origin), str(label), str(each)) for origin, label, each in table["statements"]),
            {int(uid): str(name) for uid, name in table["accounts"].items()},
            {str(name): tuple(int(uid) for uid in uids) for name, uids in table["members"].items()},
        )
    except (ValueError, TypeError, KeyError, AttributeError, zlib.error):
        raise ConfigError("the policies of a server cannot be read: restart the daemon, and this") from None
