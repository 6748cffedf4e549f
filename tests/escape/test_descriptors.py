"""What a program inherits: descriptors, environment variables, signal settings.

Unlike the other batches these programs are given on the command line, because standard input is part of what
is tried.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.escape.arena import BAIT, MARKER, PYTHON, Arena

# What a sandbox's environment may hold; anything else came from somewhere.
NAMES = {"HOME", "TMPDIR", "LANG", "PATH", "LC_CTYPE", "TERM", "USER", "LOGNAME", "SHELL", "PWD", "TZ"}

LOOK = r"""
import json, os, signal
found = {"more": {}, "linked": {}, "climbed": [], "content": []}
def reopened(fd):
    return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK)
def tried(action):
    try:
        return action()
    except OSError:
        return None
for fd in [number for number in range(1024) if tried(lambda: os.fstat(number))]:
    found["linked"][fd] = tried(lambda: os.readlink(f"/proc/self/fd/{fd}"))
    if fd > 2:
        found["more"][fd] = found["linked"][fd]
    for way in (os.dup, reopened):
        copy = tried(lambda: way(fd))
        if copy is None:
            continue
        if b"BAIT" in (tried(lambda: os.pread(copy, 64, 0)) or b""):
            found["content"].append(fd)
        for climb in ("..", "../../../../../../.."):
            below = tried(lambda: os.open(climb, os.O_RDONLY | os.O_DIRECTORY, dir_fd=copy))
            if below is not None:
                found["climbed"].append(fd)
                os.close(below)
        os.close(copy)
found["environment"] = dict(os.environ)
found["block"] = open("/proc/self/environ").read()
found["ignored"] = [n for n in range(1, 65) if n not in (9, 19, 32, 33) and signal.getsignal(n) == signal.SIG_IGN]
found["blocked"] = sorted(signal.pthread_sigmask(signal.SIG_BLOCK, []))
found["cwd"] = os.getcwd()
found["umask"] = os.umask(0o22)
os.write(2, b"REPORT " + json.dumps(found).encode() + b"\n")
"""


def report(text: str) -> dict[str, object]:
    line = next(line for line in text.splitlines() if line.startswith("REPORT "))
    found: dict[str, object] = json.loads(line.removeprefix("REPORT "))
    return found


@pytest.fixture
def luggage(arena: Arena, mode: str, tmp_path: Path) -> dict[str, int]:
    """Descriptors that a careless parent leaves open: a secret, the root directory, a deleted file."""
    plot = arena.plots[mode]
    plot.reset()
    deleted = tmp_path / "deleted"
    deleted.write_text(BAIT)
    opened = {
        "secret": os.open(plot.key, os.O_RDONLY),
        "root": os.open("/", os.O_RDONLY | os.O_DIRECTORY),
        "deleted": os.open(deleted, os.O_RDONLY),
        "pipe": os.pipe()[1],
    }
    deleted.unlink()
    return opened


def look(arena: Arena, mode: str, argv: list[str], luggage: dict[str, int], stdin: int) -> dict[str, object]:
    process = arena.start(
        argv, mode, stdin=stdin, pass_fds=tuple(luggage.values()), extra_env={"SVTEST_PASSWORD": MARKER}
    )
    done = arena.finish(process)
    assert "REPORT " in done.stderr, done.stderr
    return report(done.stderr)


def test_nothing_is_inherited(arena: Arena, profile: str, mode: str, luggage: dict[str, int]) -> None:
    """Neither the caller's descriptors nor its environment come along, nor ignored signals."""
    argv = [*PYTHON, "-c", LOOK]
    try:
        control = look(arena, mode, argv, luggage, subprocess.DEVNULL)
        inside = look(arena, mode, arena.command(profile, mode, argv), luggage, subprocess.DEVNULL)
    finally:
        for fd in luggage.values():
            os.close(fd)
    assert len(dict(control["more"])) >= 4  # type: ignore[call-overload]
    assert control["content"]
    assert control["climbed"]
    assert MARKER in str(control["environment"])
    assert MARKER in str(control["block"])
    assert inside["content"] == []
    assert inside["climbed"] == []
    assert inside["more"] == {}
    assert MARKER not in str(inside)
    assert str(arena.base) not in str(inside["linked"])
    assert set(dict(inside["environment"])) <= NAMES  # type: ignore[call-overload]
    assert inside["blocked"] == []
    assert inside["umask"] == 0o22


def test_a_file_as_standard_output_is_not_read(arena: Arena, profile: str, mode: str) -> None:
    """`supervisor exec ... >> log`: the log was opened for appending, and must not be opened again to read."""
    argv = [*PYTHON, "-c", LOOK]
    log = arena.plots[mode].outside / "log"
    found = []
    for command in (argv, arena.command(profile, mode, argv)):
        log.write_text(BAIT)
        os.chown(log, arena.plots[mode].uid, arena.plots[mode].gid)
        fd = os.open(log, os.O_WRONLY | os.O_APPEND)
        done = arena.finish(arena.start(command, mode, stdout=fd))
        os.close(fd)
        found.append(report(done.stderr))
        assert log.read_text().startswith(BAIT)
    assert found[0]["content"] == [1]
    assert found[1]["content"] == []
    assert str(log) not in str(found[1]["linked"])
