"""Looking calls up: by who, what, where and when, newest first.

Runs in the command line, as the readers' uid or the user. The rarest of the things that are asked for drives the
look-up, by the index that is named for it; SQLite's own planner would scan a million calls by time.
"""

from __future__ import annotations

import re
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from supervisor.audit import chain, read, segments
from supervisor.audit.chain import Line
from supervisor.audit.confine import Place
from supervisor.audit.index import COLUMNS
from supervisor.errors import ConfigError

# what is counted up to, to see which of several things is rare
_MANY = 10_000
_EVER = 1 << 62
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Wanted:
    """What is asked for; what is empty is not. Microseconds; `path` is a file, or a folder and all in it."""

    user: str = ""
    session: str = ""
    client: str = ""
    server: str = ""
    tool: str = ""
    verdict: str = ""
    status: str = ""
    path: str = ""
    host: str = ""
    text: str = ""
    since: int = 0
    until: int = _EVER


class Found(NamedTuple):
    """A call as the index knows it; where its lines are is for `lines`."""

    id: int
    log: str
    kind: str
    call: str
    speaker: str
    time: int
    user: str
    session: str
    client: str
    server: str
    tool: str
    method: str
    verdict: str
    rule: str
    status: str
    reason: str
    microseconds: int | None
    segment: int
    offset: int
    end_segment: int | None
    end_offset: int | None


class _Term(NamedTuple):
    """One thing that is asked for: a query for the ids that have it, and the condition on a call `c`.

    `column`: the index of that column gives them in order of time. `order`: by this the ids come newest first
    without being sorted.
    """

    ids: str
    values: tuple[object, ...]
    condition: str
    conditional: tuple[object, ...]
    column: str = ""
    order: str = ""


def _terms(database: sqlite3.Connection, wanted: Wanted) -> list[_Term]:
    terms = []
    for name in COLUMNS:
        if value := getattr(wanted, name):
            ids = f"SELECT id FROM call INDEXED BY call_{name} WHERE {name} = ? AND time BETWEEN ? AND ?"
            terms.append(_Term(ids, (value, wanted.since, wanted.until), f"c.{name} = ?", (value,), name))
    if wanted.path:
        terms.append(_below(database, wanted.path.rstrip("/")))
    if wanted.host:
        terms.append(_touching("host", wanted.host))
    if wanted.text:
        terms.append(_saying(wanted.text))
    return terms


_TOUCH = "EXISTS (SELECT 1 FROM touch t INDEXED BY touch_id WHERE t.id = c.id AND t.kind = ? AND "


def _touching(kind: str, name: str) -> _Term:
    ids = "SELECT id FROM touch WHERE kind = ? AND name = ?"
    return _Term(ids, (kind, name), f"{_TOUCH} t.name = ?)", (kind, name), order="id")


def _below(database: sqlite3.Connection, path: str) -> _Term:
    """A file by its path; a folder by everything below it as well."""
    exact = _touching("file", path or "/")
    # everything that begins with "path/": "0" is the character after "/"
    values = ("file", f"{path}/", f"{path}0")
    ids = "SELECT id FROM touch WHERE kind = ? AND name >= ? AND name < ?"
    if not database.execute(f"SELECT 1 FROM ({ids}) LIMIT 1", values).fetchone():
        return exact
    condition = f"{_TOUCH} (t.name = ? OR (t.name >= ? AND t.name < ?)))"
    return _Term(
        f"{exact.ids} UNION ALL {ids}", (*exact.values, *values), condition, ("file", path or "/", *values[1:])
    )


def _saying(text: str) -> _Term:
    words = " ".join(f'"{word}"' for word in _WORD.findall(text))
    if not words:
        raise ConfigError(f"--text {text!r}: there is no word in it to look for")
    ids = "SELECT rowid / 2 AS id FROM words WHERE words MATCH ?"
    condition = "EXISTS (SELECT 1 FROM words WHERE words MATCH ? AND rowid BETWEEN c.id * 2 AND c.id * 2 + 1)"
    return _Term(ids, (words,), condition, (words,), order="rowid")


def _driver(database: sqlite3.Connection, terms: list[_Term], *, streaming: bool) -> _Term | None:
    """The term that the fewest have; of those that many have, one that gives the newest first. None: go by time."""
    counts = [
        database.execute(f"SELECT count(*) FROM ({term.ids} LIMIT {_MANY})", term.values).fetchone()[0]
        for term in terms
    ]
    ranked = sorted(zip(counts, terms, strict=True), key=lambda each: (each[0], not each[1].column))
    for count, term in ranked:
        if count < _MANY or term.column or (term.order and streaming):
            return term
    return None


def search(database: sqlite3.Connection, wanted: Wanted, limit: int) -> list[Found]:
    """The newest calls that have all that is asked for; a limit of -1 is none."""
    terms = _terms(database, wanted)
    # rows of one log are in order of time; where several are, only the time tells
    one_log = database.execute("SELECT count(*) FROM source").fetchone()[0] < 2
    driver = _driver(database, terms, streaming=one_log)
    others = [term for term in terms if term is not driver]
    conditions = " AND ".join(["c.time BETWEEN ? AND ?", *(term.condition for term in others)])
    values = [wanted.since, wanted.until, *(value for term in others for value in term.conditional)]
    if driver and driver.order and one_log:
        return _stream(database, driver, (conditions, values), limit)
    if driver is None or driver.column:
        index = f"call_{driver.column}" if driver else "call_time"
        conditions = f"{driver.condition} AND {conditions}" if driver else conditions
        values = [*(driver.conditional if driver else ()), *values]
        query = f"SELECT c.* FROM call c INDEXED BY {index} WHERE {conditions} ORDER BY c.time DESC LIMIT ?"
    else:
        ids = f"SELECT DISTINCT id FROM ({driver.ids})"
        query = f"SELECT c.* FROM ({ids}) d CROSS JOIN call c ON c.id = d.id WHERE {conditions} "
        query += "ORDER BY c.time DESC LIMIT ?"
        values = [*driver.values, *values]
    return [Found(*row) for row in database.execute(query, (*values, limit))]


def _stream(
    database: sqlite3.Connection, driver: _Term, where: tuple[str, list[object]], limit: int
) -> list[Found]:
    """Ids newest first, until enough of them are found: SQLite itself would sort all of them before the first."""
    row = f"SELECT c.* FROM call c WHERE c.id = ? AND {where[0]}"
    found: list[Found] = []
    last = 0
    for (number,) in database.execute(f"{driver.ids} ORDER BY {driver.order} DESC", driver.values):
        if len(found) == limit:
            break
        # intent and outcome of a call can both have it
        if number != last:
            found += [Found(*each) for each in database.execute(row, (number, *where[1]))]
        last = number
    return found


def call(database: sqlite3.Connection, name: str) -> list[Found]:
    """Every row of one call: more than one if somebody used its id again."""
    query = "SELECT * FROM call INDEXED BY call_call WHERE call = ? ORDER BY time"
    return [Found(*row) for row in database.execute(query, (name,))]


def faults(database: sqlite3.Connection) -> int:
    """How many lines were not as they must be when they were read."""
    return int(database.execute("SELECT count(*) FROM fault").fetchone()[0])


def lines(place: Place, database: sqlite3.Connection, found: Found) -> list[Line | None]:
    """The lines of a call, from the log itself; None for one whose segment is gone or that is not whole."""
    named = database.execute("SELECT folder FROM source WHERE log = ?", (found.log,)).fetchone()
    folder = place.logs / str(named[0] if named else "")
    made = [_line(folder, found.segment, found.offset)]
    if found.end_segment is not None and found.end_offset is not None:
        made.append(_line(folder, found.end_segment, found.end_offset))
    return made


def _line(folder: Path, segment: int, offset: int) -> Line | None:
    try:
        with read.opened(segments.path_of(folder, segment)) as file:
            file.seek(offset)
            raw = file.readline(chain.LINE_LIMIT)
    except FileNotFoundError:
        return None
    parsed = chain.parse(raw)
    return parsed if parsed and chain.intact(raw, parsed) else None
