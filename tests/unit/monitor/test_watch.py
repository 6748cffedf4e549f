"""When what was read is read again: whatever its owner does to a file, and however often."""

from __future__ import annotations

import os
import sched
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from supervisor.monitor import requests
from supervisor.monitor.loop import Callback, Loop, Timer
from supervisor.profile import host


class Still(Loop):
    """Nothing comes by itself."""

    def __init__(self) -> None:
        pass

    def later(self, seconds: float, callback: Callback) -> Timer:
        return sched.scheduler(time.monotonic).enter(seconds, 0, callback)


class Watching(requests.Monitor):
    """A monitor that looks at two files when it is told to; `reads` is when it read again, which takes `takes`."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loop, self.servers, self.settling = Still(), {}, {}
        self.since = self.again = 0.0
        self.registry, self.program = folder / "servers.toml", folder / "program"
        self.config = str(self.registry)
        self.now, self.takes, self.reads = 100.0, 0.0, list[float]()
        for each in (self.registry, self.program):
            each.write_text("as it was")
        self.watched = self.as_it_is()
        monkeypatch.setattr(requests, "time", SimpleNamespace(monotonic=lambda: self.now, time=time.time))

    def as_it_is(self) -> dict[str, int]:
        return {str(each): host.changed(str(each)) for each in (self.registry, self.program)}

    def reload_or_say(self) -> None:
        self.reads.append(self.now)
        self.watched = self.as_it_is()
        self.now += self.takes

    def looks(self, seconds: int, *touched: Path) -> None:
        """Once a second; `touched` are files that somebody touches all the time."""
        for _ in range(seconds):
            for each in touched:
                os.utime(each, ns=(0, time.time_ns()))
            self.watch()
            self.now += 1


@pytest.fixture
def watching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watching:
    return Watching(tmp_path, monkeypatch)


def test_a_change_is_seen_though_its_owner_puts_back_the_time_and_the_size(tmp_path: Path) -> None:
    file = tmp_path / "program"
    file.write_text("as it was approved")
    before, at = host.changed(str(file)), file.stat()
    assert host.changed(str(file)) == before
    file.write_text("as it is otherwise")
    os.utime(file, ns=(at.st_atime_ns, at.st_mtime_ns))
    assert (file.stat().st_mtime_ns, file.stat().st_size) == (at.st_mtime_ns, at.st_size)
    assert host.changed(str(file)) != before
    file.unlink()
    assert host.changed(str(file)) == -1


def test_what_has_changed_is_read_when_it_stays_as_it_is(watching: Watching) -> None:
    watching.looks(2)
    assert watching.reads == []
    watching.program.write_text("changed")
    watching.looks(4)
    assert watching.reads == [103.0]


def test_what_is_touched_all_the_time_is_read_all_the_same(watching: Watching) -> None:
    watching.looks(1)
    watching.looks(8, watching.program)
    assert watching.reads == [106.0]


def test_who_touches_a_program_again_and_again_costs_a_tenth_of_the_time(watching: Watching) -> None:
    watching.takes = 2.0
    for _ in range(40):
        watching.looks(1, watching.program)
        watching.looks(2)
    assert 3 < len(watching.reads) <= (watching.now - 100) / 20 + 1


def test_the_registry_itself_is_read_at_once(watching: Watching) -> None:
    watching.takes = 10.0
    watching.looks(1)
    watching.program.write_text("changed")
    watching.looks(3)
    watching.registry.write_text("changed")
    watching.looks(2)
    assert watching.reads == [102.0, 115.0]
