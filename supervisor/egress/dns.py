"""DNS messages: questions from inside a sandbox and their answers, questions to a resolver and its answers.

Pure. Both kinds of input are strangers' bytes: whatever is malformed raises Malformed, and nothing is looked at
twice. A question from inside is never passed on.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

A, CNAME, AAAA, OPT = 1, 5, 28, 41
IN = 1
NOERROR, FORMERR, NXDOMAIN, NOTIMP = 0, 1, 3, 4
TTL = 60
_HEADER = struct.Struct("!6H")
_MAX_RECORDS = 512


class Malformed(ValueError):
    """Not a DNS message that we take. `number` is its id, None when it has none or wants no answer."""

    def __init__(self, number: int | None = None) -> None:
        self.number = number
        super().__init__("malformed DNS message")


@dataclass(frozen=True)
class Question:
    """One question. `raw` is its section as it came, so that the answer repeats it (case and all)."""

    number: int
    flags: int
    name: str
    kind: int
    internet: bool
    raw: bytes
    edns: bool


def question(data: bytes) -> Question:
    """The one question of a query."""
    if len(data) < 12 or data[2] & 0x80:
        raise Malformed
    number, flags, questions, answers, authorities, additional = _HEADER.unpack_from(data)
    if questions != 1 or answers or authorities:
        raise Malformed(number)
    try:
        name, at = _name(data, 12, pointers=False)
        kind, group = struct.unpack_from("!2H", data, at)
    except (struct.error, Malformed):
        raise Malformed(number) from None
    end = at + 4
    # an OPT record: root name, type 41
    edns = bool(additional) and data[end : end + 3] == b"\0\0\x29"
    return Question(number, flags, name, kind, group == IN, data[12:end], edns)


def answer(asked: Question, code: int, address: str = "") -> bytes:
    """The answer: `address` for an A question, otherwise nothing. Never cut short."""
    # QR, AA, RA; opcode and RD as asked
    flags = 0x8480 | asked.flags & 0x7900 | code
    head = _HEADER.pack(asked.number, flags, 1, 1 if address else 0, 0, 1 if asked.edns else 0)
    record = b""
    if address:
        record = struct.pack("!3HIH", 0xC00C, A, IN, TTL, 4) + ipaddress.IPv4Address(address).packed
    # OPT: root, type, our size, no flags, no options
    return head + asked.raw + record + (struct.pack("!BHHIH", 0, OPT, 1232, 0, 0) if asked.edns else b"")


def malformed(number: int) -> bytes:
    """The answer to what could not be read."""
    return _HEADER.pack(number, 0x8480 | FORMERR, 0, 0, 0, 0)


def query(number: int, name: str, kind: int) -> bytes:
    """A question to a resolver, recursion desired."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    head = _HEADER.pack(number, 0x0100, 1, 0, 0, 1)
    return head + labels + b"\0" + struct.pack("!2H", kind, IN) + struct.pack("!BHHIH", 0, OPT, 1232, 0, 0)


@dataclass(frozen=True)
class Found:
    """What a resolver said: addresses with the shortest life of them in seconds; `cut`: ask again over TCP."""

    addresses: tuple[str, ...]
    ttl: int
    code: int
    cut: bool


def found(data: bytes, number: int, name: str, kind: int) -> Found:
    """The answer to `query(number, name, kind)`; Malformed for anything else."""
    if len(data) < 12:
        raise Malformed
    got, flags, questions, answers, _, _ = _HEADER.unpack_from(data)
    if got != number or not flags & 0x8000 or questions != 1 or answers > _MAX_RECORDS:
        raise Malformed
    try:
        asked, at = _name(data, 12, pointers=False)
        if (asked, *struct.unpack_from("!2H", data, at)) != (name, kind, IN):
            raise Malformed
        if flags & 0x0200:
            return Found((), 0, flags & 15, cut=True)
        addresses, ttl = _records(data, at + 4, answers, name, kind)
    except (struct.error, IndexError):
        raise Malformed from None
    return Found(tuple(addresses), ttl, flags & 15, cut=False)


def _records(data: bytes, at: int, count: int, name: str, kind: int) -> tuple[list[str], int]:
    """Addresses of `name`, or of what its CNAME records lead to, in the order in which they stand."""
    addresses, ttl, chain = [], 300, {name}
    for _ in range(count):
        owner, at = _name(data, at, pointers=True)
        this, group, life, length = struct.unpack_from("!2HIH", data, at)
        at += 10
        body = data[at : at + length]
        if len(body) != length:
            raise Malformed
        if group == IN and owner in chain:
            if this == CNAME:
                chain.add(_name(data, at, pointers=True)[0])
                ttl = min(ttl, life)
            elif this == kind and length == (4 if kind == A else 16):
                addresses.append(str(ipaddress.ip_address(body)))
                ttl = min(ttl, life)
        at += length
    return addresses, ttl


def _name(data: bytes, at: int, *, pointers: bool) -> tuple[str, int]:
    """(name in lower case, where it ends). Bytes that no host name has are kept as \\xNN, and match nothing."""
    labels: list[str] = []
    end, jumps, total = -1, 0, 0
    while True:
        if at >= len(data):
            raise Malformed
        length = data[at]
        if length >= 0xC0:
            if not pointers or jumps > 16 or at + 1 >= len(data):
                raise Malformed
            end = at + 2 if end < 0 else end
            at, jumps = (length & 0x3F) << 8 | data[at + 1], jumps + 1
            continue
        total += length + 1
        if length > 63 or total > 255 or at + 1 + length > len(data):
            raise Malformed
        at += 1
        if not length:
            return ".".join(labels), (at if end < 0 else end)
        label = data[at : at + length].decode("ascii", "backslashreplace").lower()
        labels.append(label.replace(".", "\\x2e").replace("\0", "\\x00"))
        at += length
