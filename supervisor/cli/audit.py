"""`audit`: who called what, what it touched, and whether the log of it is whole.

Started by root it becomes the readers' uid before it reads a byte of a log; what it can still do is read.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from supervisor import given
from supervisor.audit import confine
from supervisor.audit.confine import Place
from supervisor.cli.options import read
from supervisor.errors import ConfigError, SupervisorError

if TYPE_CHECKING:
    import ssl

    from supervisor.audit.send import Encode

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_SIGNED_WITHIN = 30.0
_ASKED = ("user", "session", "client", "server", "tool", "verdict", "status", "path", "host", "text")


def _when(text: str) -> int:
    """`90m`, `2d`, or a date or time (UTC unless it says otherwise): microseconds since 1970."""
    if found := re.fullmatch(r"([0-9]{1,9})([smhdw])", text):
        return time.time_ns() // 1000 - int(found[1]) * _UNITS[found[2]] * 1_000_000
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: write 90m, 2d, 2026-11-28 or 2026-11-28T09:30") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1_000_000)


def _count(text: str) -> int:
    if not text.isdecimal() or len(text) > 9:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of lines")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="supervisor audit", description=(__doc__ or "").partition("\n")[0])
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--folder", metavar="DIR", help="the audit log, if it is not where this user's is")
    common.add_argument("--json", action="store_true", help="print JSON, an object a line")
    commands = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    tail = commands.add_parser("tail", parents=[common], help="the last records, and new ones as they come")
    tail.add_argument("-n", dest="lines", type=_count, default=20, metavar="N", help="how many (20)")
    tail.add_argument("-f", "--follow", action="store_true", help="go on")
    query = commands.add_parser("query", parents=[common], help="calls by who, what, where and when, newest first")
    helps = {
        "verdict": "allow, deny or hold",
        "status": "ok, failed, refused or lost",
        "path": "a file that was touched, or a folder above it, as the server sees it",
        "host": "a host that was reached, or not let be reached",
        "text": "words in arguments, answers and reasons",
    }
    for name in _ASKED:
        query.add_argument(f"--{name}", default="", metavar=name.upper(), help=helps.get(name))
    query.add_argument(
        "--since", type=_when, default=0, metavar="TIME", help="2h, 3d, 2026-11-28, 2026-11-28T09:30"
    )
    query.add_argument("--until", type=_when, default=1 << 62, metavar="TIME", help="the same")
    query.add_argument("--limit", type=_count, default=50, metavar="N", help="how many (50; 0: all)")
    query.add_argument("--rebuild", action="store_true", help="make the index anew from the log")
    show = commands.add_parser("show", parents=[common], help="everything about one call")
    show.add_argument("call", metavar="CALL", help="its id, as query and tail show it")
    verify = commands.add_parser("verify", parents=[common], help="is the log whole and unchanged; 1 if not")
    verify.add_argument("--key", metavar="FILE", help="the signer's public key, from where you keep it")
    verify.add_argument(
        "--against", metavar="FILE", action="append", default=[], help="checkpoints that were kept elsewhere"
    )
    checkpoint = commands.add_parser("checkpoint", parents=[common], help="print a signed checkpoint of each log")
    checkpoint.epilog = "keep them on another machine: supervisor audit verify --against FILE compares"
    _export_options(
        commands.add_parser("export", parents=[common], help="send records to others, each at least once")
    )
    return parser


def _export_options(export: argparse.ArgumentParser) -> None:
    export.add_argument(
        "--to",
        metavar="URL",
        help="file:/PATH, tcp://HOST:PORT, tls://HOST:PORT, unix:/PATH (RFC 5424), http(s)://HOST/v1/logs (OTLP); "
        "without it, everything is printed",
    )
    export.add_argument("--format", choices=["ocsf", "cef", "leef"], default="ocsf", help="of each record (ocsf)")
    export.add_argument("--name", default="default", help="of this export: it goes on where it was")
    export.add_argument("-f", "--follow", action="store_true", help="go on with what comes")
    export.add_argument(
        "--forget", action="store_true", help="drop the export of this name: nothing is kept for it"
    )
    export.add_argument("--ca", metavar="FILE", help="whom to trust for TLS, if not the system's list")
    export.add_argument("--cert", metavar="FILE", help="our certificate for TLS")
    export.add_argument("--cert-key", metavar="FILE", help="and its key")
    export.add_argument(
        "--header", metavar="K: V", action="append", default=[], help="for OTLP; K: @FILE reads V from a file"
    )


def main(arguments: list[str]) -> int:
    """Parse, give up what root has, do it."""
    options = read(_parser(), arguments)
    place = Place(Path(os.path.abspath(options.folder)) if options.folder else confine.default_root())
    if options.action == "export":
        return _export(options, place)
    confine.become_reader()
    if options.action == "checkpoint":
        return _checkpoint(place)
    table = {"tail": _tail, "query": _query, "show": _show, "verify": _verify}
    return table[str(options.action)](options, place)


def _tail(options: argparse.Namespace, place: Place) -> int:
    from supervisor.cli import audit_tail

    return audit_tail.tail(place, options.lines, follow=options.follow, as_json=options.json)


def _query(options: argparse.Namespace, place: Place) -> int:
    from supervisor.audit import index, query, verify
    from supervisor.cli import audit_show

    verify.folders(place)
    asked = {name: _text(getattr(options, name)) for name in _ASKED}
    wanted = query.Wanted(**asked, since=options.since, until=options.until)
    with index.opened(place, rebuild=options.rebuild) as database:
        found = query.search(database, wanted, options.limit or -1)
        _warn(query.faults(database))
    if options.json:
        for each in found:
            print(json.dumps(each._asdict()))
        return 0
    audit_show.table(found)
    if not found:
        print("no record is as asked for", file=sys.stderr)
    if options.limit and len(found) == options.limit:
        print(f"(the newest {options.limit}; --limit 0 shows all)", file=sys.stderr)
    return 0


def _text(given: str) -> str:
    """What was typed; bytes of it that are no text are in no log."""
    return given.encode("utf-8", "replace").decode()


def _warn(faults: int) -> None:
    if faults:
        print(f"supervisor: {faults} lines of the log are not whole: see supervisor audit verify", file=sys.stderr)


def _show(options: argparse.Namespace, place: Place) -> int:
    from supervisor.audit import index, query, verify
    from supervisor.cli import audit_show

    verify.folders(place)
    with index.opened(place) as database:
        found = query.call(database, _text(options.call))
        _warn(query.faults(database))
        if not found:
            raise SupervisorError(f"there is no call {options.call!r} in the log; see supervisor audit query")
        audit_show.show(place, database, found, as_json=options.json)
    return 0


def _verify(options: argparse.Namespace, place: Place) -> int:
    from supervisor.audit import verify
    from supervisor.cli import audit_show

    for named in (*options.against, *([options.key] if options.key else [])):
        given.regular(named, pipes=True)
    against = [each for path in options.against for each in verify.read_checkpoints(Path(path))]
    trusted = _trusted(options, place)
    verify.folders(place)
    reports = verify.verify(place, trusted, against)
    return audit_show.verified(reports, as_json=options.json)


def _trusted(options: argparse.Namespace, place: Place) -> list[str]:
    from supervisor.audit import keys, verify

    if options.key:
        return [verify.read_key(Path(options.key))]
    beside = place.key / keys.PUBLIC
    return [verify.read_key(beside)] if beside.exists() else []


def _checkpoint(place: Place) -> int:
    """The newest checkpoint of each log; of one that is being written, one that covers what it holds now."""
    from supervisor.audit import verify

    status = 0
    ends = time.monotonic() + _SIGNED_WITHIN
    for folder in verify.folders(place):
        wanted = verify.head(folder)
        while True:
            newest = verify.newest(folder)
            if (newest and newest.seq >= wanted) or not verify.is_written(folder) or time.monotonic() > ends:
                break
            time.sleep(0.25)
        if newest:
            print(newest.line().decode(), end="")
        if newest is None or newest.seq < wanted:
            status = 1
            after = f"records after {newest.seq}" if newest else "its records"
            print(f"supervisor: log {folder.name}: no checkpoint is signed for {after}", file=sys.stderr)
    return status


def _export(options: argparse.Namespace, place: Place) -> int:
    from supervisor.audit import cursors, export, formats, send

    encode = formats.FORMATS[options.format]
    if options.to is None and not options.forget:
        if options.follow:
            raise ConfigError("export --follow needs --to; supervisor audit tail -f prints what comes")
        confine.become_reader()
        return _print_all(place, encode)

    def tls() -> ssl.SSLContext:
        for named in filter(None, (options.ca, options.cert, options.cert_key)):
            given.regular(named, pipes=True)
        return send.context(options.ca, options.cert, options.cert_key)

    headers = _headers(options.header)
    # files and keys of root's are opened while they can be
    sender = None if options.forget else send.sender(options.to, encode, tls, headers)
    confine.become_reader()
    if sender is None:
        count = cursors.forget(place.cursors, options.name)
        print(f"{count} cursors removed")
        return 0
    running = export.Export(place, options.name, sender, lambda text: print(f"supervisor: {text}", file=sys.stderr))
    if options.follow:
        running.follow()
    count = running.once()
    print(json.dumps({"exported": count}) if options.json else f"{count} records exported")
    return 0


def _headers(written: list[str]) -> dict[str, str]:
    """`K: V`, or `K: @FILE`, so that a token is in nobody's list of processes."""
    found = {}
    for each in written:
        key, sign, value = each.partition(":")
        if not sign or not re.fullmatch(r"[A-Za-z0-9-]+", key.strip()):
            raise ConfigError(f'--header "{key}": write "Name: value" or "Name: @file"')
        value = value.strip()
        if value.startswith("@"):
            value = given.read(value[1:], 16384, pipes=True).decode(errors="replace").strip()
        found[key.strip()] = value
    return found


def _print_all(place: Place, encode: Encode) -> int:
    from supervisor.audit import cursors, formats, read, verify

    for folder in verify.folders(place):
        log = read.identity(folder)
        for each in read.lines(folder, cursors.START):
            for event in formats.events([formats.Item(log, each.segment, each.line, each.fault)]):
                print(encode(event).decode())
    return 0
