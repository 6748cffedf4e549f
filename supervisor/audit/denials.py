"""What was refused in the calls and events of a log: by policy, a file, a host, a limit, or before anything ran.

Pure; runs as the readers' uid, standard library only. Every word in it may be a stranger's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from supervisor.audit import view
from supervisor.audit.view import Entry, Touch

Kind = Literal["policy", "file", "host", "limit", "start", "answer"]
_LIMIT = re.compile(r"\b(?:limits|session|quota)\.[a-z_]{1,32}\b")
_PORT = re.compile(r"port (\d+)\b")
MOST = 500


class Denial(NamedTuple):
    """`name` is the rule, path, host:port or limit; `mode` of a file; `rule` what would allow it."""

    kind: Kind
    name: str
    mode: str
    rule: str
    reason: str
    server: str
    profile: str
    time: int
    call: str


def denials(entries: Iterable[Entry]) -> list[Denial]:
    """Each once, in the order of the log."""
    found: dict[tuple[object, ...], Denial] = {}
    for entry in entries:
        for each in _of(entry):
            if len(found) < MOST:
                found.setdefault((each.kind, each.name, each.mode, each.server), each)
    return list(found.values())


def _of(entry: Entry) -> Iterator[Denial]:
    if entry.kind == "event":
        yield from _of_event(entry)
        return
    if entry.kind == "intent":
        if entry.verdict in ("deny", "hold"):
            yield _denial(entry, "policy", entry.rule, entry.reason)
        return
    for touch in entry.touched:
        if touch.denied:
            yield _touched(entry, touch)
    limits = view.at(entry.body, "unmapped", "limits")
    named = [each for each in limits if isinstance(each, str)] if isinstance(limits, list) else []
    named += [each for each in _LIMIT.findall(entry.reason) if each not in named]
    for each in named:
        yield _denial(entry, "limit", each, entry.reason)
    if entry.status in ("refused", "failed", "lost") and not named:
        yield _denial(entry, "answer", entry.status, entry.reason)


def _of_event(entry: Entry) -> Iterator[Denial]:
    details = view.at(entry.body, "unmapped", "details")
    what, reason = view.text_at(entry.body, "message"), view.text_at(details, "reason")
    if what == "session.refused":
        yield _denial(entry, "policy", view.text_at(details, "rule"), reason)
    elif what == "session.failed":
        yield _denial(entry, "start", "start", reason)
    elif what == "egress.refused":
        told = view.at(details, "told")
        place = f"{view.text_at(told, 'name')}:{view.text_at(told, 'port')}"
        yield _denial(entry, "host", place, view.text_at(told, "reason"), view.text_at(told, "rule"))
    elif what == "session.ended":
        hit = view.at(details, "limits")
        named = [f"limits.{each}" for each in hit if isinstance(each, str)] if isinstance(hit, list | dict) else []
        for each in dict.fromkeys([*named, *_LIMIT.findall(reason)]):
            yield _denial(entry, "limit", each, reason)


def _denial(entry: Entry, kind: Kind, name: str, reason: str, rule: str = "") -> Denial:
    profile = view.text_at(entry.body, "unmapped", "profile")
    return Denial(kind, name, "", rule, reason, entry.server, profile, entry.time, entry.call)


def _touched(entry: Entry, touch: Touch) -> Denial:
    if touch.kind == "file":
        return _denial(entry, "file", touch.name, "it was opened, and refused")._replace(mode=touch.detail or "r")
    port = _PORT.search(touch.detail)
    place = f"{touch.name}:{port[1] if port else '0'}"
    return _denial(entry, "host", place, "it was refused", "")
