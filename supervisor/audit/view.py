"""What a line of the log says, as plain values: for tables, for the index, for other formats.

Pure; standard library only. A log may have been tampered with: whatever is not where it should be is absent, never
an error.
"""

from __future__ import annotations

import json
import time
from typing import NamedTuple

from supervisor.audit import chain
from supervisor.audit.chain import Line

_DEEPEST = 100
_VERDICTS = {1: "allow", 2: "deny", 99: "hold"}


class Touch(NamedTuple):
    """A file ("file") or a host ("host") that a call touched, or was kept from."""

    kind: str
    name: str
    denied: bool
    detail: str


class Entry(NamedTuple):
    """One record. `time` and `speaker` (uid and pid) are the ledger's own word, everything else the proxy's."""

    kind: str
    seq: int
    time: int
    speaker: tuple[int, int]
    call: str
    user: str
    session: str
    client: str
    server: str
    tool: str
    method: str
    verdict: str
    rule: str
    status: str
    reason: str
    microseconds: int | None
    text: str
    touched: tuple[Touch, ...]
    body: dict[str, object]


def at(value: object, *path: str) -> object:
    """What is there, or None."""
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def text_at(value: object, *path: str) -> str:
    """The text that is there, or ""."""
    found = at(value, *path)
    return found if isinstance(found, str) else ""


def number_at(value: object, *path: str) -> int | None:
    """The whole number that is there, or None."""
    found = at(value, *path)
    return found if type(found) is int and abs(found) < 1 << 62 else None


def entry(line: Line) -> Entry:
    """A line of any kind; of the ledger's own lines only the first four are there, and the text."""
    body = _body(line.body)
    own = line.kind not in chain.PEER_KINDS
    code = number_at(body, "action_id")
    return Entry(
        kind=line.kind,
        seq=line.seq,
        time=line.time,
        speaker=(line.uid, line.pid),
        call=text_at(body, "metadata", "correlation_uid"),
        user=text_at(body, "actor", "user", "uid"),
        session=text_at(body, "actor", "session", "uid"),
        client=text_at(body, "actor", "app_name"),
        server=text_at(body, "api", "service", "name"),
        tool=text_at(body, "unmapped", "tool"),
        method=text_at(body, "unmapped", "method"),
        verdict=_VERDICTS.get(code, "") if code else "",
        rule=text_at(body, "policy", "name"),
        status=text_at(body, "status_code"),
        reason=_reason(body),
        microseconds=number_at(body, "unmapped", "microseconds"),
        text=line.body.decode() if own else _words(body),
        touched=() if own else tuple(_touched(body)),
        body=body,
    )


def _body(written: bytes) -> dict[str, object]:
    """What it says. Half a character, which no database and no file in UTF-8 takes, is a question mark."""
    body = chain.decode(written)
    if b"\\u" not in written:
        return body
    try:
        return chain.decode(json.dumps(body, ensure_ascii=False).encode("utf-8", "replace"))
    except RecursionError:
        return {}


def _reason(body: dict[str, object]) -> str:
    for path in (("status_detail",), ("api", "response", "error_message"), ("message",)):
        if found := text_at(body, *path):
            return found
    return ""


def _words(body: dict[str, object]) -> str:
    """What is searched by text: arguments, answer, reasons."""
    found = [_reason(body), text_at(body, "api", "operation"), text_at(body, "unmapped", "response", "first")]
    _collect(at(body, "api", "request", "data"), found)
    _collect(at(body, "unmapped", "details"), found)
    return " ".join(each for each in found if each)


def _collect(value: object, into: list[str], deep: int = 0) -> None:
    if deep > _DEEPEST:
        return
    if isinstance(value, dict):
        for key, each in value.items():
            into.append(key)
            _collect(each, into, deep + 1)
    elif isinstance(value, list):
        for each in value:
            _collect(each, into, deep + 1)
    elif isinstance(value, str):
        into.append(value)
    elif value is not None and not isinstance(value, bool):
        into.append(str(value))


def _touched(body: dict[str, object]) -> list[Touch]:
    listed, found = body.get("resources"), []
    for each in listed if isinstance(listed, list) else []:
        kind, name = text_at(each, "type"), text_at(each, "name")
        if kind not in ("file", "host") or not name:
            continue
        denied = at(each, "data", "denied") is True
        detail = text_at(each, "data", "mode")
        if kind == "host":
            sent, received = number_at(each, "data", "sent"), number_at(each, "data", "received")
            detail = f"port {number_at(each, 'data', 'port')}, {sent} bytes out, {received} in"
        found.append(Touch(kind, name, denied, detail))
    return found


def clock(microseconds: int) -> str:
    """UTC, to the millisecond (RFC 3339)."""
    whole, rest = divmod(microseconds, 1_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{rest // 1000:03}Z"
