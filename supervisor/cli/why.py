"""`why`: each denial of a call or a session in the audit log, with what made it and the line that would allow it.

Runs as whoever types it; the log, every word of which may be a stranger's, is read by a child that has given up
what root has, as in `supervisor audit`.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import NoReturn

from supervisor.audit import confine, index, query, verify, view
from supervisor.audit.confine import Place
from supervisor.audit.denials import Denial, denials
from supervisor.cli import entry
from supervisor.errors import FAILED, SupervisorError
from supervisor.profile.entry import ServerEntry
from supervisor.registry import catalog
from supervisor.registry import why as reasons
from supervisor.registry.why import Answer
from supervisor.shown import printable

_ANSWER = 16 << 20
# of a session
_CALLS = 2000


def why(options: argparse.Namespace, _tail: list[str]) -> int:
    """Explain; 1 when there is nothing of that name in the log."""
    place = Place(Path(os.path.abspath(options.folder)) if options.folder else confine.default_root())
    found = _ask(place, options.name)
    path = entry.catalog(options)
    servers = _servers(path)
    rows = []
    for each in found:
        now = reasons.known(servers.get(each.server), each.profile, path, tuple(servers))
        rows.append((each, reasons.answer(each, now)))
    if options.json:
        listed = [{"denial": each._asdict(), "answer": said._asdict()} for each, said in rows]
        print(json.dumps({"name": options.name, "denials": listed}, indent=2))
        return 0
    if not rows:
        print("nothing of it was denied; supervisor audit show has all of a call")
    for each, said in rows:
        _print(each, said)
    return 0


def _servers(path: str) -> dict[str, ServerEntry]:
    if not os.path.exists(path):
        return {}
    found = catalog.load_catalog(path)
    return {name: each.entry for group in (found.servers, found.disabled) for name, each in group.items()}


def _print(denial: Denial, said: Answer) -> None:
    print(f"{printable(said.what)}   ({printable(denial.server or 'no server')}, {view.clock(denial.time)})")
    print(f"    why:   {printable(said.why)}")
    if said.where:
        print(f"    where: {printable(said.where)}")
    if said.allow:
        print(f"    line:  {printable(said.allow)}")


def _ask(place: Place, name: str) -> list[Denial]:
    """The denials of a call or a session, as a child read them."""
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(here)
        _read(place, name, there)
    os.close(there)
    with open(here, "rb") as file:
        data = file.read(_ANSWER + 1)
    os.waitpid(child, 0)
    told = json.loads(data) if 0 < len(data) <= _ANSWER else {"error": "the log could not be read"}
    if "error" in told:
        raise SupervisorError(str(told["error"]))
    return [Denial(*each) for each in told["denials"]]


def _read(place: Place, name: str, answer: int) -> NoReturn:
    status = FAILED
    try:
        try:
            confine.become_reader()
            told: dict[str, object] = {"denials": denials(_entries(place, name))}
        except SupervisorError as error:
            told = {"error": str(error)}
        except OSError as error:
            told = {"error": f"{error.filename or place.root}: {error.strerror}"}
        with open(answer, "w", encoding="ascii") as file:
            json.dump(told, file)
        status = 0
    finally:
        os._exit(status)


def _entries(place: Place, name: str) -> list[view.Entry]:
    verify.folders(place)
    with index.opened(place) as database:
        found = query.call(database, name)
        if not found:
            found = query.search(database, query.Wanted(session=name), _CALLS)[::-1]
        if not found:
            raise SupervisorError(f"no call and no session {name!r} is in the log; see supervisor audit query")
        lines = [line for each in found for line in query.lines(place, database, each) if line]
        return [view.entry(line) for line in lines]
