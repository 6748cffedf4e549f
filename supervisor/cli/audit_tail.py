"""`audit tail`: the last records of all logs, and new ones as they come. Reads the files; asks nobody."""

from __future__ import annotations

import time
from pathlib import Path

from supervisor.audit import chain, read, verify, view
from supervisor.audit.confine import Place
from supervisor.audit.cursors import START, Cursor
from supervisor.audit.read import Read
from supervisor.audit.view import Entry
from supervisor.cli.audit_show import row, safe

_POLL = 0.25


def tail(place: Place, count: int, *, follow: bool, as_json: bool) -> int:
    """Print the last `count` records, in order of time, then what comes."""
    cursors = {folder: read.last(folder, count) for folder in verify.folders(place)}
    found = _news(cursors)
    for each in found[-count:] if count else []:
        _print(each, as_json=as_json)
    while follow:
        time.sleep(_POLL)
        for folder in verify.folders(place):
            cursors.setdefault(folder, START)
        for each in _news(cursors):
            _print(each, as_json=as_json)
    return 0


def _news(cursors: dict[Path, Cursor]) -> list[Read]:
    """What every log has gained, in order of time; the cursors move on."""
    found: list[Read] = []
    for folder, cursor in cursors.items():
        for each in read.lines(folder, cursor):
            found.append(each)
            cursors[folder] = each.after
    return sorted(found, key=lambda each: each.line.time if each.line else 0)


def _print(each: Read, *, as_json: bool) -> None:
    if each.fault or each.line is None:
        print(f"FAULT segment {each.segment} at byte {each.offset}: {each.fault}", flush=True)
    if each.line is None:
        return
    if as_json:
        print(each.raw.decode(), end="", flush=True)
        return
    print(_said(view.entry(each.line)), flush=True)


def _said(entry: Entry) -> str:
    if entry.kind not in chain.PEER_KINDS:
        return f"{view.clock(entry.time)}  ledger: {entry.kind} {safe(entry.text)}"
    when, user, server, tool, verdict, status, took, call = row(entry)
    what = f"{verdict or status} {took + ' ms' if took else ''}".rstrip()
    touched = f"  {len(entry.touched)} touched" if entry.touched else ""
    reason = f"  {safe(entry.reason)}" if entry.reason else ""
    return f"{when}  {entry.kind:7}  {user}  {server}  {tool}  {what}  {call}{touched}{reason}"
