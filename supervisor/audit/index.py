"""The index: an SQLite file that finds calls in the log. The log is the truth; this can be removed at any time.

Runs in the command line, as the readers' uid or the user. Every use first reads what the log has gained since the
last one. A call is a row: its intent, and its outcome when that came from the same process. What a line says beyond
that is read from the log itself.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from supervisor.audit import chain, read, segments, view
from supervisor.audit.confine import Place
from supervisor.audit.cursors import START, Cursor
from supervisor.audit.read import Read
from supervisor.audit.view import Entry
from supervisor.errors import SupervisorError

_VERSION = 2
_BATCH = 20_000
# what is looked up by value, newest first; the query names the index, because the planner would scan by time
COLUMNS = ("user", "session", "server", "tool", "verdict", "status", "client")
_SCHEMA = f"""
CREATE TABLE source(log TEXT PRIMARY KEY, folder TEXT, segment INTEGER, offset INTEGER, hash TEXT, oldest INTEGER);
CREATE TABLE call(
  id INTEGER PRIMARY KEY, log TEXT, kind TEXT, call TEXT, speaker TEXT, time INTEGER,
  user TEXT, session TEXT, client TEXT, server TEXT, tool TEXT, method TEXT,
  verdict TEXT, rule TEXT, status TEXT, reason TEXT, microseconds INTEGER,
  segment INTEGER, offset INTEGER, end_segment INTEGER, end_offset INTEGER
);
CREATE INDEX call_call ON call(call);
CREATE INDEX call_time ON call(time);
{"".join(f"CREATE INDEX call_{each} ON call({each}, time);" for each in COLUMNS)}
CREATE TABLE touch(kind TEXT, name TEXT, id INTEGER, denied INTEGER, PRIMARY KEY(kind, name, id)) WITHOUT ROWID;
CREATE INDEX touch_id ON touch(id);
CREATE VIRTUAL TABLE words USING fts5(text, content='', detail=none);
CREATE TABLE fault(log TEXT, segment INTEGER, offset INTEGER, reason TEXT, PRIMARY KEY(log, segment, offset));
PRAGMA user_version = {_VERSION};
"""
_INSERT = f"INSERT INTO call VALUES ({', '.join('?' * 21)})"

_FINISH = """UPDATE call SET status = ?, reason = coalesce(nullif(reason, ''), ?), microseconds = ?,
  end_segment = ?, end_offset = ? WHERE id = ?"""
_OPEN = """SELECT id FROM call INDEXED BY call_call WHERE call = ? AND speaker = ? AND log = ? AND kind = 'intent'
  AND end_segment IS NULL ORDER BY id DESC LIMIT 1"""
_ENDED = """SELECT 1 FROM call INDEXED BY call_call WHERE call = ? AND speaker = ? AND log = ? AND status = ?
  AND microseconds IS ? AND (end_segment IS NOT NULL OR kind = 'outcome') LIMIT 1"""


class Stale(Exception):
    """The index does not belong to the log as it is now."""


def _connect(path: Path | None) -> sqlite3.Connection:
    try:
        database = sqlite3.connect(path or ":memory:", timeout=60, isolation_level=None)
        # what is lost with the power is made again
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = OFF")
        # names come in no order: with SQLite's usual 2 MiB every insertion would read pages again
        database.execute("PRAGMA cache_size = -65536")
        database.execute("PRAGMA wal_autocheckpoint = 10000")
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            database.executescript(_SCHEMA)
        elif version != _VERSION:
            raise Stale
    except sqlite3.DatabaseError as error:
        raise Stale from error
    return database


def _remove(path: Path | None) -> None:
    for suffix in ("", "-wal", "-shm") if path else ():
        Path(f"{path}{suffix}").unlink(missing_ok=True)


@contextlib.contextmanager
def opened(place: Place, *, rebuild: bool = False) -> Iterator[sqlite3.Connection]:
    """The index with everything in it that the logs hold now. SupervisorError: it cannot be made.

    Where none can be kept, as beside a copy of a log, it is made in memory.
    """
    path = place.indexes / "index.sqlite" if os.access(place.indexes, os.W_OK) else None
    if rebuild:
        _remove(path)
    try:
        try:
            database = _updated(path, place)
        except Stale:
            _remove(path)
            database = _updated(path, place)
    except (Stale, sqlite3.Error, OSError) as error:
        raise SupervisorError(f"{path}: the index cannot be written: {error.__cause__ or error}") from None
    try:
        yield database
    finally:
        database.close()


def _updated(path: Path | None, place: Place) -> sqlite3.Connection:
    database = _connect(path)
    try:
        for folder in sorted(place.logs.iterdir()) if place.logs.is_dir() else []:
            if folder.name.isdecimal():
                _update(database, folder)
    except sqlite3.DatabaseError as error:
        database.close()
        raise Stale from error
    except Stale:
        database.close()
        raise
    return database


def _update(database: sqlite3.Connection, folder: Path) -> None:
    """Read what a log has gained, a transaction for each batch: another reader may do the same at the same time."""
    log = read.identity(folder)
    while log:
        database.execute("BEGIN IMMEDIATE")
        try:
            filling = _Filling(database, log, folder)
            more = filling.batch()
            database.execute("COMMIT")
        except BaseException:
            database.execute("ROLLBACK")
            raise
        if not more:
            return


class _Filling:
    """Rows of one log, from where the index ends."""

    def __init__(self, database: sqlite3.Connection, log: str, folder: Path) -> None:
        self._database, self._log, self._folder = database, log, folder
        found = database.execute(
            "SELECT segment, offset, hash, oldest FROM source WHERE log = ?", (log,)
        ).fetchone()
        self._cursor = Cursor(*found[:3]) if found else START
        self._retire(found[3] if found else 0)
        self._next = database.execute("SELECT coalesce(max(id), 0) + 1 FROM call").fetchone()[0]
        self._open: dict[tuple[str, str], int] = {}
        self._ended: dict[tuple[str, str], tuple[str, int | None]] = {}
        self._rows: dict[int, list[object]] = {}
        self._finished: list[tuple[object, ...]] = []
        self._touched: list[tuple[object, ...]] = []
        self._words: list[tuple[int, str]] = []
        self._faults: list[tuple[object, ...]] = []

    def _retire(self, oldest: int) -> None:
        """Rows of segments that are gone go too. Their words stay; when half is gone, everything is made anew."""
        first = (segments.numbers(self._folder) or [0])[0]
        if first > max(oldest, 1):
            gone = "SELECT id FROM call WHERE log = ? AND segment < ?"
            self._database.execute(f"DELETE FROM touch WHERE id IN ({gone})", (self._log, first))
            count = self._database.execute(
                "DELETE FROM call WHERE log = ? AND segment < ?", (self._log, first)
            ).rowcount
            left = self._database.execute("SELECT count(*) FROM call").fetchone()[0]
            if count > left:
                raise Stale
        self._oldest = first

    def batch(self) -> bool:
        """Some thousand lines; whether there may be more."""
        count = 0
        for each in read.lines(self._folder, self._cursor):
            count += 1
            if each.fault:
                self._faults.append((self._log, each.segment, each.offset, each.fault))
            if each.line and each.line.kind in chain.PEER_KINDS:
                self._take(view.entry(each.line), each)
            self._cursor = each.after
            if count >= _BATCH:
                break
        self._store()
        return count >= _BATCH

    def _store(self) -> None:
        write = self._database.executemany
        write(_INSERT, self._rows.values())
        write(_FINISH, self._finished)
        write("INSERT OR IGNORE INTO touch VALUES (?, ?, ?, ?)", self._touched)
        write("INSERT INTO words(rowid, text) VALUES (?, ?)", self._words)
        write("INSERT OR REPLACE INTO fault VALUES (?, ?, ?, ?)", self._faults)
        source = (self._log, self._folder.name, *self._cursor, self._oldest)
        self._database.execute("INSERT OR REPLACE INTO source VALUES (?, ?, ?, ?, ?, ?)", source)

    def _take(self, entry: Entry, at: Read) -> None:
        """An outcome completes the intent of the same call by the same process; all else is a row of its own.

        But for one that is there already: its sender did not hear that it was written, and sent it again.
        """
        key = (entry.call, f"{entry.speaker[0]}:{entry.speaker[1]}")
        found = self._intent(key) if entry.kind == "outcome" else None
        if entry.kind == "outcome":
            if found is None and self._is_there(key, entry):
                return
            self._ended[key] = entry.status, entry.microseconds
        number = found or self._next
        if found is None:
            self._next += 1
            self._rows[number] = self._row(number, entry, at)
            if entry.kind == "intent":
                self._open[key] = number
        else:
            end = (entry.status, entry.reason, entry.microseconds, at.segment, at.offset)
            if row := self._rows.get(number):
                row[14:17] = [end[0], row[15] or end[1], end[2]]
                row[19:21] = end[3:]
            else:
                self._finished.append((*end, number))
        self._words.append((number * 2 + (found is not None), entry.text))
        self._touched += [(each.kind, each.name, number, each.denied) for each in entry.touched]

    def _intent(self, key: tuple[str, str]) -> int | None:
        if number := self._open.pop(key, None):
            return number
        found = self._database.execute(_OPEN, (*key, self._log)).fetchone()
        return int(found[0]) if found else None

    def _is_there(self, key: tuple[str, str], entry: Entry) -> bool:
        said = entry.status, entry.microseconds
        return self._ended.get(key) == said or bool(
            self._database.execute(_ENDED, (*key, self._log, *said)).fetchone()
        )

    def _row(self, number: int, entry: Entry, at: Read) -> list[object]:
        speaker = f"{entry.speaker[0]}:{entry.speaker[1]}"
        told = [getattr(entry, name) for name in ("user", "session", "client", "server", "tool", "method")]
        told += [getattr(entry, name) for name in ("verdict", "rule", "status", "reason", "microseconds")]
        here = [at.segment, at.offset, None, None]
        return [number, self._log, entry.kind, entry.call, speaker, entry.time, *told, *here]
