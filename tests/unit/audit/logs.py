"""Logs made in this process: small ones, of several segments, with checkpoints."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from supervisor.audit import chain
from supervisor.audit import walk as walking
from supervisor.audit.chain import Checkpoint
from supervisor.audit.segments import Log, Rules, now, numbers, path_of

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw().hex()
SMALL = Rules(segment_bytes=700, reserve=0)


def fill(log: Log, count: int, first: int = 1) -> None:
    """Records of a number each, a commit and if need be a new segment after each."""
    for number in range(first, first + count):
        log.append("event", (1000, 42), chain.canonical({"number": number}))
        log.commit()
        if log.is_full():
            log.rotate()


def made(folder: Path, count: int = 12, rules: Rules = SMALL) -> Log:
    """A log of several segments."""
    folder.mkdir()
    log = Log(folder, rules)
    fill(log, count)
    return log


def sign(log: Log, key: Ed25519PrivateKey = KEY) -> Checkpoint:
    """Its last line, signed."""
    public = key.public_key().public_bytes_raw().hex()
    asked = Checkpoint(log.name, log.number, log.head.seq, log.head.hash, now(), public, "")
    return asked._replace(signature=key.sign(asked.signed()).hex())


def read(folder: Path) -> list[list[bytes]]:
    """The lines of each segment."""
    return [path_of(folder, number).read_bytes().splitlines(keepends=True) for number in numbers(folder)]


def walk(segments: list[list[bytes]], checkpoints: tuple[Checkpoint, ...] = (), first: int = 1) -> walking.Walk:
    """What is found wrong with lines."""
    found = walking.Walk("0", wanted={each.seq: walking.NOT_SEEN for each in checkpoints})
    for number, lines in enumerate(segments, first):
        found.enter(number)
        for line in lines:
            found.feed(line)
        found.leave()
    found.finish()
    walking.compare(found, checkpoints)
    return found
