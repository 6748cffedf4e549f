"""The lines of the audit log and the chain that holds them together.

Pure: no file, no clock, no third party. Imported by the ledger, which makes lines, and by whoever checks them.
A line is `{"hash":H,"prev":P,"seq":N,"time":T,"kind":K,"uid":U,"pid":I,"body":B}`, in ASCII, with no space and the
keys of B sorted. H is the SHA-256 of everything behind its own comma; P is the H of the line before, through all
segments of a log, and of the first line `genesis(log)`. The first line of each segment says which one it is.
"""

from __future__ import annotations

import json
import re
from hashlib import sha256
from typing import NamedTuple

LINE_LIMIT = 256 * 1024
VERSION = 1
# kinds that a peer may write, and those that are the ledger's own
PEER_KINDS = ("intent", "outcome", "event")
SEGMENT, RETIRED, KEPT, TORN, DROPPED, GAP, UNSIGNED, CLOSED = (
    "segment", "retired", "kept", "torn", "dropped", "gap", "unsigned", "closed",
)  # fmt: skip
_LINE = re.compile(
    rb'\{"hash":"([0-9a-f]{64})","prev":"([0-9a-f]{64})","seq":([1-9][0-9]{0,17}),"time":([1-9][0-9]{0,17}),'
    rb'"kind":"([a-z]+)","uid":(0|[1-9][0-9]{0,9}),"pid":(0|[1-9][0-9]{0,9}),"body":(\{[ -~]*\})\}\n'
)
_REST = 75  # where the hashed part begins


class Head(NamedTuple):
    """The last line of a log: its number and its hash."""

    seq: int
    hash: str


class Line(NamedTuple):
    """A line taken apart; `body` is still JSON."""

    hash: str
    prev: str
    seq: int
    time: int
    kind: str
    uid: int
    pid: int
    body: bytes


class Checkpoint(NamedTuple):
    """What a signer says of a log: at `time` (microseconds) its line `seq` had this hash."""

    log: str
    segment: int
    seq: int
    hash: str
    time: int
    key: str
    signature: str

    def signed(self) -> bytes:
        """What the signature is over."""
        return b"supervisor audit checkpoint 1\n" + canonical(self._replace(signature="")._asdict())

    def line(self) -> bytes:
        """As it is stored, sent and compared."""
        return canonical(self._asdict()) + b"\n"


_encoder = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def canonical(value: object) -> bytes:
    """The one spelling of a value. ValueError: a number that JSON lacks; RecursionError: too deep."""
    # DEL is no control character to JSON, and none that a line may hold
    return _encoder.encode(value).replace("\x7f", "\\u007f").encode("ascii")


def genesis(log: str) -> Head:
    """What the first line of a log continues."""
    return Head(0, sha256(b"supervisor audit log 1\n" + log.encode()).hexdigest())


def make(head: Head, time: int, kind: str, who: tuple[int, int], body: bytes) -> tuple[bytes, Head]:
    """The line after `head`, and the head after it. Microseconds, (uid, pid), a canonical body."""
    seq = head.seq + 1
    uid, pid = who
    rest = (
        f'"prev":"{head.hash}","seq":{seq},"time":{time},"kind":"{kind}","uid":{uid},"pid":{pid},"body":'.encode()
    )
    rest += body + b"}"
    digest = sha256(rest).hexdigest()
    return b'{"hash":"' + digest.encode() + b'",' + rest + b"\n", Head(seq, digest)


def parse(line: bytes) -> Line | None:
    """A line taken apart, or None when it is none. Whether its hash is right is for `intact`."""
    found = _LINE.fullmatch(line)
    if found is None:
        return None
    digest, prev, seq, time, kind, uid, pid, body = found.groups()
    return Line(digest.decode(), prev.decode(), int(seq), int(time), kind.decode(), int(uid), int(pid), body)


def intact(line: bytes, parsed: Line) -> bool:
    """Whether the line has the hash that it states."""
    return sha256(line[_REST:-1]).hexdigest() == parsed.hash


def read_checkpoint(line: bytes) -> Checkpoint:
    """ValueError when it is not one, in its one spelling."""
    value = json.loads(line)
    if not isinstance(value, dict) or set(value) != set(Checkpoint._fields):
        raise ValueError("not a checkpoint")
    made = Checkpoint(**value)
    texts, numbers = (made.log, made.hash, made.key, made.signature), (made.segment, made.seq, made.time)
    if not all(type(each) is str for each in texts) or not all(type(each) is int for each in numbers):
        raise ValueError("not a checkpoint")
    if made.line() != line.rstrip(b"\n") + b"\n":
        raise ValueError("not a checkpoint as it was written")
    return made


def decode(body: bytes) -> dict[str, object]:
    """The object that a body is; empty when it is none."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def fields(body: bytes, *names: str) -> list[object]:
    """These values of a body; None for what is not there."""
    value = decode(body)
    return [value.get(name) for name in names]
