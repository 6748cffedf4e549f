"""Reading a log that may be written at the same time: every whole line from a cursor on, through its segments.

Runs in the command line and in exports. Reads only, asks no ledger, and holds nobody up.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from supervisor.audit import chain, segments
from supervisor.audit.chain import Line
from supervisor.audit.cursors import Cursor
from supervisor.errors import SupervisorError

_CHUNK = 1 << 20


class Read(NamedTuple):
    """One line: `line` is None when it is not whole in itself, `fault` says what is wrong with it or before it.

    It begins at `offset` of `segment`; `after` is where the next begins.
    """

    raw: bytes
    line: Line | None
    fault: str
    segment: int
    offset: int
    after: Cursor


def opened(path: Path) -> BinaryIO:
    """A file of a log. SupervisorError: what has its name is none, and could wait or never end; OSError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
    else:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return open(fd, "rb")
        os.close(fd)
    raise SupervisorError(f"{path}: not a regular file, as all of an audit log are: what it was is to be put back")


def identity(folder: Path) -> str:
    """Whose log it is, as the first line of its first segment says; "" when none does."""
    for number in segments.numbers(folder)[:1]:
        with opened(segments.path_of(folder, number)) as file:
            line = chain.parse(file.readline(chain.LINE_LIMIT))
        said = chain.fields(line.body, "log")[0] if line and line.kind == chain.SEGMENT else ""
        return said if isinstance(said, str) else ""
    return ""


def lines(folder: Path, cursor: Cursor) -> Iterator[Read]:
    """What is there now, from the cursor on. A line without an end is not there yet."""
    for number in segments.numbers(folder):
        if number < cursor.segment:
            continue
        if number > cursor.segment:
            # what lies between was retired, or this is the beginning: the first line of the segment will tell
            held = cursor.hash if number == cursor.segment + 1 else ""
            cursor = Cursor(number, 0, held)
        for read in _segment(segments.path_of(folder, number), cursor):
            yield read
            cursor = read.after


def _segment(path: Path, cursor: Cursor) -> Iterator[Read]:
    try:
        file = opened(path)
    except FileNotFoundError:
        return  # retired since it was listed
    with file:
        rest, offset, digest = b"", cursor.offset, cursor.hash
        while data := os.pread(file.fileno(), _CHUNK, offset + len(rest)):
            *whole, rest = (rest + data).split(b"\n")
            for text in whole:
                read = _judge(text + b"\n", cursor.segment, offset, digest)
                yield read
                offset, digest = read.after.offset, read.after.hash
            if len(rest) > chain.LINE_LIMIT:
                # longer than any line that was written: not kept to its end
                read = _judge(rest, cursor.segment, offset, digest)
                yield read
                rest, offset, digest = b"", read.after.offset, read.after.hash


def _judge(raw: bytes, segment: int, offset: int, before: str) -> Read:
    line = chain.parse(raw)
    if line is None or not chain.intact(raw, line):
        line, fault, after = None, "changed: its hash is not the one that it states", ""
    else:
        fault = "does not continue the line before it" if before and line.prev != before else ""
        after = line.hash
    return Read(raw, line, fault, segment, offset, Cursor(segment, offset + len(raw), after))


def last(folder: Path, count: int) -> Cursor:
    """Where the last `count` lines of a log begin, or its last segment if that has fewer."""
    numbers = segments.numbers(folder)
    if not numbers:
        return Cursor(0, 0, "")
    with opened(segments.path_of(folder, numbers[-1])) as file:
        size = file.seek(0, os.SEEK_END)
        data, start = b"", size
        while start and data.count(b"\n") <= count:
            start = max(0, start - (1 << 16))
            file.seek(start)
            data = file.read(size - start)
    kept = data.splitlines(keepends=True)[-count:] if count else []
    if kept and not kept[-1].endswith(b"\n") and count:
        kept = data.splitlines(keepends=True)[-count - 1 :]
    return Cursor(numbers[-1], size - sum(map(len, kept)), "")
