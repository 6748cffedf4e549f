"""A pass over the lines of a log: what is wrong with them, and where.

Pure; standard library only; runs in the command line. The walk goes on behind a fault, so that all are told.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from supervisor.audit import chain
from supervisor.audit.chain import PEER_KINDS, RETIRED, SEGMENT, VERSION, Checkpoint, Head, Line

# how the fault of a line without an end begins
CUT_OFF = "cut off after"
# of one log: a file of nothing but line ends has a fault for each of its bytes
MOST_FAULTS = 100_000


class Fault(NamedTuple):
    """Something that is not as the ledger wrote it, and where. Line 0: the segment as a whole."""

    log: str
    segment: int
    line: int
    reason: str

    def __str__(self) -> str:
        where = f"segment {self.segment}" + (f" line {self.line}" if self.line else "")
        return f"log {self.log} {where}: {self.reason}" if self.segment else f"log {self.log}: {self.reason}"


@dataclass
class Walk:
    """A pass over the lines of one log, in order: what is wrong is collected, and the walk goes on behind it.

    `name` is what faults call the log, `log` its identity once a segment has said it.
    """

    name: str
    log: str = ""
    head: Head | None = None
    first: Head | None = None
    segment: int = 0
    line: int = 0
    records: int = 0
    faults: list[Fault] = field(default_factory=list)
    # the ledger's own remarks: (segment, line, kind, body)
    remarks: list[tuple[int, int, str, bytes]] = field(default_factory=list)
    # what somebody wants to compare, by record: filled in as (hash, segment, line)
    wanted: dict[int, tuple[str, int, int]] = field(default_factory=dict)
    _trusted: bool = False
    _end: int = 0

    def fault(self, reason: str, *, segment: int = 0, line: int | None = None) -> None:
        """Note what is wrong here, or elsewhere."""
        if len(self.faults) > MOST_FAULTS:
            return
        if len(self.faults) == MOST_FAULTS:
            reason = f"{reason}; what else is wrong with this log is not listed"
        at = self.line if line is None else line
        self.faults.append(Fault(self.name, segment or self.segment, at, reason))

    def enter(self, number: int) -> None:
        """From now on lines are those of this segment."""
        if self.segment and number != self.segment + 1:
            for missing in range(self.segment + 1, min(number, self.segment + 100)):
                self.fault("missing", segment=missing, line=0)
            self._trusted = False
        self.segment, self.line = number, 0

    def feed(self, raw: bytes) -> Line | None:
        """The next line, with its line end; None when it is not to be believed."""
        self.line += 1
        if not raw.endswith(b"\n"):
            self.fault(f"{CUT_OFF} {len(raw)} bytes")
            return None
        line = chain.parse(raw)
        if line is None or not chain.intact(raw, line):
            self.fault(
                "changed: its hash is not the one that it states" if line else "changed: not a line of a log"
            )
            # what follows is believed again, from the next line on
            self._trusted = False
            self.head = self.head and Head(self.head.seq + 1, "")
            return None
        self._follow(line)
        if self.line == 1:
            self._opening(line)
        self.records += 1
        if line.seq in self.wanted:
            self.wanted[line.seq] = (line.hash, self.segment, self.line)
        if line.kind not in PEER_KINDS:
            self.remarks.append((self.segment, self.line, line.kind, line.body))
        return line

    def _follow(self, line: Line) -> None:
        head, self.head = self.head, Head(line.seq, line.hash)
        if head is None:
            # where the chain begins is for `_opening` to say
            self.first = Head(line.seq - 1, line.prev)
        elif line.seq > head.seq + 1 and self._trusted:
            self._missing(head.seq + 1, line)
        elif line.seq <= head.seq:
            self.fault(f"record {line.seq} after record {head.seq}: replayed, or moved")
        elif line.prev != head.hash and self._trusted:
            self.fault(f"record {line.seq} does not continue the line before it: one of the two was exchanged")
        self._trusted = True

    def _missing(self, first: int, line: Line) -> None:
        last = line.seq - 1
        what = f"record {first} is missing" if first == last else f"records {first} to {last} are missing"
        if self.line == 1 and line.kind == SEGMENT:
            before = self.segment - 1
            self.fault(f"{what}: the segment was cut before its end", segment=before, line=self._end + 1)
        else:
            self.fault(what)

    def leave(self) -> None:
        """The segment has no more lines."""
        self._end = self.line
        if not self.line:
            self.fault("empty", line=1)

    def _opening(self, line: Line) -> None:
        said: list[object] = [None, None, None]
        if line.kind == SEGMENT:
            said = chain.fields(line.body, "log", "segment", "version")
        if said != [self.log or said[0], self.segment, VERSION] or not isinstance(said[0], str):
            self.fault("this is not the first line of this segment of this log")
            return
        self.log = said[0]
        if self.segment == 1 and (line.seq, line.prev) != (1, chain.genesis(self.log).hash):
            self.fault("the log does not begin here, as its first segment must")

    def finish(self) -> None:
        """Everything has been seen: does the beginning that is missing have its proof?"""
        if self.first is None or not self.first.seq:
            return
        for _, _, kind, body in self.remarks:
            if kind == RETIRED and chain.fields(body, "seq", "head") == [self.first.seq, self.first.hash]:
                return
        self.fault(
            f"records 1 to {self.first.seq} are missing, and no record says that they were retired",
            segment=1,
            line=0,
        )


NOT_SEEN = ("", 0, 0)


def compare(walk: Walk, checkpoints: Iterable[Checkpoint]) -> None:
    """Hold checkpoints, whose signatures others have checked, against a walk that was told to want them."""
    end = walk.head.seq if walk.head else 0
    for each in checkpoints:
        if each.log != walk.log:
            continue
        digest, segment, line = walk.wanted.get(each.seq, NOT_SEEN)
        if each.seq > end:
            reason = f"cut: it ends with record {end}, and record {each.seq} was there when a checkpoint was signed"
            walk.fault(reason, line=walk.line + 1)
        elif digest and digest != each.hash:
            walk.fault(f"rewritten: record {each.seq} is not the one that was signed", segment=segment, line=line)
        elif not digest and not walk.faults and walk.first and each.seq > walk.first.seq:
            walk.fault(f"record {each.seq} was signed, and is not there", segment=each.segment, line=0)
