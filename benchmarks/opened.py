"""What it costs that the kernel tells which files a session opens: per open, per question, per session.

Run from a checkout as root, `python benchmarks/opened.py`. Two sessions of one program stand side by side, one
watched and one not, and take turns: so the load of the machine is the same for both. An open is measured in the
processor time of whoever opens.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from supervisor.cli import entry, personal
from supervisor.proxy.link import Link, Opened
from supervisor.proxy.touched import Watch

FILES, OPENS, ROUNDS, QUESTIONS, SESSIONS = 100, 2_000, 60, 300, 20
# opens files in turn, and says how many nanoseconds of a processor one took with its close
PROGRAM = """import os, sys, time
for line in sys.stdin:
    folder, files, opens, flags = line.split()
    names = [f"{folder}/{number}" for number in range(int(files))] * (int(opens) // int(files))
    began = time.thread_time_ns()
    for name in names:
        os.close(os.open(name, int(flags)))
    print((time.thread_time_ns() - began) // len(names), flush=True)
"""
KINDS = {"off": 'files = "off"', "watched": 'files = "required"'}


class Place:
    """Two folders of files, one that may be read and one that may be written, and a profile of each kind."""

    def __init__(self, base: Path) -> None:
        self.base, self.read, self.write = base, base / "read", base / "write"
        for folder in (self.read, self.write):
            folder.mkdir()
            for number in range(FILES):
                (folder / str(number)).write_text("x")
        for kind, text in KINDS.items():
            head = f'profile = 1\nname = "{kind}"\nextends = "fs-scoped"\nsummary = "benchmark"\n'
            (base / f"{kind}.toml").write_text(f"{head}[audit]\n{text}\n")

    @contextmanager
    def tree(self, kind: str) -> Iterator[Link]:
        """A monitor and its spawner for the program under that profile."""
        asked: dict[str, object] = {
            "name": entry.NAME,
            "profile": str(self.base / f"{kind}.toml"),
            "command": ["/usr/bin/python3", "-I", "-S", "-c", PROGRAM],
            "params": {"root": str(self.read), "scope": str(self.write)},
            "personal": True,
            "cwd": str(self.base),
            "home": "/root",
            "search_path": "/usr/bin",
            "origin": "benchmark",
        }
        tree = personal.start(asked)
        try:
            link = Link(tree.monitor)
            link.hello()
            yield link
        finally:
            tree.close()


def opening(opened: Opened, folder: str, flags: int) -> int:
    """Nanoseconds of a processor for one open and close, inside."""
    os.write(opened.stdin, f"{folder} {FILES} {OPENS} {flags}\n".encode())
    return int(os.read(opened.stdout, 100))


def started(link: Link) -> float:
    """Milliseconds from asking for a session to having it; it is closed."""
    began = time.perf_counter()
    opened = link.open(entry.NAME)
    took = time.perf_counter() - began
    for fd in (opened.stdin, opened.stdout, opened.stderr, opened.pidfd, *([opened.files] * (opened.files >= 0))):
        os.close(fd)
    link.close_session(opened.session)
    link.event()
    return took * 1000


async def asked(opened: Opened, folder: str) -> list[float]:
    """Microseconds of a question after one open."""
    watch, took = Watch(opened.files), []
    for _ in range(QUESTIONS):
        os.write(opened.stdin, f"{folder} 1 1 0\n".encode())
        os.read(opened.stdout, 100)
        began = time.perf_counter()
        files, complete = await watch.since()
        took.append((time.perf_counter() - began) * 1e6)
        assert complete
        assert files
    watch.close()
    return took


def report() -> None:
    """All of it, as a table."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as base:
        place = Place(Path(base))
        with place.tree("off") as off, place.tree("watched") as watched:
            sessions = {"off": off.open(entry.NAME), "watched": watched.open(entry.NAME)}
            for what, folder, flags in (("read", "/data", os.O_RDONLY), ("written", str(place.write), os.O_WRONLY)):
                rounds = [
                    {kind: opening(each, folder, flags) for kind, each in sessions.items()} for _ in range(ROUNDS)
                ]
                found = {kind: statistics.median(each[kind] for each in rounds) / 1000 for kind in sessions}
                added = found["watched"] - found["off"]
                both = f"{found['off']:6.2f} us, watched {found['watched']:6.2f} us"
                print(f"open and close, {what:8} {both}: +{added:.2f} us")
            took = statistics.quantiles(asyncio.run(asked(sessions["watched"], "/data")), n=100)
            print(f"question after a call   p50 {took[49]:6.0f} us, p95 {took[94]:.0f} us (nobody waits for it)")
            starts = [(started(off), started(watched)) for _ in range(SESSIONS)]
            plain, seen = (statistics.median(each) for each in zip(*starts, strict=True))
            print(f"start of a session      p50 {plain:6.2f} ms, watched {seen:.2f} ms")


if __name__ == "__main__":
    report()
