"""Exports: what the log gains goes to a receiver, at least once and in order, from a cursor on disk.

Runs in the command line, as the readers' uid or the user. It reads the files of the log, never the ledger: a
receiver that is slow or gone holds up nobody's call, and what it has not got stays (the ledger retires no segment
before the cursor). The cursor moves only after the receiver has what lies before it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from supervisor.audit import cursors, formats, read, segments
from supervisor.audit.confine import Place
from supervisor.audit.cursors import START, Cursor
from supervisor.audit.formats import Item
from supervisor.audit.read import Read
from supervisor.audit.send import Sender, Undelivered

BATCH = 2000
_POLL, _PATIENCE = 0.5, 30.0

Tell = Callable[[str], None]


class Export:
    """One destination, known by its name: its cursors are `NAME.LOG`."""

    def __init__(self, place: Place, name: str, sender: Sender, tell: Tell) -> None:
        self._place, self._name, self._sender, self._tell = place, name, sender, tell
        self.count = 0

    def once(self) -> int:
        """Everything that is there now: how many records. Undelivered when the receiver does not take it."""
        before = self.count
        for folder in self._folders():
            log = read.identity(folder)
            if log:
                self._drain(folder, log)
        return self.count - before

    def _folders(self) -> list[Path]:
        logs = self._place.logs
        return sorted(path for path in logs.iterdir() if path.name.isdecimal()) if logs.is_dir() else []

    def _drain(self, folder: Path, log: str) -> None:
        cursor = cursors.read(self._place.cursors, self._name, log)
        if cursor == START:
            # from now on the ledger keeps everything for us
            cursor = Cursor((segments.numbers(folder) or [0])[0], 0, "")
            cursors.write(self._place.cursors, self._name, log, cursor)
        elif cursor.segment < (segments.numbers(folder) or [0])[0]:
            self._tell(
                f"log {folder.name}: records after segment {cursor.segment} were removed before they were exported"
            )
        for batch in _batches(read.lines(folder, cursor)):
            made = formats.events(Item(log, each.segment, each.line, each.fault) for each in batch)
            if made:
                self._sender.deliver(made)
            cursors.write(self._place.cursors, self._name, log, batch[-1].after)
            self.count += len(made)

    def follow(self) -> None:
        """For ever: a receiver that takes nothing is asked again, less and less often, and nothing is left out."""
        wait = _POLL
        while True:
            try:
                self.once()
                wait = _POLL
            except Undelivered as error:
                wait = min(wait * 2, _PATIENCE)
                self._tell(f"{error}; again in {wait:g} s")
            time.sleep(wait)


def _batches(reads: Iterator[Read]) -> Iterator[list[Read]]:
    while batch := list(itertools.islice(reads, BATCH)):
        yield batch
