"""`add`, `remove`, `list`, `start`, `stop`, `kill`: the registry, as its owner edits and steers it.

Runs as whoever types it. The planner, which can only read, says whether a server can be registered so.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import sys

from supervisor.cli import entry, files, host
from supervisor.errors import ConfigError
from supervisor.profile import host as machine
from supervisor.profile import load, toml
from supervisor.proxy.link import connect
from supervisor.registry import catalog, commands, written
from supervisor.runtimes import native
from supervisor.shown import printable

_FIRST = """# Servers that `supervisor serve`, `run NAME` and the daemon offer. See `supervisor add --help`.
"""
Row = dict[str, object]


def add(options: argparse.Namespace, command: list[str]) -> int:
    """Register a server."""
    try:
        catalog.named(options.name)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    path = entry.catalog(options)
    if options.proposed:
        _accept(options, command, path)
    else:
        register(path, {options.name: _table(options, command, path)})
    if options.json:
        print(json.dumps({"name": options.name, "file": path}))
    else:
        words = ["supervisor", "pin", *(["--config", path] if options.config else []), options.name]
        print(f"{options.name} is registered in {path}; next, review what it lists: {shlex.join(words)}")
    return 0


def proposed_folder(path: str) -> str:
    """Where the requests for a registry lie, which no catalog reads."""
    return os.path.join(os.path.dirname(path), "servers.d", "proposed")


def _accept(options: argparse.Namespace, command: list[str], path: str) -> None:
    """Register what was requested, as its file has it now, and take the request away."""
    given = (options.profile, options.param, options.ro, options.rw, options.env, options.allow, options.summary)
    image = (options.image, options.runtime, options.store, options.lock)
    if command or any(given) or any(image) or options.user or options.accept_missing:
        raise ConfigError(
            "--proposed takes the entry as it was requested: edit the request, or leave --proposed out"
        )
    request = os.path.join(proposed_folder(path), f"{options.name}.toml")
    if "/" in options.name or not os.path.lexists(request):
        raise ConfigError(f'{request}: no request "{options.name}"; supervisor discover --request makes one')
    from supervisor.cli import requested

    fields = requested.entry(request, toml.checked(request), options.name)
    if not options.json:
        print("".join(f"    {printable(line)}\n" for line in told(fields, ())), end="")
    register(path, {options.name: fields}, comment="accepted from a proposal")
    os.unlink(request)


def told(fields: written.Fields, why: tuple[str, ...]) -> list[str]:
    """An entry and the reasons for it, in lines for a person to read."""
    lines = []
    for key, value in fields.items():
        if key == "env" and isinstance(value, dict):
            # what is in them is nobody's business on a screen
            lines.append(f"env: {', '.join(value)}")
        elif isinstance(value, dict):
            lines.append(f"{key}: {', '.join(f'{name} = {each}' for name, each in value.items())}")
        elif isinstance(value, list):
            lines.append(f"{key}: {shlex.join(map(str, value))}")
        else:
            lines.append(f"{key}: {value}")
    return [*lines, *(f"- {line}" for each in why for line in each.splitlines())]


def register(path: str, tables: dict[str, written.Fields], *, comment: str = "") -> None:
    """Write servers into a registry, all or none: nothing is written unless each can be planned and enforced."""
    with files.locked(os.path.dirname(path)):
        before, text = text_of(path)
        made = with_tables(path, text, tables, comment=comment)
        for name in tables:
            try_out(path, made, name)
        files.replace(os.path.realpath(path), made.encode(), before=before)


def text_of(path: str) -> tuple[bytes | None, str]:
    """A registry file as it is (None: not there) and as text, checked to be ours and to be TOML."""
    if not os.path.lexists(path):
        return None, _FIRST
    text = toml.read(path).text
    return text.encode(), text


def with_tables(path: str, text: str, tables: dict[str, written.Fields], *, comment: str = "") -> str:
    """A registry's text with servers that it does not have yet."""
    for name, fields in tables.items():
        if name in written.servers(text):
            where = f"{path}:{toml.line_of(text, ('server', name))}"
            raise ConfigError(f'{where}: server "{name}" is registered already; supervisor remove {name}')
        try:
            text = written.add(text, name, fields, comment=comment)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
    return text


def try_out(path: str, text: str, name: str) -> None:
    """Plan one server of a registry that is to have this text; raises what would be wrong with it."""
    planned = host.planned({"catalog": path, "text": text, "only": name})
    facts = machine.probe()
    for each in planned.servers:
        native.check(each.plan, facts, each.entry.accept_missing)


def _table(options: argparse.Namespace, command: list[str], path: str) -> written.Fields:
    """The registry's words for the options of a command line; relative paths are meant from here."""
    built = entry.build(options, command)
    here = str(built["cwd"])
    known = load.load(str(built["profile"]), beside=path).profile.params
    params = {
        key: _absolute(value, here) if key in known and known[key].type == "path" else value
        for key, value in entry.pairs(options.param, "--param").items()
    }
    program = [commands.program(each, here, str(built["search_path"])) for each in command[:1]]
    words: written.Fields = {
        "summary": options.summary,
        "profile": built["profile"],
        "command": [*program, *(commands.argument(each, here) for each in command[1:])],
        "params": params,
        "ro": [_absolute(each, here) for each in options.ro],
        "rw": [_absolute(each, here) for each in options.rw],
        "env": built["env"],
        "allow": options.allow,
        "image": built["image"],
        "runtime": options.runtime,
        "engine": built["engine"],
        "store": built["store"] if options.image else None,
        "lock": built["lock"],
        "secrets": _secrets(built["secrets"]),
        "users": options.user,
        "accept_missing": built["accept_missing"],
    }
    return {key: value for key, value in words.items() if value}


def _secrets(tables: object) -> dict[str, object]:
    """As a registry has them: where they stand is told by its lines."""
    listed = tables.items() if isinstance(tables, dict) else ()
    return {name: {key: value for key, value in each.items() if key != "origin"} for name, each in listed}


def _absolute(written_path: str, here: str) -> str:
    path, sign, place = written_path.partition(":")
    return os.path.normpath(os.path.join(here, path)) + sign + place


def remove(options: argparse.Namespace, _command: list[str]) -> int:
    """Forget a server, and what was pinned of it."""
    path = entry.catalog(options)
    catalog.there(path)
    with files.locked(os.path.dirname(path)):
        unregister(path, options.name)
    if options.json:
        print(json.dumps({"name": options.name, "file": path}))
    else:
        print(f"{options.name} is no longer registered")
    return 0


def unregister(path: str, name: str) -> None:
    """Take a server out of the file of a registry in which it stands, and its manifest away."""
    known: list[str] = []
    for each in catalog.files(path):
        text = toml.read(each).text
        if name in written.servers(text):
            try:
                made = written.remove(text, name)
            except ConfigError as error:
                raise ConfigError(f"{each}: {error}") from None
            files.replace(os.path.realpath(each), made.encode(), before=text.encode())
            break
        known += written.servers(text)
    else:
        raise ConfigError(f'{path}: no server "{name}" here; there are: {", ".join(known) or "none"}')
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(os.path.dirname(path), "pins", f"{name}.json"))


def listing(options: argparse.Namespace, _command: list[str]) -> int:
    """The servers that one may use: the daemon's, or those of one's own registry."""
    if options.approved:
        from supervisor.cli import approvals

        return approvals.approved(options)
    folder = entry.daemon(options)
    rows = _of_file(entry.catalog(options)) if folder is None else _of_daemon(folder)
    if options.json:
        print(json.dumps(rows, indent=2))
    elif not rows:
        print("there is no server that you may use", file=sys.stderr)
    for row in [] if options.json else rows:
        pinned = "pinned" if row["pinned"] else "not pinned"
        state = "" if row["state"] == "registered" else row["state"]
        said = f"{row['name']!s:24} {row['profile']!s:16} {pinned:10} {state!s:8} {row['summary']}"
        print(printable(said.rstrip()))
    return 0


def _of_daemon(folder: str) -> list[Row]:
    link = connect(f"{folder}/proxy.sock")
    link.hello()
    rows = []
    for each in link.servers():
        told = link.describe(str(each["name"]))
        rows.append(_row(str(each["name"]), str(each["profile"]), bool(each["manifest"]), str(told["gateway"])))
        rows[-1]["state"] = "stopped" if told["stopped"] else "registered"
    return rows


def _of_file(path: str) -> list[Row]:
    found = catalog.load_catalog(path)
    rows = [
        _row(name, each.entry.profile, bool(each.digest), each.gateway) | {"state": state}
        for state, group in (("registered", found.servers), ("disabled", found.disabled))
        for name, each in group.items()
    ]
    return sorted(rows, key=lambda row: str(row["name"]))


def _row(name: str, profile: str, pinned: bool, gateway: str) -> Row:
    return {
        "name": name,
        "profile": profile,
        "pinned": pinned,
        "state": "",
        "summary": json.loads(gateway).get("summary", ""),
    }


def steer(options: argparse.Namespace, _command: list[str]) -> int:
    """start, stop, kill: requests to the daemon about one server."""
    host.request(options, {"req": "start" if options.command == "start" else "stop", "server": options.name})
    if options.command == "kill":
        # nothing of it is opened any more: these are all
        for session in host.sessions(options, options.name):
            with contextlib.suppress(ConfigError):  # it has ended meanwhile
                host.request(options, {"req": "kill", "session": session})
    if options.json:
        print(json.dumps({"server": options.name, "done": options.command}))
    else:
        done = {"start": "may be started again", "stop": "is stopping", "kill": "was killed"}[options.command]
        again = "" if options.command == "start" else f"; supervisor start {options.name} lets it be started again"
        print(f"{options.name} {done}{again}")
    return 0
