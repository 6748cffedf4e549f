"""How far each export has come: one small file for each destination and log, `NAME.LOG`.

Standard library only. The exports write it, as the readers' uid, after the receiver has what lies before; the
ledger reads it and retires no segment that an export still needs.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path
from typing import NamedTuple

from supervisor.errors import ConfigError, SupervisorError

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_SIZE = 4096


class Cursor(NamedTuple):
    """The next byte to be read: its segment and offset; `hash` is that of the line before it."""

    segment: int
    offset: int
    hash: str


START = Cursor(0, 0, "")


def _path(folder: Path, name: str, log: str) -> Path:
    if not NAME.fullmatch(name):
        raise ConfigError(f'export name "{name}": letters, digits, - and _, at most 64')
    return folder / f"{name}.{log}"


def read(folder: Path, name: str, log: str) -> Cursor:
    """Where this export goes on; START when it has not begun. SupervisorError: the file is not to be understood."""
    path = _path(folder, name, log)
    try:
        return _parse(path)
    except FileNotFoundError:
        return START


def _parse(path: Path) -> Cursor:
    try:
        with open(path, "rb") as file:
            found = Cursor(**json.loads(file.read(_SIZE)))
        if type(found.segment) is not int or type(found.offset) is not int or type(found.hash) is not str:
            raise ValueError("not a cursor")
    except (ValueError, TypeError):
        raise SupervisorError(
            f"{path}: not a cursor; remove it to export everything that is still there once more"
        ) from None
    return found


def write(folder: Path, name: str, log: str, cursor: Cursor) -> None:
    """Remember, on disk, before anything is said to be exported."""
    path = _path(folder, name, log)
    draft = path.with_name(f"{path.name}.new")
    with open(draft, "w", encoding="ascii", opener=_private) as file:
        json.dump(cursor._asdict(), file)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)


def forget(folder: Path, name: str) -> int:
    """Remove an export's cursors: how many there were."""
    found = [path for path in folder.glob(f"{name}.*") if NAME.fullmatch(name)]
    for path in found:
        path.unlink()
    return len(found)


def oldest(folder: Path, log: str) -> int:
    """The first segment of a log that an export still needs. One that has not begun needs all."""
    needed = 1 << 62
    for name in os.listdir(folder):
        if name.endswith(f".{log}"):
            segment = 0
            with contextlib.suppress(SupervisorError, OSError):
                segment = _parse(folder / name).segment
            needed = min(needed, segment)
    return needed
