"""`discover`: servers that are on this machine, as proposals: what is new, changed and gone since last time.

Runs as whoever types it. Nothing becomes configuration here: a request is a file that nobody loads, in
servers.d/proposed, until somebody approves it. What was denied is not proposed again until it has changed.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from supervisor.cli import entry, files, requested, servers
from supervisor.errors import FAILED, ConfigError, SupervisorError
from supervisor.profile import load, toml
from supervisor.registry import catalog, clients, propose, written
from supervisor.registry.discover import denied, labels, state
from supervisor.registry.discover import files as found_files
from supervisor.registry.discover.engine import Engine, sockets
from supervisor.registry.discover.proposal import MOST, Found, Proposal, found
from supervisor.registry.discover.state import Memory, Row
from supervisor.registry.installed import Machine
from supervisor.shown import printable

ENGINES = ("docker", "podman")
SOURCES = (*ENGINES, "clients", "files")
# between two looks
SECONDS = 2.0
_LIMIT = 16 << 20


def discover(options: argparse.Namespace, _command: list[str]) -> int:
    """Look once, or again and again; 1 when a source that was named could not be seen whole."""
    bound = options.bound
    if bound not in load.names():
        raise ConfigError(f'--bound "{bound}": one of {", ".join(load.names())}')
    if options.request and options.watch:
        raise ConfigError("--request files what is there now: it does not go with --watch")
    looked = look(options)
    rows = _remembered(options, looked)
    if options.request:
        return _request(options, rows)
    _tell(options, looked, rows)
    while options.watch:
        sys.stdout.flush()
        time.sleep(SECONDS)
        looked = look(options)
        _tell(options, looked, [row for row in _remembered(options, looked) if row.state != "known"])
    return FAILED if options.source and any(each.problem for each in looked) else 0


def look(options: argparse.Namespace) -> list[Found]:
    """What every source has now."""
    home = entry.home()
    machine = Machine(home, os.getcwd(), os.environ)
    return [found for each in options.source or SOURCES for found in _source(each, options, machine)]


def _source(word: str, options: argparse.Namespace, machine: Machine) -> Iterator[Found]:
    # what is no text could not be remembered
    kind, colon, path = word.partition(":") if clients.encodable(word) else ("", "", "")
    if kind in ENGINES:
        places = [os.path.abspath(path)] if colon else sockets(kind, os.environ)
        if not places:
            problem = f"{kind}: no socket of it here; name one: --source {kind}:/path/to.sock"
            yield Found(kind, problem=problem if options.source else "", absent=True)
        for each in places:
            yield _containers(kind, each, options.bound)
    elif word == "clients":
        yield found_files.of_clients(machine)
    elif word == "files":
        folder = os.path.join(os.path.dirname(entry.catalog(options)), "discover")
        there = os.path.isdir(folder)
        yield (
            found_files.in_folder(folder, machine, options.bound)
            if there
            else Found(f"files {folder}", absent=True)
        )
    elif kind and ("/" in word or os.path.exists(word)):
        path = os.path.abspath(word)
        yield (found_files.in_folder if os.path.isdir(path) else found_files.one_file)(path, machine, options.bound)
    else:
        raise ConfigError(
            f'--source "{word}": one of {", ".join(SOURCES)}, docker:SOCKET, podman:SOCKET, or a path'
        )


def _containers(kind: str, path: str, bound: str) -> Found:
    source = f"{kind} {path}"
    try:
        engine = Engine(path)
        listed = engine.containers()
        made = [labels.propose(source, each, engine.names, bound) for each in listed[:MOST]]
    except SupervisorError as error:
        return Found(source, problem=str(error))
    return found(source, made, f"{path}: more than {MOST} containers" if len(listed) > MOST else "")


def _memory_path() -> str:
    own = os.environ.get("XDG_STATE_HOME")
    if not own:
        own = "/var/lib" if os.geteuid() == 0 else os.path.join(entry.home(), ".local/state")
    return f"{own}/supervisor/discovered.json"


def _remembered(options: argparse.Namespace, looked: list[Found]) -> list[Row]:
    """The rows, each under a name of its own, and the memory of them written down."""
    path = _memory_path()
    with files.locked(os.path.dirname(path)):
        before = toml.checked(path, _LIMIT) if os.path.lexists(path) else None
        rows, memory = state.compare(Memory() if before is None else state.parse(path, before), looked)
        after = memory.model_dump_json(indent=1).encode()
        if after != before:
            files.replace(path, after, before=before)
    return _named(options, rows)


class _Known(NamedTuple):
    """What the registry has, and what was denied to it, by digest."""

    servers: dict[str, object]
    denied: dict[str, denied.Denial]


def _known(options: argparse.Namespace) -> _Known:
    return _Known(_registered(options), denied.load(_folder(options))[1].denied)


def _registered(options: argparse.Namespace) -> dict[str, object]:
    path = entry.catalog(options)
    known: dict[str, object] = {}
    for each in catalog.files(path) if os.path.exists(path) else []:
        known |= written.servers(toml.read(each).text)
    return known


def _named(options: argparse.Namespace, rows: list[Row]) -> list[Row]:
    """Names that are free in the registry and among each other; what is registered already has its own."""
    # "all" is what --request says for each
    taken = {"all": None} | _registered(options)
    made = []
    for row in rows:
        each = row.proposal
        if row.state != "gone" and not each.refused:
            name = propose.name_for(each.name, _others(taken, each.fields))
            each = Proposal(each.source, each.place, name, each.fields, each.why)
            taken[name] = each.fields
        made.append(Row(row.state, each))
    return made


def _others(taken: dict[str, object], own: dict[str, object]) -> Callable[[str], bool]:
    return lambda name: name in taken and taken[name] != own


def _tell(options: argparse.Namespace, looked: list[Found], rows: list[Row]) -> None:
    problems = [each.problem for each in looked if each.problem]
    known = _known(options)
    if options.json:
        document = {
            "proposals": [_document(row, known) for row in rows],
            "problems": problems,
            "requested": requested.names(entry.catalog(options)),
        }
        print(json.dumps(document, indent=None if options.watch else 2))
        return
    for row in rows:
        _print(row, known)
    for each in problems:
        print(f"supervisor: {printable(each)}", file=sys.stderr)
    if options.watch:
        return
    for name in requested.names(entry.catalog(options)):
        print(f"requested: {printable(name)}; {_next(options)}")
    if not rows and not problems:
        print("nothing was found")


def _next(options: argparse.Namespace) -> str:
    return shlex.join(["supervisor", "pending", *(["--config", options.config] if options.config else [])])


def _denied(row: Row, known: _Known) -> denied.Denial | None:
    return known.denied.get(denied.digest(row.proposal.fields))


def _word(row: Row, known: _Known) -> str:
    if row.proposal.refused:
        return "refused"
    if known.servers.get(row.proposal.name) == row.proposal.fields != {}:
        return "registered"
    return "denied" if _denied(row, known) else "proposed"


def _document(row: Row, known: _Known) -> dict[str, object]:
    each = row.proposal
    fields = {key: value for key, value in each.fields.items() if key != "env"}
    env = each.fields.get("env")
    gone = row.state == "gone"
    told: dict[str, object] = {"state": row.state, "name": each.name, "source": each.source, "place": each.place}
    if gone:
        return told
    said = {"verdict": _word(row, known), "entry": fields, "env": sorted(env) if isinstance(env, dict) else []}
    return told | said | {"why": each.why, "refused": each.refused}


def _print(row: Row, known: _Known) -> None:
    each = row.proposal
    verdict = "" if row.state == "gone" else f", {_word(row, known)}"
    print(f"{printable(each.name) or '(no name)'}: {row.state}{verdict}")
    print(f"    {printable(each.place)} ({printable(each.source)})")
    for line in each.refused.splitlines():
        print(f"    {printable(line)}")
    for line in servers.told(each.fields, each.why):
        print(f"    {printable(line)}")


def _folder(options: argparse.Namespace) -> str:
    return servers.proposed_folder(entry.catalog(options))


def _request(options: argparse.Namespace, rows: list[Row]) -> int:
    """File what was asked for; an earlier request of the same name is replaced."""
    known = _known(options)
    all_ = "all" in options.request
    there = {row.proposal.name: row for row in rows if row.state != "gone" and _word(row, known) == "proposed"}
    unknown = [each for each in options.request if each not in there and each != "all"]
    if unknown:
        reasons = [_reason(options, row, known) for row in rows if row.proposal.name == unknown[0]]
        refused = f": {reasons[0]}" if reasons and reasons[0] else ""
        raise ConfigError(
            f'--request "{unknown[0]}": no proposal{refused or "; there are: " + (", ".join(there) or "none")}'
        )
    folder = _folder(options)
    asked = list(there) if all_ else options.request
    with files.locked(folder):
        for name in asked:
            path = os.path.join(folder, f"{name}.toml")
            before = toml.checked(path) if os.path.lexists(path) else None
            files.replace(path, _text(there[name].proposal).encode(), before=before)
    if options.json:
        print(json.dumps({"folder": folder, "requested": asked}))
        return 0
    for name in asked:
        print(f"{name} is requested in {folder}/{name}.toml; {_next(options)} shows it by its number")
    return 0


def _reason(options: argparse.Namespace, row: Row, known: _Known) -> str:
    said = _denied(row, known)
    if row.proposal.refused or said is None:
        return row.proposal.refused
    return f"it was denied ({said.reason}) and has not changed; {_folder(options)}/{denied.NAME} has it"


def _text(proposal: Proposal) -> str:
    """The file of a request: the entry, and where it is from as a comment."""
    said = [f"found by {proposal.source} in {proposal.place}", *proposal.why]
    lines = [f"# {printable(line)}\n" for each in said for line in each.splitlines()]
    return denied.head(proposal.fields) + "".join(lines) + written.render(proposal.name, proposal.fields)
