"""A line of the log in the formats that others read: OCSF JSON, CEF, LEEF, RFC 5424, OTLP.

Pure; standard library only. What was recorded is never left out of OCSF; CEF and LEEF have room for a part of it
and name the record. Whatever a client or a server said is escaped, so that it can end no field and begin no event.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Iterable
from typing import NamedTuple

from supervisor.audit import schema, view
from supervisor.audit.chain import PEER_KINDS, SEGMENT, Line
from supervisor.audit.view import Entry

VENDOR, PRODUCT, VERSION = "supervisor", "supervisor", "0.1.0"
# RFC 5424: facility 13 is "log audit"; 32473 is the enterprise number of examples (RFC 5612)
_FACILITY, _SD = 13, "audit@32473"
_NOTICE, _WARNING, _INFORMATIONAL = 5, 4, 6
_ACTIVITIES = {0: "Unknown", 1: "Create", 2: "Read", 3: "Update", 4: "Delete", 99: "Other"}
_ACTIONS = {"allow": "Allowed", "deny": "Denied", "hold": "Other"}
_STATUSES = {1: "Success", 2: "Failure", 99: "Other"}
_SEVERITIES = {1: "Informational", 2: "Low", 3: "Medium", 4: "High"}
_HOSTNAME, _FILE = (1, "Hostname"), (45, "File Path")
_CEF_SEVERITY = {1: 1, 2: 4, 3: 6, 4: 8}
# OTLP: INFO, INFO4, WARN, ERROR
_OTLP_SEVERITY = {1: 9, 2: 12, 3: 13, 4: 17}


class Item(NamedTuple):
    """A line of a log, or what is wrong where one should be."""

    log: str
    segment: int
    line: Line | None
    fault: str


class Event(NamedTuple):
    """What every format is made of."""

    log: str
    seq: int
    hash: str
    entry: Entry
    ocsf: dict[str, object]


def events(items: Iterable[Item]) -> list[Event]:
    """What is exported of these: calls, what the ledger says of itself, what is wrong; not how segments begin."""
    made = []
    for item in items:
        if item.fault:
            body = json.dumps({"segment": item.segment, "reason": item.fault}).encode()
            known = item.line or Line("", "", 0, 0, "fault", 0, 0, b"")
            made.append(_event(item.log, known._replace(kind="fault", body=body)))
        if item.line and item.line.kind != SEGMENT:
            made.append(_event(item.log, item.line))
    return made


def _event(log: str, line: Line) -> Event:
    entry = view.entry(line)
    made = dict(entry.body) if line.kind in PEER_KINDS else _own(line, entry)
    return Event(log, line.seq, line.hash, entry, _completed(made, log, line, entry))


def _own(line: Line, entry: Entry) -> dict[str, object]:
    """An event of the ledger's, in the words of the others."""
    number = f"{line.seq}.{line.kind}"
    return {
        "class_uid": schema.CLASS,
        "category_uid": schema.CATEGORY,
        "activity_id": 99,
        "type_uid": schema.CLASS * 100 + 99,
        "severity_id": 1 if line.kind in ("closed", "retired") else 4,
        "time": line.time // 1000,
        "metadata": {
            "version": schema.VERSION,
            "product": {"name": PRODUCT, "vendor_name": VENDOR, "version": VERSION},
            "profiles": [schema.PROFILE],
            "uid": number,
            "event_code": f"ledger.{line.kind}",
        },
        "actor": {"app_name": "ledger"},
        "src_endpoint": {"svc_name": "ledger"},
        "api": {"operation": f"ledger.{line.kind}", "service": {"name": "audit"}},
        "message": view.text_at(entry.body, "reason") or f"the audit log says: {line.kind}",
        "unmapped": {"details": entry.body},
    }


def _completed(made: dict[str, object], log: str, line: Line, entry: Entry) -> dict[str, object]:
    """With the ledger's own word, the captions of codes, and what can be searched for."""
    meta, actor = made.get("metadata"), made.get("actor")
    known: dict[str, object] = {"sequence": line.seq, "logged_time": line.time // 1000, "log_name": log}
    made["metadata"] = (meta if isinstance(meta, dict) else {}) | known
    if line.pid:
        process = {"pid": line.pid, "user": {"uid": str(line.uid)}}
        made["actor"] = (actor if isinstance(actor, dict) else {}) | {"process": process}
    activity = view.number_at(made, "activity_id") or 0
    made |= {
        "category_name": "Application Activity",
        "class_name": "API Activity",
        "activity_name": _ACTIVITIES.get(activity, "Other"),
        "type_name": f"API Activity: {_ACTIVITIES.get(activity, 'Other')}",
        "severity": _SEVERITIES.get(view.number_at(made, "severity_id") or 1, "Other"),
    }
    if entry.verdict:
        made["action"] = _ACTIONS[entry.verdict]
    if status := view.number_at(made, "status_id"):
        made["status"] = _STATUSES.get(status, "Other")
    if entry.touched:
        kinds = {"file": _FILE, "host": _HOSTNAME}
        made["observables"] = [
            {
                "name": "resources.name",
                "type_id": kinds[each.kind][0],
                "type": kinds[each.kind][1],
                "value": each.name,
            }
            for each in entry.touched
        ]
    return made


def ocsf(event: Event) -> bytes:
    """One line of JSON."""
    return json.dumps(event.ocsf, sort_keys=True, separators=(",", ":")).encode()


def _fields(event: Event) -> list[tuple[str, str]]:
    """What CEF and LEEF say: (name, value), in order."""
    entry = event.entry
    named = [
        ("server", entry.server),
        ("tool", entry.tool),
        ("session", entry.session),
        ("rule", entry.rule),
        ("spec", view.text_at(entry.body, "unmapped", "spec")),
        ("log", event.log),
    ]
    return [(name, value) for name, value in named if value]


def _names(entry: Entry, kind: str) -> str:
    return ", ".join(
        f"{each.name}{' (denied)' if each.denied else ''}" for each in entry.touched if each.kind == kind
    )


def _severity(event: Event) -> int:
    return view.number_at(event.ocsf, "severity_id") or 1


def _code(event: Event) -> str:
    return view.text_at(event.ocsf, "metadata", "event_code") or event.entry.kind


def _name(event: Event) -> str:
    return view.text_at(event.ocsf, "api", "operation") or event.entry.kind


def cef(event: Event) -> bytes:
    """ArcSight's common event format, version 0."""
    entry = event.entry
    head = [VENDOR, PRODUCT, VERSION, _code(event), _name(event), str(_CEF_SEVERITY.get(_severity(event), 5))]
    said = [
        ("rt", str(entry.time // 1000)),
        ("externalId", entry.call or str(event.seq)),
        ("suser", entry.user),
        ("spid", str(entry.speaker[1])),
        ("requestClientApplication", entry.client),
        ("act", entry.verdict),
        ("outcome", entry.status),
        ("reason", entry.reason),
        ("filePath", _names(entry, "file")),
        ("dhost", _names(entry, "host")),
        ("cn1", str(event.seq)),
        ("cn1Label", "sequence"),
    ]
    if entry.microseconds is not None:
        said += [("cn2", str(entry.microseconds)), ("cn2Label", "microseconds")]
    for number, (name, value) in enumerate(_fields(event), 1):
        said += [(f"cs{number}", value), (f"cs{number}Label", name)]
    text = " ".join(f"{key}={_cef_value(value)}" for key, value in said if value)
    return f"CEF:0|{'|'.join(_cef_head(each) for each in head)}|{text}".encode("utf-8", "backslashreplace")


_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def _cef_head(text: str) -> str:
    return _CONTROL.sub(" ", text).replace("\\", "\\\\").replace("|", "\\|")


def _cef_value(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("=", "\\=").replace("\r", "\\r").replace("\n", "\\n")
    return _CONTROL.sub(" ", escaped)


def leef(event: Event) -> bytes:
    """QRadar's log event extended format, version 2.0; fields are separated by a tab."""
    entry = event.entry
    head = [VENDOR, PRODUCT, VERSION, _code(event), "x09"]
    said = [
        ("devTime", str(entry.time // 1000)),
        ("usrName", entry.user),
        ("sev", str(_CEF_SEVERITY.get(_severity(event), 5))),
        ("cat", _name(event)),
        ("call", entry.call),
        ("client", entry.client),
        ("verdict", entry.verdict),
        ("status", entry.status),
        ("reason", entry.reason),
        ("files", _names(entry, "file")),
        ("hosts", _names(entry, "host")),
        ("sequence", str(event.seq)),
        *_fields(event),
    ]
    text = "\t".join(f"{key}={_CONTROL.sub(' ', value)}" for key, value in said if value)
    start = "|".join(_CONTROL.sub(" ", each).replace("|", "/") for each in head)
    return f"LEEF:2.0|{start}|{text}".encode("utf-8", "backslashreplace")


FORMATS: dict[str, Callable[[Event], bytes]] = {"ocsf": ocsf, "cef": cef, "leef": leef}


def syslog(event: Event, message: bytes) -> bytes:
    """A message of one of the other formats in the envelope of RFC 5424."""
    urgent = {1: _INFORMATIONAL, 2: _NOTICE}.get(_severity(event), _WARNING)
    host = _sd_name(socket.gethostname()) or "-"
    when = view.clock(event.entry.time) if event.entry.time else "-"
    sd = f'[{_SD} log="{event.log}" seq="{event.seq}" hash="{event.hash}"]'
    head = f"<{_FACILITY * 8 + urgent}>1 {when} {host} {PRODUCT} {event.entry.speaker[1]} {_sd_name(_code(event))}"
    return f"{head} {sd} ".encode("ascii", "replace") + message


def _sd_name(text: str) -> str:
    """Printable ASCII without spaces, at most 32 characters (MSGID, HOSTNAME)."""
    return re.sub(r"[^!-~]", "", text)[:32]


def _attribute(key: str, value: object) -> dict[str, object]:
    kind = "intValue" if isinstance(value, int) else "stringValue"
    return {"key": key, "value": {kind: str(value)}}


def otlp(batch: list[Event]) -> bytes:
    """An ExportLogsServiceRequest, in JSON."""
    return json.dumps(
        {
            "resourceLogs": [
                {
                    "resource": {
                        "attributes": [
                            _attribute("service.name", PRODUCT),
                            _attribute("service.version", VERSION),
                            _attribute("host.name", socket.gethostname()),
                        ]
                    },
                    "scopeLogs": [
                        {"scope": {"name": "audit"}, "logRecords": [_log_record(each) for each in batch]}
                    ],
                }
            ]
        },
        separators=(",", ":"),
    ).encode()


def _log_record(event: Event) -> dict[str, object]:
    entry, severity = event.entry, _severity(event)
    named = {
        "audit.call": entry.call,
        "audit.log": event.log,
        "audit.sequence": event.seq,
        "audit.hash": event.hash,
        "audit.verdict": entry.verdict,
        "audit.status": entry.status,
        "mcp.server": entry.server,
        "mcp.tool": entry.tool,
        "mcp.session": entry.session,
        "user.id": entry.user,
    }
    return {
        "timeUnixNano": str(entry.time * 1000),
        "observedTimeUnixNano": str(entry.time * 1000),
        "severityNumber": _OTLP_SEVERITY.get(severity, 9),
        "severityText": _SEVERITIES.get(severity, "Informational"),
        "eventName": _code(event),
        "body": {"stringValue": ocsf(event).decode()},
        "attributes": [_attribute(key, value) for key, value in named.items() if value != ""],
    }
