"""`pending`, `show`, `approve`, `deny`, `revoke`, `list --approved`: what has to be approved, and by whom it was.

Runs as whoever types it. What a number stands for is asked of the planner; a decision is made on admin.sock of the
daemon, or, of a registry without one, written by the one who owns it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import pwd
import re
import shlex
import sys
import time
from typing import NamedTuple

from supervisor.cli import entry, host, requested, servers
from supervisor.cli.requested import Request
from supervisor.errors import ConfigError, SupervisorError
from supervisor.model import Registered
from supervisor.monitor import approvals as store
from supervisor.profile import toml
from supervisor.registry import approvals
from supervisor.registry.approvals import Bound, Decision
from supervisor.registry.bindings import UNBOUND
from supervisor.shown import printable

_UNITS = {"m": 60, "h": 3600, "d": 86400}


class _Registry(NamedTuple):
    """The registry in question, whether a daemon has it, and what was requested for it."""

    path: str
    daemon: bool
    servers: dict[str, Registered]
    requests: list[Request]

    @property
    def required(self) -> bool:
        return any(each.approval or each.held for each in self.servers.values())


def _registry(options: argparse.Namespace) -> _Registry:
    """The daemon's, if one answers and nothing else is said; else the caller's own."""
    there = bool(options.runtime_dir) or os.path.exists(f"{entry.runtime_folder(options)}/admin.sock")
    daemon = options.config is None and there
    path = str(host.inspect(options)[1]["config"]) if daemon else entry.catalog(options)
    requests = requested.listed(path)
    planned = host.planned({"catalog": path}).servers if os.path.exists(path) or not requests else ()
    made = _Registry(path, daemon, {each.entry.name: each for each in planned}, requests)
    return made if requests else _needed(made)


def _needed(registry: _Registry) -> _Registry:
    if registry.required:
        return registry
    raise ConfigError(
        f"{registry.path}: nothing has to be approved here: [approvals] required = true is not written"
    )


def _request(registry: _Registry, options: argparse.Namespace) -> Request | None:
    """The request that is meant by its number, or by its name where no server has that."""
    said = options.number
    for each in registry.requests:
        if said != each.number and (said != each.name or said in registry.servers):
            continue
        if options.command == "approve" and each.server is None:
            raise ConfigError(f'"{each.name}" cannot be approved now: {each.problem}')
        if options.command == "approve" and said != each.number:
            raise ConfigError(f'"{said}" is a request: approve the number that show says, {each.number}')
        return each
    return None


def _numbered(registry: _Registry, number: str) -> Registered:
    _needed(registry)
    for each in registry.servers.values():
        if number in (each.approval, each.entry.name):
            if not each.approval and each.held:
                raise ConfigError(f'"{each.entry.name}" cannot be approved now: {each.held}')
            return each
    raise ConfigError(f'{registry.path}: nothing has the number "{number}"; supervisor pending shows what does')


def pending(options: argparse.Namespace, _command: list[str]) -> int:
    """What waits for a decision."""
    registry = _registry(options)
    held = [each for each in registry.servers.values() if each.held]
    rows = [_row(each) | {"why": each.held, "unbound": _unbound(each), "request": False} for each in held]
    for one in registry.requests:
        about = {"why": one.why, "unbound": _unbound(one.server) if one.server else "", "request": True}
        rows.append({"approval": one.number, "server": one.name} | about)
    if options.json:
        print(json.dumps(rows, indent=2))
    for row in [] if options.json else rows:
        print(printable(f"{row['approval'] or '-':12}  {row['server']!s:24} {row['why']}{row['unbound']}"))
    return 0


def _unbound(server: Registered) -> str:
    touches = toml.decoded(server.bound, Bound).touches if server.bound else ()
    return "".join(f"; it would {each}" for each in touches if each.startswith(UNBOUND))


def _row(server: Registered) -> dict[str, object]:
    return {"approval": server.approval, "server": server.entry.name}


def show(options: argparse.Namespace, _command: list[str]) -> int:
    """What an approval would be of: all of it, and what is different from what was approved before."""
    registry = _registry(options)
    request = _request(registry, options)
    server = request.server if request else _numbered(registry, options.number)
    said = _said_of(request) if request else {}
    if server is None:
        print(json.dumps(said, indent=2)) if options.json else _print_request(said)
        return 0
    made = toml.decoded(server.bound, Bound)
    past = approvals.decisions(registry.path)
    old = approvals.latest(past, made.server)
    rows = approvals.differences(old, made)
    listed = [_decision(each) for each in past if each.server == made.server]
    if options.json:
        changes = [{"sign": sign, "what": said} for sign, said in rows]
        table = _row(server) | {"held": server.held, "bound": made.model_dump()} | said
        print(json.dumps(table | {"changes": changes, "decisions": listed}, indent=2))
        return 0
    if said:
        _print_request(said)
    else:
        held = f"{server.held or 'approved'}{_unbound(server)}"
        print(printable(f"approval {server.approval} of {made.server}: {held}"))
    _print_bound(made, rows, first=old is None)
    for each in listed:
        print(
            printable(f"{each['at']} {each['what']} {each['approval']} by {each['by']} {each['reason']}".rstrip())
        )
    return 0


def _said_of(request: Request) -> dict[str, object]:
    """What only a request has: the entry that would be registered, and where it was found."""
    about: dict[str, object] = {"approval": request.number, "server": request.name, "held": request.why}
    return about | {"entry": request.fields, "found": request.said, "problem": request.problem}


def _print_request(said: dict[str, object]) -> None:
    entry_, found = said["entry"], said["found"]
    print(printable(f"request {said['approval'] or '-'} of {said['server']}: {said['held']}"))
    for line in servers.told(entry_ if isinstance(entry_, dict) else {}, ()):
        print(f"    {printable(line)}")
    for line in found if isinstance(found, list) else []:
        print(f"    - {printable(line)}")


def _print_bound(made: Bound, rows: list[tuple[str, str]], *, first: bool) -> None:
    for name in ("command", "files", "image", "manifest", "version", "profile", "spec", "params", "accepted"):
        print(f"  {name:9} {printable(approvals.shown(getattr(made, name)))}")
    print("what it may touch:" if first else "different from what was approved before (+ more, - less, ~ other):")
    for sign, said in rows or [(" ", "nothing")]:
        print(f"  {sign} {printable(said)}")


def _decision(made: Decision) -> dict[str, object]:
    return {
        "at": _moment(made.at),
        "what": made.req,
        "approval": made.approval,
        "by": _name(made.person),
        "asked": [_name(each) for each in made.asked],
        "until": _moment(made.until) if made.until else None,
        "reason": made.reason,
    }


def _moment(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds")


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def decide(options: argparse.Namespace, _command: list[str]) -> int:
    """approve, deny, revoke."""
    if options.command == "deny" and not options.reason:
        raise ConfigError("deny: say why, with --reason")
    registry = _registry(options)
    request = _request(registry, options) if options.command != "revoke" else None
    if request is not None:
        return _decide_request(options, registry, request)
    server = _numbered(registry, options.number)
    until = _until(options.until) if options.command == "approve" and options.until else 0.0
    said: dict[str, object] = {"req": options.command, "approval": server.approval, "server": server.entry.name}
    _send(options, registry, server, said | {"reason": options.reason or "", "until": until})
    now = host.planned({"catalog": registry.path, "only": server.entry.name}).servers[0]
    if options.json:
        print(json.dumps(_row(now) | {"done": options.command, "held": now.held}))
    else:
        print(printable(f"{server.entry.name}: {now.held or 'approved; it may be started'}"))
    return 0


def _decide_request(options: argparse.Namespace, registry: _Registry, request: Request) -> int:
    """Register what was requested and approve of it, or remember that it was denied."""
    _own(registry)
    until = _until(options.until) if options.command == "approve" and options.until else 0.0
    said: dict[str, object] = {"req": options.command, "server": request.name, "until": until}
    said |= {"reason": options.reason or ""}
    if options.command == "deny":
        requested.deny(registry.path, request, options.reason)
        if request.server is not None:
            _record(registry.path, request.server, said | {"approval": request.server.approval})
        done = f"{request.name} is denied, and is not proposed again as it is"
    else:
        server = requested.register(registry.path, request.number, request.name)
        said["approval"] = server.approval
        if registry.daemon:
            host.request(options, {"req": "reload"})
        if not registry.daemon:
            _record(registry.path, server, said)
        elif registry.required:
            host.request(options, said)
        words = ["supervisor", "pin", *(["--config", options.config] if options.config else []), request.name]
        done = f"{request.name} is registered in {registry.path}; next, see what it lists: {shlex.join(words)}"
    row = {"approval": request.number, "server": request.name, "done": options.command}
    print(json.dumps(row) if options.json else done)
    return 0


def _own(registry: _Registry) -> None:
    folder = os.path.dirname(registry.path)
    there = registry.path if os.path.exists(registry.path) else folder
    if os.stat(there).st_uid != os.geteuid():
        raise SupervisorError(f"{registry.path}: only its owner decides what comes into it")


def _record(path: str, server: Registered, said: dict[str, object]) -> None:
    about = {"id": 0, "bound": server.bound, "uid": os.getuid(), "asked": []}
    store.record(path, os.getpid(), said | about)


def _send(options: argparse.Namespace, registry: _Registry, server: Registered, said: dict[str, object]) -> None:
    if registry.daemon:
        host.request(options, said)
        return
    _own(registry)
    _record(registry.path, server, said)


def review_own(path: str, name: str) -> Bound | None:
    """What the owner of a registry is about to approve of with a review, None if nobody has to.

    What an approval of it would not bind is said before he is asked.
    """
    (server,) = host.planned({"catalog": path, "only": name}).servers
    if not server.held or os.stat(path).st_uid != os.geteuid():
        return None
    if not server.bound:
        raise SupervisorError(f'"{name}" cannot be approved now: {server.held}')
    made = toml.decoded(server.bound, Bound)
    for each in made.touches:
        if each.startswith(UNBOUND):
            print(printable(f"  ATTENTION {name} would {each}"), flush=True)
    return made


def approve_own(path: str, reviewed: Bound) -> str:
    """Approve of what was reviewed, as it is with its new manifest; its number."""
    (server,) = host.planned({"catalog": path, "only": reviewed.server}).servers
    made = toml.decoded(server.bound, Bound) if server.bound else None
    pinned = {"manifest": made.manifest, "version": made.version} if made else {}
    if made != reviewed.model_copy(update=pinned):
        raise SupervisorError(
            f'"{reviewed.server}" has changed while it was reviewed, and is not approved: pin it again'
        )
    said = {"req": "approve", "approval": server.approval, "server": server.entry.name, "until": 0.0}
    _record(path, server, said | {"reason": "reviewed with pin"})
    return server.approval


def _until(text: str) -> float:
    """30d, 12h, or a day or moment (ISO 8601; UTC where nothing is said)."""
    if match := re.fullmatch(r"([1-9][0-9]{0,4})([mhd])", text):
        return time.time() + int(match[1]) * _UNITS[match[2]]
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f'--until "{text}": 30d, 12h, or a date as in 2027-01-31') from None
    found = (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()
    if found <= time.time():
        raise ConfigError(f'--until "{text}" is over already')
    return found


def approved(options: argparse.Namespace) -> int:
    """What may run, by whom it was approved, until when."""
    registry = _needed(_registry(options))
    past = approvals.decisions(registry.path)
    rows = []
    for each in registry.servers.values():
        decided = [_decision(one) for one in past if one.approval == each.approval and one.req == "approve"]
        if not each.held:
            rows.append(_row(each) | {"decisions": decided, "until": _moment(each.until) if each.until else None})
    if options.json:
        print(json.dumps(rows, indent=2))
        return 0
    for row, each in zip(rows, (one for one in registry.servers.values() if not one.held), strict=True):
        by = ", ".join(_name(one.person) for one in past if one.approval == each.approval and one.req == "approve")
        until = f" until {row['until']}" if row["until"] else ""
        print(f"{row['approval']}  {row['server']!s:24} by {by}{until}")
    sys.stdout.flush()
    return 0
