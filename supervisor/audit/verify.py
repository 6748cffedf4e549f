"""Whether a log on disk is what its ledger wrote: every line, every segment, every checkpoint.

Runs in the command line, as the readers' uid or the user. Reads only. What is wrong is located and told, never
repaired; a log that is being written is judged by what it holds now.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from supervisor.audit import chain, keys, read, segments
from supervisor.audit import walk as walking
from supervisor.audit.chain import Checkpoint, Head
from supervisor.audit.confine import Place
from supervisor.audit.walk import Fault, Walk
from supervisor.errors import ConfigError, SupervisorError

_CHECKPOINT_LIMIT = 4096
_OURS = ("torn-", segments.LOCK, segments.CHECKPOINTS)


@dataclass
class Report:
    """What is known of one log. `signed` is the newest checkpoint that holds."""

    name: str
    log: str = ""
    records: int = 0
    first: int = 0
    head: Head | None = None
    written: bool = False
    closed: bool = False
    signed: Checkpoint | None = None
    faults: list[Fault] = field(default_factory=list)
    remarks: list[tuple[int, int, str, dict[str, object]]] = field(default_factory=list)


def is_written(folder: Path) -> bool:
    """Whether a ledger holds the log now. Asked of /proc, because trying the lock could keep a ledger from it."""
    try:
        inode = os.stat(folder / segments.LOCK).st_ino
        with open("/proc/locks", encoding="ascii") as file:
            return any(f":{inode} " in line for line in file)
    except FileNotFoundError:
        return False


def folders(place: Place) -> list[Path]:
    """The logs that there are. SupervisorError: none."""
    if not place.logs.is_dir():
        raise SupervisorError(f"{place.root}: there is no audit log (yet); --folder names another place")
    return sorted((path for path in place.logs.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name))


def read_key(path: Path) -> str:
    """A public key file, as checkpoints name it."""
    with open(path, "rb") as file:
        return keys.public_raw(file.read(4096), str(path)).hex()


def read_checkpoints(path: Path) -> list[Checkpoint]:
    """The checkpoints in a file, one a line. ConfigError names the line that is none."""
    found = []
    with open(path, "rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(_CHECKPOINT_LIMIT), b""), 1):
            try:
                found.append(chain.read_checkpoint(line))
            except (ValueError, TypeError):
                raise ConfigError(f"{path}:{number}: not a checkpoint") from None
    return found


def genuine(checkpoint: Checkpoint, trusted: Iterable[str]) -> str:
    """Why this checkpoint proves nothing, or ""."""
    if checkpoint.key not in trusted:
        return f"is signed with the key {checkpoint.key}, which is not trusted here"
    try:
        signature = bytes.fromhex(checkpoint.signature)
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(checkpoint.key)).verify(signature, checkpoint.signed())
    except (InvalidSignature, ValueError):
        return "has a signature that is not that of its key: it was changed"
    return ""


def head(folder: Path) -> int:
    """The number of the last whole line of a log, 0 when there is none."""
    seen = [each.line.seq for each in read.lines(folder, read.last(folder, 1)) if each.line]
    return seen[-1] if seen else 0


def newest(folder: Path) -> Checkpoint | None:
    """The last checkpoint that was stored beside the segments."""
    path = folder / segments.CHECKPOINTS
    last = None
    if path.exists():
        with read.opened(path) as file:
            for line in iter(lambda: file.readline(_CHECKPOINT_LIMIT), b""):
                with contextlib.suppress(ValueError, TypeError):
                    last = chain.read_checkpoint(line)
    return last


def _lines(path: Path, walk: Walk) -> None:
    """Feed a segment, if it is one."""
    try:
        file = read.opened(path)
    except SupervisorError:
        walk.fault("not a regular file")
        return
    with file:
        while raw := file.readline(chain.LINE_LIMIT):
            walk.feed(raw)


def _strangers(folder: Path, walk: Walk) -> None:
    for name in sorted(os.listdir(folder)):
        number = segments.number_of(name)
        if number is None and not name.startswith(_OURS):
            walk.faults.append(Fault(walk.name, 0, 0, f"{name}: not a file of an audit log"))


def _own(folder: Path, walk: Walk, trusted: Iterable[str]) -> list[Checkpoint]:
    """The checkpoints beside the segments, those with a right signature; the others are faults."""
    path = folder / segments.CHECKPOINTS
    if not path.exists():
        return []
    good = []
    with read.opened(path) as file:
        for number, line in enumerate(iter(lambda: file.readline(_CHECKPOINT_LIMIT), b""), 1):
            try:
                checkpoint = chain.read_checkpoint(line)
                reason = genuine(checkpoint, trusted) if line.endswith(b"\n") else "is cut off"
                good += [] if reason else [checkpoint]
            except (ValueError, TypeError):
                reason = "was changed: it is none"
            if reason:
                walk.faults.append(Fault(walk.name, 0, 0, f"{path.name}:{number}: this checkpoint {reason}"))
    return good


def verify_log(folder: Path, trusted: list[str], against: list[Checkpoint]) -> Report:
    """One log. `against` are checkpoints from elsewhere, whose signatures have been checked."""
    walk = Walk(folder.name)
    written = is_written(folder)
    checkpoints = against + _own(folder, walk, trusted)
    walk.wanted = {each.seq: walking.NOT_SEEN for each in checkpoints}
    numbers = segments.numbers(folder)
    for number in numbers:
        walk.enter(number)
        _lines(segments.path_of(folder, number), walk)
        if written and number == numbers[-1] and walk.faults and walk.faults[-1].reason.startswith(walking.CUT_OFF):
            walk.faults.pop()  # a line that is being written
        walk.leave()
    if not numbers:
        walk.fault("it has no segment")
    walk.finish()
    walking.compare(walk, checkpoints)
    _strangers(folder, walk)
    signed = [each for each in checkpoints if walk.wanted[each.seq][0] == each.hash and each.log == walk.log]
    last = walk.remarks[-1] if walk.remarks else None
    return Report(
        name=folder.name,
        log=walk.log,
        records=walk.records,
        first=walk.first.seq + 1 if walk.first else 0,
        head=walk.head,
        written=written,
        closed=bool(last and last[:3] == (walk.segment, walk.line, chain.CLOSED)),
        signed=max(signed, key=lambda each: each.seq, default=None),
        faults=walk.faults,
        remarks=[(segment, line, kind, dict(chain.decode(body))) for segment, line, kind, body in walk.remarks],
    )


def verify(place: Place, trusted: list[str], against: list[Checkpoint]) -> list[Report]:
    """All logs of a place, and whether one is missing of which something was signed."""
    reports, last = [], []
    for path in sorted(place.key.glob(f"{keys.LAST}*")) if place.key.is_dir() else []:
        if not path.name.endswith(".new"):
            last += read_checkpoints(path)
    false: list[Fault] = []
    for each in (*last, *against):
        reason = genuine(each, trusted)
        if reason:
            false.append(Fault(each.log, 0, 0, f"the checkpoint of record {each.seq} {reason}"))
    good = [each for each in (*last, *against) if not genuine(each, trusted)]
    for folder in folders(place):
        reports.append(verify_log(folder, trusted, good))
    here = {report.log for report in reports}
    for log in sorted({each.log for each in good} - here):
        false.append(Fault(log, 0, 0, "missing: a checkpoint of it was signed, and it is not here"))
    if false:
        reports.append(Report(name="", faults=false))
    return reports
