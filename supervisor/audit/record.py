"""From plain values to records of the audit log: OCSF API Activity, redacted, bounded, in one spelling.

Runs in the proxy, which knows what a call was; the ledger checks the shape (audit/schema.py) and adds who spoke. An
intent says what will be done and by whose leave, an outcome what came of it; both carry the call's id. Nothing here
fails for what a client or a server said: what cannot be written as it is, is written as what it was.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

import msgspec

from supervisor.audit import schema
from supervisor.audit.redact import MARK, Redactor

VERSION = "0.1.0"
Value = dict[str, object]

_TEXT = 1024
_ARGUMENTS = 16 * 1024
_TOUCHED = 24 * 1024
_MOST_TOUCHED = 500
_FIRST = 4 * 1024
_PRODUCT: Value = {"name": "supervisor", "vendor_name": "supervisor", "version": VERSION}
_ACTION = {"allow": (1, 1, 1), "deny": (2, 2, 3), "hold": (99, 14, 1)}
_SHA256 = 3

# outcomes of a call as OCSF has them: success, failure, other
_STATUS: dict[str, Value] = {
    "ok": {"status_id": 1, "status_code": "ok"},
    "failed": {"status_id": 2, "status_code": "failed", "severity_id": 2},
    "refused": {"status_id": 2, "status_code": "refused", "severity_id": 3},
    "lost": {"status_id": 99, "status_code": "lost", "severity_id": 3},
}
_EXAMINED = 10_000

_encoder = msgspec.json.Encoder(order="sorted")


@dataclass(frozen=True)
class Call:
    """What intent and outcome say alike. `user` is "uid:1000" or a token's subject; digests are SHA-256 in hex.

    `activity` is OCSF's: 1 create, 2 read, 3 update, 4 delete, 99 other.
    """

    call: str
    user: str
    session: str
    client: str
    server: str
    tool: str
    method: str = "tools/call"
    groups: tuple[str, ...] = ()
    transport: str = "stdio"
    address: str = ""
    port: int = 0
    activity: int = 99
    profile: str = ""
    spec: str = ""
    image: str = ""
    manifest: str = ""
    posture: str = ""
    accepted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Decision:
    """Who let it pass, or not: the rule, and where it stands in `reason`."""

    outcome: Literal["allow", "deny", "hold"] = "allow"
    rule: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Opened:
    """A file that was opened, or was not let be opened: `mode` is "r", "w" or "rw"."""

    path: str
    mode: str = "r"
    denied: bool = False


@dataclass(frozen=True)
class Reached:
    """A host that was reached, or was not let be reached, and the bytes that went each way."""

    host: str
    port: int
    sent: int = 0
    received: int = 0
    denied: bool = False


@dataclass(frozen=True)
class Answer:
    """What came back: `status` as the client saw it, `code` of a JSON-RPC error; `first` bytes if policy says so.

    Of `content` size and digest are written down, nothing else.
    """

    status: Literal["ok", "failed", "refused", "lost"] = "ok"
    code: int = 0
    message: str = ""
    content: bytes = b""
    first: int = 0


@dataclass(frozen=True)
class Touched:
    """What a call touched. `attribution` is "exact", or "window" for "during these calls" (`during`)."""

    files: Sequence[Opened] = ()
    hosts: Sequence[Reached] = ()
    attribution: str = "exact"
    during: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()


_PLAIN = Redactor()
_ALLOWED, _OK, _NOTHING = Decision(), Answer(), Touched()


def digest(data: bytes) -> Value:
    """A fingerprint, as OCSF has it."""
    return {"algorithm_id": _SHA256, "value": sha256(data).hexdigest()}


def _cut(text: str, most: int = _TEXT) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _encode(value: object) -> bytes:
    """ASCII, keys sorted."""
    try:
        data = _encoder.encode(value)
        if data.isascii() and b"\x7f" not in data:
            return data
    except UnicodeEncodeError:
        pass  # half of a surrogate pair, which JSON can hold and UTF-8 cannot
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.replace("\x7f", "\\u007f").encode("ascii")


def _base(call: Call, code: str, redactor: Redactor) -> Value:
    source: Value = {"svc_name": call.transport}
    if call.address:
        source |= {"ip": _cut(call.address), "port": call.port}
    user: Value = {"uid": _cut(call.user)}
    if call.groups:
        user["groups"] = [{"name": _cut(each)} for each in call.groups[:100]]
    return {
        "class_uid": schema.CLASS,
        "category_uid": schema.CATEGORY,
        "activity_id": call.activity,
        "type_uid": schema.CLASS * 100 + call.activity,
        "severity_id": 1,
        "time": time.time_ns() // 1_000_000,
        "metadata": _metadata(call, code),
        "actor": {"user": user, "session": {"uid": call.session}, "app_name": redactor.text(_cut(call.client))},
        "src_endpoint": source,
        "api": _api(call, redactor),
    }


def _metadata(call: Call, code: str, size: int = 0) -> Value:
    made: Value = {
        "version": schema.VERSION,
        "product": _PRODUCT,
        "profiles": [schema.PROFILE],
        "uid": f"{call.call}.{code}",
        "correlation_uid": call.call,
        "event_code": code,
    }
    return made | {"is_truncated": True, "untruncated_size": size} if size else made


def _api(call: Call, redactor: Redactor, data: Value | None = None, response: Value | None = None) -> Value:
    made: Value = {
        "operation": redactor.text(_cut(f"{call.method} {call.tool}".rstrip())),
        "service": {"name": _cut(call.server)},
        "request": {"uid": call.call} if data is None else {"uid": call.call, "data": data},
    }
    return made if response is None else made | {"response": response}


def _about(call: Call, redactor: Redactor) -> Value:
    named = {
        "tool": redactor.text(_cut(call.tool)),
        "method": _cut(call.method),
        "profile": _cut(call.profile),
        "spec": call.spec,
        "image": _cut(call.image),
        "manifest": call.manifest,
        "posture": _cut(call.posture),
    }
    found: Value = {name: value for name, value in named.items() if value}
    if call.accepted:
        found["accepted"] = [_cut(each) for each in call.accepted[:100]]
    return found


def _arguments(raw: bytes, redactor: Redactor) -> tuple[Value, int, int]:
    """The arguments as they may be written, their size if that is not all of them, how much was redacted."""
    try:
        given = msgspec.json.decode(raw or b"{}")
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        given = {"unparsed": raw.decode("utf-8", "replace")}
    clean = redactor.clean(given)
    data = _encode(clean)
    redacted = data.count(MARK.encode())
    if len(data) > _ARGUMENTS:
        return {"truncated": data[: _ARGUMENTS - 64].decode("ascii")}, len(data), redacted
    return clean if isinstance(clean, dict) else {"value": clean}, 0, redacted


def intent(call: Call, arguments: bytes, decision: Decision = _ALLOWED, redactor: Redactor = _PLAIN) -> bytes:
    """What is about to be done, or was refused: `arguments` as the client sent them, JSON."""
    data, size, redacted = _arguments(arguments, redactor)
    about = _about(call, redactor) | {"arguments": digest(arguments)}
    if redacted:
        about["redacted"] = redacted
    made = _base(call, "intent", redactor) | _decided(decision, redactor)
    made |= {"metadata": _metadata(call, "intent", size), "api": _api(call, redactor, data), "unmapped": about}
    return _encode(made)


def _decided(decision: Decision, redactor: Redactor) -> Value:
    action, disposition, severity = _ACTION[decision.outcome]
    made: Value = {"action_id": action, "disposition_id": disposition, "severity_id": severity}
    if decision.rule:
        made["policy"] = {"name": _cut(decision.rule)}
    if decision.reason:
        made["status_detail"] = _cut(redactor.text(decision.reason))
    return made


def outcome(
    call: Call, microseconds: int, answer: Answer = _OK, touched: Touched = _NOTHING, redactor: Redactor = _PLAIN
) -> bytes:
    """What came of a call that took so long."""
    response: Value = {"code": answer.code} if answer.code else {}
    if answer.message:
        response["error_message"] = _cut(redactor.text(answer.message))
    about = _about(call, redactor) | {"microseconds": microseconds, "response": _response(answer, redactor)}
    resources, dropped = _resources(touched, redactor)
    about |= dropped | {"attribution": touched.attribution}
    about |= {"during": [*touched.during[:100]]} if touched.during else {}
    about |= {"limits": [_cut(each) for each in touched.limits[:100]]} if touched.limits else {}
    made = _base(call, "outcome", redactor) | _STATUS[answer.status] | {"duration": microseconds // 1000}
    made |= {"api": _api(call, redactor, None, response), "unmapped": about}
    if resources:
        made["resources"] = resources
    return _encode(made)


def _response(answer: Answer, redactor: Redactor) -> Value:
    made: Value = {"bytes": len(answer.content), "digest": digest(answer.content)}
    if answer.first:
        # cleaned before it is cut: a secret that is cut in two is no longer known for one
        text = redactor.text(answer.content.decode("utf-8", "replace"))
        made["first"] = text[: min(answer.first, _FIRST)]
    return made


def _resources(touched: Touched, redactor: Redactor) -> tuple[list[Value], Value]:
    """As many of the files and hosts as fit, denials first, and how many did not."""
    found: list[Value] = []
    room, dropped = _TOUCHED, {"files_dropped": 0, "hosts_dropped": 0}
    hosts = [(not each.denied, "hosts_dropped", _reached(each)) for each in touched.hosts[:_EXAMINED]]
    files = [(not each.denied, "files_dropped", _opened(each, redactor)) for each in touched.files[:_EXAMINED]]
    dropped["hosts_dropped"] = len(touched.hosts) - len(hosts)
    dropped["files_dropped"] = len(touched.files) - len(files)
    for _, counter, made in sorted(hosts + files, key=lambda each: each[0]):
        size = len(_encode(made))
        if size <= room and len(found) < _MOST_TOUCHED:
            room -= size
            found.append(made)
        else:
            dropped[counter] += 1
    return found, {name: count for name, count in dropped.items() if count}


def _opened(opened: Opened, redactor: Redactor) -> Value:
    data: Value = {"mode": opened.mode} | ({"denied": True} if opened.denied else {})
    return {"type": "file", "name": redactor.text(opened.path), "data": data}


def _reached(reached: Reached) -> Value:
    data: Value = {"port": reached.port, "sent": reached.sent, "received": reached.received}
    data |= {"denied": True} if reached.denied else {}
    return {"type": "host", "name": _cut(reached.host), "hostname": _cut(reached.host), "data": data}


def event(call: Call, what: str, details: Value, redactor: Redactor = _PLAIN) -> bytes:
    """What is no call: `what` is its name ("approval.granted"), `details` what there is to say of it."""
    clean = redactor.clean(details)
    if len(_encode(clean)) > _ARGUMENTS:
        clean = {"truncated": _encode(clean)[: _ARGUMENTS - 64].decode("ascii")}
    made = _base(call, _cut(what, 100), redactor)
    return _encode(made | {"message": _cut(what, 100), "unmapped": _about(call, redactor) | {"details": clean}})
