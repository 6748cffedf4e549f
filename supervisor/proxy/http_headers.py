"""HTTP headers that must agree with the body: Mcp-Method, Mcp-Name, Mcp-Param-*, and who may ask at all.

Runs unprivileged. Pure. Source: the transports page of revision 2026-07-28 (SEP-2243), RFC 9110.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import lru_cache
from typing import NamedTuple

import msgspec

from supervisor.proxy import eras, message
from supervisor.proxy.message import Fields

VERSION, METHOD, NAME = b"mcp-protocol-version", b"mcp-method", b"mcp-name"
SESSION, LAST_EVENT = b"mcp-session-id", b"last-event-id"
PARAM = b"mcp-param-"
MISMATCH = -32020
# the member of params that Mcp-Name repeats
NAMED = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "tasks/get": "taskId",
    "tasks/update": "taskId",
    "tasks/cancel": "taskId",
}
_SENTINEL = re.compile(r"=\?base64\?(.*)\?=")
_SIMPLE = {"string", "integer", "boolean"}
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
Headers = Mapping[bytes, list[bytes]]


class Mismatch(NamedTuple):
    """What of the headers does not agree with the body."""

    code: int
    said: str


def once(headers: Headers, name: bytes) -> str | None:
    """A header's one value without the white space around it; None when it is missing, or there twice."""
    values = headers.get(name, [])
    return values[0].decode("latin-1").strip() if len(values) == 1 else None


def decoded(value: str | None) -> str | None:
    """A header's value as it was meant: the base64 sentinel undone; None when that is broken."""
    found = _SENTINEL.fullmatch(value) if value is not None else None
    if value is None or found is None:
        return value
    try:
        data = base64.b64decode(found[1], validate=True)
        canonical = base64.b64encode(data).decode() == found[1]
        return data.decode() if canonical else None
    except (binascii.Error, UnicodeDecodeError):
        return None


def compare(headers: Headers, method: str, params: Fields, meta: Fields) -> Mismatch | None:
    """Whether the headers of a modern request say what its body says."""
    version = message.text(meta.get(eras.VERSION))
    if once(headers, VERSION) != version:
        return Mismatch(MISMATCH, "MCP-Protocol-Version is not the version in the body")
    if once(headers, METHOD) != method:
        return Mismatch(MISMATCH, "Mcp-Method is not the method in the body")
    member = NAMED.get(method)
    if member and decoded(once(headers, NAME)) != message.text(params.get(member)):
        return Mismatch(MISMATCH, f"Mcp-Name is not params.{member} in the body")
    return None


def mirrored(tool: msgspec.Raw) -> dict[tuple[str, ...], bytes]:
    """The arguments of a tool that its schema wants repeated in headers: path -> header."""
    schema = json.loads(bytes(tool)).get("inputSchema")
    return dict(_annotated(schema, ())) if b"x-mcp-header" in bytes(tool) else {}


def _annotated(schema: object, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], bytes]]:
    properties = schema.get("properties") if isinstance(schema, dict) else None
    for name, each in properties.items() if isinstance(properties, dict) else ():
        if not isinstance(each, dict):
            continue
        token = each.get("x-mcp-header")
        if isinstance(token, str) and each.get("type") in _SIMPLE:
            yield (*path, name), PARAM + token.lower().encode()
        yield from _annotated(each, (*path, name))


def compare_arguments(
    headers: Headers, wanted: Mapping[tuple[str, ...], bytes], arguments: msgspec.Raw | None
) -> Mismatch | None:
    """Whether Mcp-Param-* headers repeat the arguments that the tool's schema names."""
    if not wanted:
        return None
    try:
        table = json.loads(bytes(arguments)) if arguments is not None else {}
    except (ValueError, RecursionError):
        return Mismatch(MISMATCH, "the arguments in the body are too deep, or have a number too long, to compare")
    for path, header in wanted.items():
        value: object = table
        for name in path:
            value = value.get(name) if isinstance(value, dict) else None
        given = headers.get(header, [])
        if value is None and not given:
            continue
        said = decoded(given[0].decode("latin-1").strip()) if len(given) == 1 else None
        if said is None or not _agree(value, said):
            return Mismatch(MISMATCH, f"{header.decode()} is not the argument {'.'.join(path)} in the body")
    return None


def _agree(value: object, said: str) -> bool:
    if isinstance(value, bool):
        return said == ("true" if value else "false")
    if isinstance(value, int | float):
        try:
            # a whole number has more digits than a float holds
            return (Decimal if isinstance(value, int) else float)(said) == value
        except (ArithmeticError, ValueError):
            return False
    return value == said


class Visitors:
    """Which Host and Origin a request may carry: a page of another site must not reach us by a rebound name."""

    def __init__(self, hosts: tuple[str, ...] = (), origins: tuple[str, ...] = ()) -> None:
        self._hosts = {*_LOOPBACK, *(each.lower() for each in hosts)}
        self._origins = {each.lower() for each in origins}

    def refused(self, headers: Headers, *, local: bool) -> str:
        """Why a request is refused, or nothing. `local`: it came over a Unix socket, which no page reaches."""
        host = once(headers, b"host")
        if not local and (host is None or _name(host.lower()) not in self._hosts):
            return f"Host {host!r} is none of this endpoint's; serve --allow-host NAME adds one"
        if b"origin" not in headers:
            return ""
        origin = (once(headers, b"origin") or "").lower()
        if origin in self._origins or self._own(origin):
            return ""
        return f"Origin {origin!r} may not use this endpoint; serve --allow-origin ORIGIN adds one"

    def _own(self, origin: str) -> bool:
        scheme, sign, rest = origin.partition("://")
        return bool(sign) and scheme in ("http", "https") and _name(rest) in self._hosts


def _name(host: str) -> str:
    """A host without its port."""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host


def accepts(headers: Headers) -> tuple[bool, bool]:
    """Whether the client takes JSON, and whether it takes a stream of events."""
    return _accepted(b",".join(headers.get(b"accept", [b"*/*"])))


def is_json(headers: Headers) -> bool:
    """Whether the body is said to be JSON."""
    kinds = headers.get(b"content-type", [])
    return len(kinds) == 1 and kinds[0].partition(b";")[0].strip().lower() == b"application/json"


@lru_cache(maxsize=64)
def _accepted(written: bytes) -> tuple[bool, bool]:
    listed = written.lower().decode("latin-1")
    kinds = {each.partition(";")[0].strip() for each in listed.split(",")}
    return (
        bool(kinds & {"application/json", "application/*", "*/*"}),
        bool(kinds & {"text/event-stream", "text/*", "*/*"}),
    )
