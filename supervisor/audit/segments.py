"""The files of one log: opened or recovered, appended to, rotated, retired.

Runs in the ledger, as its uid; standard library only. One process holds a log, by a lock on its folder. What is
appended is written by `commit`, all of it or nothing: after an error the file and the chain are as they were.
Segments are `00000001.jsonl` and on; what a killed writer left behind of a line is kept in `torn-*`.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from supervisor.audit import chain
from supervisor.audit.chain import Head
from supervisor.errors import SupervisorError

CHECKPOINTS = "checkpoints.jsonl"
LOCK = "lock"
_SEGMENT = re.compile(r"([0-9]{8})\.jsonl")
_LOGS = 256
_TAIL = 4 * chain.LINE_LIMIT
_MODE = 0o640
_MOST_NOTES = 1000


class Rules(NamedTuple):
    """When a segment is full (bytes, seconds), how much is kept (bytes, seconds; 0: everything), and how much space
    stays free for the outcomes of calls that were let through."""

    segment_bytes: int = 64 << 20
    segment_seconds: int = 86400
    keep_bytes: int = 0
    keep_seconds: int = 0
    reserve: int = 4 << 20


def rules(written: dict[str, object]) -> Rules:
    """From a message. ValueError: an unknown name, or a value that is no number of at least 0."""
    for name, value in written.items():
        if name not in Rules._fields or type(value) is not int or value < 0:
            raise ValueError(f"audit rule {name} = {value!r}: there are {', '.join(Rules._fields)}, whole numbers")
    return Rules(**{name: value for name, value in written.items() if isinstance(value, int)})


def now() -> int:
    """Microseconds since 1970."""
    return time.time_ns() // 1000


def path_of(folder: Path, number: int) -> Path:
    """The file of a segment."""
    return folder / f"{number:08}.jsonl"


def numbers(folder: Path) -> list[int]:
    """The segments that are there, in order."""
    found = (number_of(name) for name in os.listdir(folder))
    return sorted(each for each in found if each is not None)


def number_of(name: str) -> int | None:
    """The number of the segment that has this file name; None for other files."""
    found = _SEGMENT.fullmatch(name)
    return int(found[1]) if found else None


def acquire(logs: Path) -> tuple[Path, int]:
    """The first log folder below `logs` that no other ledger writes, and its lock."""
    for number in range(_LOGS):
        folder = logs / str(number)
        folder.mkdir(mode=0o750, exist_ok=True)
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        return folder, lock
    raise SupervisorError(f"{logs}: {_LOGS} ledgers write here already; end one of them")


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Log:
    """One log, held by its lock. What it has to say itself (`note`) goes before the next line of a peer's."""

    def __init__(self, folder: Path, rules: Rules, clock: Callable[[], int] = now) -> None:
        self.folder, self.rules, self._now = folder, rules, clock
        self._own = (os.getuid(), os.getpid())
        self._lines: list[bytes] = []
        # bytes that wait for `commit`
        self.pending = 0
        self._notes: list[tuple[str, dict[str, object]]] = []
        self._said = 0
        self._half_written = False
        # when it was asked how much space there is beyond the reserve, and how big the segment was then
        self._asked, self._room, self._size_then = 0.0, 0, 0
        existing = numbers(folder)
        if existing and not self._resume(existing):
            existing = existing[:-1]
            if existing and not self._resume(existing):
                raise SupervisorError(
                    f"{path_of(folder, existing[-1])}: no line of it is whole; move {folder} away"
                )
        if not existing:
            self.name = secrets.token_hex(16)
            self.head = chain.genesis(self.name)
            self._begin(1)
        self._saved = self.head

    def _resume(self, existing: list[int]) -> bool:
        """Continue the last segment; False when its file was made, but none of its lines written."""
        self.number = existing[-1]
        path = path_of(self.folder, self.number)
        self._fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
        self.size = os.fstat(self._fd).st_size
        found = self._last(self.size)
        if found is None and self.size > _TAIL:
            raise SupervisorError(f"{path}: no whole line in its last {_TAIL} bytes; move {self.folder} away")
        end, self.head = found or (0, Head(0, ""))
        if end < self.size:
            self._set_aside(end)
        if found is None:
            os.close(self._fd)
            path.unlink()
            return False
        first = chain.parse(os.pread(self._fd, chain.LINE_LIMIT, 0).split(b"\n", 1)[0] + b"\n")
        said = chain.fields(first.body, "log", "segment") if first and first.kind == chain.SEGMENT else [None, None]
        if not first or not isinstance(said[0], str) or said[1] != self.number:
            raise SupervisorError(f"{path}: its first line is not that of a segment; move {self.folder} away")
        self.name, self.began = said[0], first.time
        return True

    def _last(self, size: int) -> tuple[int, Head] | None:
        """Where the last whole line ends, and what it is."""
        start = max(0, size - _TAIL)
        data = os.pread(self._fd, _TAIL, start)
        end = data.rfind(b"\n") + 1
        while end:
            begin = data.rfind(b"\n", 0, end - 1) + 1
            line = chain.parse(data[begin:end])
            if line and chain.intact(data[begin:end], line):
                return start + end, Head(line.seq, line.hash)
            end = begin
        return None

    def _set_aside(self, end: int) -> None:
        """Keep what follows the last whole line in a file of its own, and cut it off."""
        torn = os.pread(self._fd, self.size - end, end)
        digest = sha256(torn).hexdigest()
        kept = self.folder / f"torn-{self.number:08}-{end}-{digest[:16]}"
        fd = os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, _MODE)
        try:
            os.write(fd, torn)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.ftruncate(self._fd, end)
        self.size = end
        size = len(torn)
        self.note(chain.TORN, segment=self.number, offset=end, bytes=size, sha256=digest, kept=kept.name)

    def _begin(self, number: int) -> None:
        """Start a segment with the line that says so, on disk before anything follows."""
        path = path_of(self.folder, number)
        body = chain.canonical({"log": self.name, "segment": number, "version": chain.VERSION})
        began = self._now()
        line, head = chain.make(self.head, began, chain.SEGMENT, self._own, body)
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
        try:
            _write(fd, line)
            os.fsync(fd)
            _sync_folder(self.folder)
        except OSError:
            os.close(fd)
            path.unlink()
            raise
        if number > 1:
            os.close(self._fd)
        self._fd, self.number, self.size, self.began, self.head = fd, number, len(line), began, head

    def note(self, kind: str, **body: object) -> None:
        """A line of the ledger's own, as soon as one can be written."""
        if len(self._notes) < _MOST_NOTES:
            self._notes.append((kind, body))

    def append(self, kind: str, who: tuple[int, int], body: bytes) -> None:
        """One more line for the next `commit`."""
        if not self._lines:
            self._say()
        self._add(kind, who, body)

    def _say(self) -> None:
        self._said = len(self._notes)
        for kind, body in self._notes:
            self._add(kind, self._own, chain.canonical(body))

    def _add(self, kind: str, who: tuple[int, int], body: bytes) -> None:
        line, self.head = chain.make(self.head, self._now(), kind, who, body)
        self._lines.append(line)
        self.pending += len(line)

    def commit(self) -> None:
        """Write what was appended and noted. OSError: nothing of it was, and notes are tried again."""
        if not self._lines:
            self._say()
        data = b"".join(self._lines)
        try:
            if self._half_written:
                self._mend()
            _write(self._fd, data)
        except OSError:
            self.head, self._lines, self.pending = self._saved, [], 0
            self._half_written = True
            self._mend()
            raise
        self.size += len(data)
        self._saved, self._lines, self.pending = self.head, [], 0
        if self._said:
            del self._notes[: self._said]

    def _mend(self) -> None:
        """Cut off what was written of a batch: it may end within a line. OSError: not yet."""
        os.ftruncate(self._fd, self.size)
        self._half_written = False

    def sync(self) -> None:
        """Return when everything committed survives a loss of power."""
        os.fdatasync(self._fd)

    def is_short(self) -> bool:
        """Whether the file system has less than the reserve left; asked each second, or when much was written."""
        moment = time.monotonic()
        if moment > self._asked + 1 or self.size - self._size_then > self._room // 2:
            state = os.fstatvfs(self._fd)
            self._room = state.f_bavail * state.f_frsize - self.rules.reserve
            self._asked, self._size_then = moment, self.size
        return self._room < 0

    def is_full(self) -> bool:
        """Whether the segment should be followed by another."""
        return (
            self.size >= self.rules.segment_bytes
            or self._now() - self.began >= self.rules.segment_seconds * 1_000_000
        )

    def rotate(self) -> None:
        """Start the next segment; only between `commit` and `append`."""
        self.sync()
        self._begin(self.number + 1)
        self._saved = self.head

    def retire(self, held: int) -> list[int]:
        """Remove the oldest segments beyond what is kept, never the current one nor one from `held` on.

        That they are gone, and the hash that their last line had, is on disk in the chain before they are.
        """
        old = [number for number in self._expired() if number < held]
        if old:
            with open(path_of(self.folder, old[-1] + 1), "rb") as file:
                after = chain.parse(file.readline(chain.LINE_LIMIT))
            if after is None:
                raise SupervisorError(f"{path_of(self.folder, old[-1] + 1)}: its first line was changed")
            self.note(chain.RETIRED, first=old[0], last=old[-1], seq=after.seq - 1, head=after.prev)
            self.commit()
            self.sync()
        for number in old:
            path_of(self.folder, number).unlink()
        return old

    def _expired(self) -> list[int]:
        stats = [(number, os.stat(path_of(self.folder, number))) for number in numbers(self.folder)]
        total, since = sum(each.st_size for _, each in stats), time.time() - self.rules.keep_seconds
        expired = []
        for number, each in stats[:-1]:
            over = self.rules.keep_bytes and total > self.rules.keep_bytes
            if not over and not (self.rules.keep_seconds and each.st_mtime < since):
                break
            total -= each.st_size
            expired.append(number)
        return expired

    def keep_checkpoint(self, line: bytes) -> None:
        """Store a signed checkpoint beside the segments. OSError: it is not there; the next will be."""
        fd = os.open(self.folder / CHECKPOINTS, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _MODE)
        try:
            size = os.fstat(fd).st_size
            try:
                _write(fd, line)
            except OSError:
                os.ftruncate(fd, size)
                raise
        finally:
            os.close(fd)


def _write(fd: int, data: bytes) -> None:
    """All of it, or OSError; a disk that fills up takes a part first."""
    while data:
        data = data[os.write(fd, data) :]
