"""The two eras of the protocol: which one a request belongs to, and what each adds to a message.

Runs unprivileged. Legacy (2024-11-05 to 2025-11-25): a handshake, then a conversation with state. Modern
(2026-07-28): every request carries version and capabilities in its `_meta`. Source: the specification's revisions
of those dates.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from supervisor.proxy import message
from supervisor.proxy.message import Fields

# what is called with a client's answer
Answered = Callable[[Fields], None]

LEGACY = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
MODERN = ("2026-07-28",)

_PREFIX = "io.modelcontextprotocol/"
VERSION = _PREFIX + "protocolVersion"
CAPABILITIES = _PREFIX + "clientCapabilities"
CLIENT = _PREFIX + "clientInfo"
LOG_LEVEL = _PREFIX + "logLevel"
SERVER = _PREFIX + "serverInfo"
SUBSCRIPTION = _PREFIX + "subscriptionId"
_REQUEST_KEYS = (VERSION, CAPABILITIES, CLIENT, LOG_LEVEL)

LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
# what a server may ask of a client, and the capability that says whether it may
ASKED = {"sampling/createMessage": "sampling", "elicitation/create": "elicitation", "roots/list": "roots"}
# what a client says to every server that it talks to
SPREAD = ("notifications/roots/list_changed",)
# how long a client may keep what a legacy server listed: that server would have told, we do not know
_STALE = {"ttlMs": msgspec.Raw(b"0"), "cacheScope": msgspec.Raw(b'"private"')}
_CACHED = ("resources/read", "tools/list", "prompts/list", "resources/list", "resources/templates/list")
_COMPLETE = msgspec.Raw(b'"complete"')


def negotiated(asked: str | None, most: str = LEGACY[-1]) -> str:
    """The version a handshake agrees on: what was asked for if it is known and not above `most`."""
    return asked if asked in LEGACY and asked <= most else most


def problem(meta: Fields) -> tuple[int, str, object] | None:
    """What is wrong with the envelope of a modern request: code, text, data. None when it is right."""
    version = message.text(meta.get(VERSION))
    if version not in MODERN:
        data = {"supported": [*MODERN], "requested": version}
        return message.UNSUPPORTED_VERSION, f"protocol version {version} is not supported", data
    if message.fields(meta.get(CAPABILITIES, message.TWO)) is None:
        return message.INVALID_PARAMS, f'params._meta needs "{CAPABILITIES}"', None
    return None


def stripped(meta: Fields) -> Fields:
    """The `_meta` of a modern request as a legacy server may see it."""
    return {key: value for key, value in meta.items() if key not in _REQUEST_KEYS}


def stamped(meta: Fields, version: str, capabilities: msgspec.Raw, client: msgspec.Raw, level: str) -> Fields:
    """The `_meta` of a legacy request as a modern server wants it."""
    meta = meta | {VERSION: message.raw(version), CAPABILITIES: capabilities, CLIENT: client}
    return meta | {LOG_LEVEL: message.raw(level)} if level else meta


def completed(result: msgspec.Raw, method: str, server: msgspec.Raw | None) -> msgspec.Raw:
    """A legacy server's result as a modern client wants it: what the revision requires, added where it lacks."""
    table = message.fields(result)
    if table is None:
        return result
    table.setdefault("resultType", _COMPLETE)
    if method in _CACHED:
        for key, value in _STALE.items():
            table.setdefault(key, value)
    if server is not None:
        meta = message.fields(table.get("_meta", message.EMPTY)) or {}
        meta.setdefault(SERVER, server)
        table["_meta"] = message.raw(meta)
    return message.raw(table)


def as_discovery(handshake: msgspec.Raw) -> msgspec.Raw:
    """A legacy server's answer to initialize as the answer to server/discover."""
    table = message.fields(handshake) or {}
    capabilities = message.fields(table.get("capabilities", message.EMPTY)) or {}
    capabilities.pop("tasks", None)  # left the core, and has another shape
    found: Fields = {
        "supportedVersions": message.raw(list(MODERN)),
        "capabilities": message.raw(capabilities),
        "resultType": _COMPLETE,
        **_STALE,
    }
    if "instructions" in table:
        found["instructions"] = table["instructions"]
    if "serverInfo" in table:
        found["_meta"] = message.raw({SERVER: table["serverInfo"]})
    return message.raw(found)


def as_handshake(discovery: msgspec.Raw, version: str) -> msgspec.Raw:
    """A modern server's answer to server/discover as the answer to initialize."""
    table = message.fields(discovery) or {}
    meta = message.fields(table.get("_meta", message.EMPTY)) or {}
    unknown = message.raw({"name": "unknown", "version": "0"})
    found: Fields = {
        "protocolVersion": message.raw(version),
        "capabilities": table.get("capabilities", message.EMPTY),
        "serverInfo": meta.get(SERVER, unknown),
    }
    if "instructions" in table:
        found["instructions"] = table["instructions"]
    return message.raw(found)


def server_info(handshake: msgspec.Raw, *, modern: bool) -> msgspec.Raw | None:
    """What a server calls itself in its answer to either handshake."""
    table = message.fields(handshake) or {}
    if modern:
        table = message.fields(table.get("_meta", message.EMPTY)) or {}
    return table.get(SERVER if modern else "serverInfo")
