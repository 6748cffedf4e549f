"""How calls and reports are shown: a table, everything about one call, what was found of a log."""

from __future__ import annotations

import functools
import json
import sqlite3
from collections.abc import Iterator, Sequence

from supervisor.audit import query, view
from supervisor.audit.chain import Line
from supervisor.audit.claims import Claims
from supervisor.audit.confine import Place
from supervisor.audit.query import Found
from supervisor.audit.verify import Report
from supervisor.audit.view import Entry

_HEAD = ("TIME", "USER", "SERVER", "TOOL", "VERDICT", "STATUS", "MS", "CALL")
# what a row needs at most, but for the last
_WIDEST = (24, 24, 20, 28, 7, 8, 9)
_MOST_FAULTS = 100


def safe(text: str) -> str:
    """What a client or a server said, so that it can do nothing to a terminal."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}~"


def _who(found: Found | Entry) -> str:
    """Who called; of what no process of ours wrote down, by the kernel's word who says so."""
    speaker = found.speaker if isinstance(found.speaker, str) else f"{found.speaker[0]}:{found.speaker[1]}"
    uid = int(speaker.partition(":")[0])
    named = found.user == f"uid:{uid}" or _claims().trusted(uid)
    return found.user if named else f"uid:{uid} for {found.user or 'nobody'}"


@functools.cache
def _claims() -> Claims:
    return Claims()


def row(found: Found | Entry) -> tuple[str, ...]:
    """The columns of a call."""
    took = "" if found.microseconds is None else f"{found.microseconds / 1000:.1f}"
    event = found.kind == "event"
    what = found.reason if event else found.tool or found.method
    status = "event" if event else found.status
    told = (view.clock(found.time), _who(found), found.server, what, found.verdict, status)
    return (*map(safe, told), took, safe(found.call))


def table(found: Sequence[Found]) -> None:
    """Newest first, as wide as need be."""
    rows = [_HEAD, *(row(each) for each in found)]
    widths = [min(_WIDEST[column], max(len(each[column]) for each in rows)) for column in range(len(_WIDEST))]
    for each in rows:
        cells = [f"{_cut(cell, width):{width}}" for cell, width in zip(each[:-1], widths, strict=True)]
        print("  ".join([*cells, each[-1]]).rstrip())


def show(place: Place, database: sqlite3.Connection, found: list[Found], *, as_json: bool) -> None:
    """Everything about a call, from the log itself."""
    for number, each in enumerate(found):
        lines = query.lines(place, database, each)
        if as_json:
            whole = [line._asdict() | {"body": view.entry(line).body} if line else None for line in lines]
            print(json.dumps({"call": each.call, "log": each.log, "records": whole}))
            continue
        if number:
            print()
        print(f"call {safe(each.call)}, log {each.log}, {_where(lines)}")
        for name, text in _told(each, [view.entry(line) for line in lines if line]):
            print(f"  {name:10} {safe(text)}")


def _where(lines: list[Line | None]) -> str:
    if not all(lines):
        return "of which a record is gone (retired with its segment) or not whole: only the index knows it"
    return "record " + " and ".join(str(line.seq) for line in lines if line)


def _told(found: Found, entries: list[Entry]) -> Iterator[tuple[str, str]]:
    first = entries[0] if entries else None
    body = first.body if first else {}
    about = view.at(body, "unmapped")
    yield "who", f"{found.user}, session {found.session}, {found.client}{_groups(body)}"
    yield "over", f"{_source(body)}; told by {found.speaker.replace(':', ', pid ', 1).join(('uid ', ''))}"
    yield "what", f"{found.method} {found.tool} of {found.server}"
    took = "" if found.microseconds is None else f", took {found.microseconds / 1000:.3f} ms"
    yield "when", f"{view.clock(found.time)}{took}"
    if found.verdict:
        reason = f" ({first.reason})" if first and first.reason else ""
        yield "verdict", found.verdict + (f" by {found.rule}" if found.rule else "") + reason
    if arguments := view.at(body, "api", "request", "data"):
        yield "arguments", json.dumps(arguments)
    for name, path in (("digest", ("arguments", "value")), ("details", ("details",))):
        if value := view.at(about, *path):
            yield name, value if isinstance(value, str) else json.dumps(value)
    for name in ("profile", "spec", "image", "manifest", "posture"):
        if text := view.text_at(about, name):
            yield name, text
    if isinstance(accepted := view.at(about, "accepted"), list):
        yield "without", f"{', '.join(map(str, accepted))} (accepted by name)"
    yield from _ending(found, entries)


def _groups(body: dict[str, object]) -> str:
    groups = view.at(body, "actor", "user", "groups")
    names = [view.text_at(each, "name") for each in groups] if isinstance(groups, list) else []
    return f", groups {', '.join(names)}" if names else ""


def _source(body: dict[str, object]) -> str:
    address = view.text_at(body, "src_endpoint", "ip")
    port = view.number_at(body, "src_endpoint", "port")
    return view.text_at(body, "src_endpoint", "svc_name") + (f" from {address} port {port}" if address else "")


def _ending(found: Found, entries: list[Entry]) -> Iterator[tuple[str, str]]:
    last = entries[-1] if entries else None
    if found.kind == "event":
        yield "event", found.reason
        return
    if found.kind == "intent" and found.end_segment is None:
        if found.verdict != "deny":
            yield "outcome", "none was recorded: it is still under way, or its proxy was ended"
        return
    yield "outcome", found.status + (f": {last.reason}" if last and last.reason else "")
    response = view.at(last.body if last else {}, "unmapped", "response")
    if digest := view.text_at(response, "digest", "value"):
        yield "response", f"{view.number_at(response, 'bytes')} bytes, sha256 {digest}"
    if text := view.text_at(response, "first"):
        yield "begins", text
    if last:
        yield from _touched(last)


def _touched(entry: Entry) -> Iterator[tuple[str, str]]:
    about = view.at(entry.body, "unmapped")
    for each in entry.touched:
        yield each.kind, f"{'DENIED ' if each.denied else ''}{each.name} ({each.detail})"
    if unseen := {"part": "not all that it opened was seen", "none": "nobody saw what it opened"}.get(
        view.text_at(about, "files")
    ):
        yield "files", unseen
    for kind in ("files", "hosts"):
        if count := view.number_at(about, f"{kind}_dropped"):
            yield kind, f"and {count} more, for which there was no room"
    during = view.at(about, "during")
    if view.text_at(about, "attribution") == "window" and isinstance(during, list):
        yield "touched", f"during calls {', '.join(map(str, during))}: by any of them"
    if isinstance(limits := view.at(about, "limits"), list):
        yield "limits", f"hit: {', '.join(map(str, limits))}"


def verified(reports: list[Report], *, as_json: bool) -> int:
    """What was found of each log; 1 when something is wrong."""
    faults = [each for report in reports for each in report.faults]
    for report in reports:
        if as_json:
            print(json.dumps(_as_json(report)))
        elif report.log:
            print(_summary(report))
            for segment, line, kind, body in report.remarks:
                if kind not in ("segment", "closed"):
                    print(f"  segment {segment} line {line}: the ledger says: {kind} {safe(json.dumps(body))}")
    for each in faults[:_MOST_FAULTS] if not as_json else []:
        print(f"FAULT {safe(str(each))}")
    if len(faults) > _MOST_FAULTS and not as_json:
        print(f"and {len(faults) - _MOST_FAULTS} more faults")
    if not as_json:
        print(f"{len(faults)} faults" if faults else "every record is as it was written")
    return 1 if faults else 0


def _as_json(report: Report) -> dict[str, object]:
    return {
        "name": report.name,
        "log": report.log,
        "records": report.records,
        "first": report.first,
        "last": report.head.seq if report.head else 0,
        "written": report.written,
        "closed": report.closed,
        "signed": report.signed._asdict() if report.signed else None,
        "faults": [each._asdict() for each in report.faults],
        "remarks": [{"segment": at[0], "line": at[1], "kind": at[2], "body": at[3]} for at in report.remarks],
    }


def _summary(report: Report) -> str:
    last = report.head.seq if report.head else 0
    said = [f"log {report.name} ({report.log}): {report.records} records, {report.first} to {last}"]
    if report.signed:
        said.append(f"signed up to record {report.signed.seq} at {view.clock(report.signed.time)}")
    else:
        said.append("no checkpoint is signed")
    if report.written:
        said.append("being written")
    elif not report.closed:
        said.append("not closed: its ledger was killed, or what followed its last checkpoint was cut off")
    return "; ".join(said)
