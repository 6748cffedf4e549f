"""What a proxy may write: a closed part of OCSF's API Activity (class 6003), keys sorted, and nothing else.

Pure; standard library only; runs in the ledger. The schema is compiled to a regular expression for each kind of
record, because a parser and a walk over what it found take four times as long. What a call was given, redacted by
whoever wrote it, is the only part without a shape: it is parsed. See audit/record.py, which makes these records,
and the published schema, which the tests hold them against.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import NamedTuple

VERSION = "1.8.0"
CLASS, CATEGORY, PROFILE = 6003, 6, "security_control"
RECORD_LIMIT = 60 * 1024

# possessive: what does not fit is not tried again in pieces, which could take a tenth of a second
_PLAIN = r"[ !#-\[\]-~]*+"
TEXT = rf'"{_PLAIN}(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{{4}}){_PLAIN})*+"'
NUMBER = r"(?:0|[1-9][0-9]{0,14})"
SIGNED = rf"-?{NUMBER}"
FLAG = r"(?:true|false)"
# stands for any JSON, once in a schema, where it must be present
FREE = "\0"
_PRINTABLE = re.compile("[ -~]*")
_NEXT = r'(?:,(?=")|(?=\}))'


class Malformed(ValueError):
    """The record is none that may be written; the message names what is wrong with it."""


def _member(key: str, pattern: str) -> str:
    return f'"{key}":{pattern}{_NEXT}'


def table(needed: dict[str, str], other: dict[str, str] | None = None) -> str:
    """An object of exactly these keys, sorted, of which `needed` must be there."""
    members = {key: _member(key, pattern) for key, pattern in needed.items()}
    members |= {key: f"(?:{_member(key, pattern)})?+" for key, pattern in (other or {}).items()}
    return r"\{" + "".join(members[key] for key in sorted(members)) + r"\}"


def listed(pattern: str) -> str:
    """A list of at most 1,000 of these."""
    return rf"\[(?:{pattern}(?:,{pattern}){{0,999}}+)?+\]"


def one_of(*values: object) -> str:
    """Exactly one of these values."""
    return f"(?:{'|'.join(re.escape(json.dumps(each, separators=(',', ':'))) for each in values)})"


_ACTIVITY = r"(?:[01234]|99)"
_DIGEST = table({"algorithm_id": "3", "value": f"(?P<digest>{TEXT})"})
_METADATA = table(
    {
        "version": one_of(VERSION),
        "product": table({"name": TEXT, "vendor_name": TEXT}, {"version": TEXT}),
        "profiles": one_of([PROFILE]),
        "uid": f"(?P<uid>{TEXT})",
        "correlation_uid": f"(?P<call>{TEXT})",
        "event_code": f"(?P<code>{TEXT})",
    },
    {"is_truncated": FLAG, "untruncated_size": NUMBER},
)
_ACTOR = table(
    {"user": table({"uid": f"(?P<user>{TEXT})"}, {"name": TEXT, "groups": listed(table({"name": TEXT}))})},
    {"session": table({"uid": TEXT}), "app_name": f"(?P<app>{TEXT})"},
)
_ENDPOINT = table({"svc_name": f"(?P<svc>{TEXT})"}, {"ip": TEXT, "port": NUMBER})
_RESPONSE = table({}, {"code": SIGNED, "error_message": TEXT})
_FILE = table({"mode": one_of("r", "w", "rw", "rx", "wx", "rwx")}, {"denied": "true"})
_HOST = table({"port": NUMBER, "sent": NUMBER, "received": NUMBER}, {"denied": "true"})
_TOUCHED = (
    f"(?:{table({'type': one_of('file'), 'name': TEXT, 'data': _FILE})}"
    f"|{table({'type': one_of('host'), 'name': TEXT, 'hostname': TEXT, 'data': _HOST})})"
)
RESOURCES, DURING = listed(_TOUCHED), listed(TEXT)
# what OCSF has no place for
_ABOUT = {
    "tool": TEXT,
    "method": TEXT,
    "profile": TEXT,
    "spec": TEXT,
    "image": TEXT,
    "runtime": TEXT,
    "manifest": TEXT,
    "posture": TEXT,
    "accepted": listed(TEXT),
}


def _api(request: dict[str, str], other: dict[str, str] | None = None) -> str:
    needed = {"operation": TEXT, "service": table({"name": TEXT})}
    return table(needed | {"request": table({"uid": f"(?P<request>{TEXT})"} | request)}, other)


def _record(needed: dict[str, str], other: dict[str, str]) -> str:
    common = {
        "class_uid": str(CLASS),
        "category_uid": str(CATEGORY),
        "activity_id": f"(?P<activity>{_ACTIVITY})",
        "type_uid": f"{CLASS}(?P<type>[0-9]{{2}})",
        "severity_id": "[0-6]",
        "time": f"(?P<time>{NUMBER})",
        "metadata": _METADATA,
        "actor": _ACTOR,
        "src_endpoint": _ENDPOINT,
    }
    return table(common | needed, other)


_INTENT = _record(
    {
        "api": _api({"data": FREE}),
        "action_id": "(?:1|2|99)",
        "disposition_id": "(?:1|2|14)",
        "unmapped": table({"arguments": _DIGEST}, _ABOUT | {"redacted": NUMBER}),
    },
    {"policy": table({"name": TEXT}), "status_detail": TEXT},
)
_OUTCOME = _record(
    {
        "api": _api({}, {"response": _RESPONSE}),
        "status_id": "(?:1|2|99)",
        "status_code": one_of("ok", "failed", "refused", "lost"),
        "duration": f"(?P<duration>{NUMBER})",
        "unmapped": table(
            {
                "microseconds": f"(?P<took>{NUMBER})",
                "attribution": one_of("exact", "window"),
                "files": one_of("all", "part", "none"),
                "response": table({"bytes": f"(?P<size>{NUMBER})", "digest": _DIGEST}, {"first": TEXT}),
            },
            _ABOUT
            | {
                "during": f"(?P<during>{DURING})",
                "limits": listed(TEXT),
                "files_dropped": NUMBER,
                "hosts_dropped": NUMBER,
            },
        ),
    },
    {"resources": f"(?P<resources>{RESOURCES})"},
)
_EVENT = _record({"api": _api({}), "message": TEXT, "unmapped": table({"details": FREE}, _ABOUT)}, {})


class Grammar(NamedTuple):
    """A kind of record: all of it, or what stands before and behind the part without a shape."""

    head: re.Pattern[str]
    tail: re.Pattern[str] | None


class Said:
    """What a record says, by the names in the grammar, in JSON: `user`, `app` and `svc` of who, and what varies."""

    __slots__ = ("_head", "_tail", "free")

    def __init__(self, head: re.Match[str], tail: re.Match[str] | None, free: tuple[int, int]) -> None:
        self._head, self._tail = head, tail
        # where the part without a shape is
        self.free = free

    def _match(self, name: str) -> re.Match[str]:
        return self._tail if self._tail is not None and name in self._tail.re.groupindex else self._head

    def __getitem__(self, name: str) -> str | None:
        value: str | None = self._match(name)[name]
        return value

    def span(self, name: str) -> tuple[int, int]:
        """Where it is in the text; (-1, -1) if it is not there. KeyError: no record of this kind has it."""
        found = self._match(name)
        if name not in found.re.groupindex:
            raise KeyError(name)
        return found.span(name)


KINDS = {"intent": _INTENT, "outcome": _OUTCOME, "event": _EVENT}


@cache
def grammar(kind: str) -> Grammar:
    """Compiled when it is first needed: that takes some 5 ms, and somebody may wait for the first record."""
    head, _, tail = KINDS[kind].partition(FREE)
    return Grammar(re.compile(head), re.compile(tail) if tail else None)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("duplicate key")
    return value


def _refuse(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if value - value != 0:
        raise ValueError(f"{text[:20]} is out of range")
    return value


_scan = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite).raw_decode


def check(kind: str, text: str, start: int = 0) -> int:
    """Where the record of this kind that begins at `start` ends. Malformed: it is none, or not printable ASCII."""
    return read(kind, text, start)[0]


def read(kind: str, text: str, start: int) -> tuple[int, Said]:
    """Also what it says. Outside of the part without a shape the grammar lets nothing but printable ASCII pass."""
    head, tail = grammar(kind)
    first = head.match(text, start)
    if first is None:
        raise Malformed(_suspect(text, start))
    last, free = None, (-1, -1)
    if tail is not None:
        free = first.end(), any_json(text, first.end())
        last = tail.match(text, free[1])
        if last is None:
            raise Malformed(_suspect(text, free[0]))
    end = (last or first).end()
    found = Said(first, last, free)
    if int(found["type"] or 0) != int(first["activity"]):
        raise Malformed("type_uid: not that of its class and activity")
    if found["request"] != found["call"]:
        raise Malformed("correlation_uid: not the call's")
    return end, found


def any_json(text: str, start: int) -> int:
    """Where the JSON value that begins at `start` ends. Malformed: it is none, or not printable ASCII."""
    try:
        end: int = _scan(text, start)[1]
    except (ValueError, RecursionError) as error:
        raise Malformed(str(error)) from None
    if not _PRINTABLE.fullmatch(text, start, end):
        raise Malformed("a character that is not printable ASCII: escape it")
    return end


def _suspect(text: str, start: int) -> str:
    """The first thing that is no record: where keys are sorted and known, the one that is not."""
    return f"an unknown, missing or misplaced key, or a value not of its type, in {text[start : start + 200]!r}"
