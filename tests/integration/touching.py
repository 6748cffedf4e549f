"""A session that does what it is told, and what the kernel tells of it: asked as a gateway asks.

Runs as root, beside a daemon of the tests' own.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from supervisor.proxy import link
from supervisor.proxy.touched import Watch
from tests.integration.host import Host, children

OBEDIENT = "import json, os, sys\nfor line in sys.stdin: exec(json.loads(line)), print('done', flush=True)"
Told = tuple[dict[str, str], bool]


class Session:
    """One running session of a server whose program is OBEDIENT."""

    def __init__(self, host: Host, opened: link.Opened, runner: asyncio.Runner) -> None:
        self.host, self.opened, self.runner = host, opened, runner
        self.watch = runner.run(self._watch())
        self.watchers: list[int] = []

    async def _watch(self) -> Watch:
        return Watch(self.opened.files)

    async def close(self) -> None:
        """Give up its descriptors."""
        self.watch.close()
        for fd in (self.opened.stdin, self.opened.stdout, self.opened.stderr, self.opened.pidfd):
            os.close(fd)

    def say(self, code: str) -> bytes:
        """Give it a piece of Python, and wait for what it says."""
        os.write(self.opened.stdin, json.dumps(code).encode() + b"\n")
        return os.read(self.opened.stdout, 100)

    def do(self, code: str) -> None:
        """Run a piece of Python inside, to its end."""
        answer = self.say(code)
        assert answer == b"done\n", os.read(self.opened.stderr, 1 << 16).decode()

    def since(self) -> Told:
        """{path: mode} of what was opened since the last question, and whether that is all."""
        files, complete = self.runner.run(self.watch.since())
        return {each.path: each.mode for each in files}, complete

    def opens(self, code: str) -> Told:
        """What a piece of Python opens."""
        self.do(code)
        return self.since()


def watchers(host: Host) -> list[int]:
    """The processes below a daemon that hold a queue of the kernel's for events of files."""
    return [pid for pid in map(int, children(host.process.pid)) if queues(pid)]


def queues(pid: int) -> list[str]:
    """The descriptors of a process that are such queues."""
    found = []
    with suppress(FileNotFoundError):  # it is just ending
        for each in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                if "fanotify" in os.readlink(each):
                    found.append(each.name)
    return found


@contextmanager
def session(host: Host, server: str) -> Iterator[Session]:
    """A session of `server`, opened by root; it has started, and what that took is not told."""
    before, own = watchers(host), list[int]()
    connected = link.connect(f"{host.runtime}/proxy.sock")
    try:
        connected.hello()
        opened = connected.open(server)
        with asyncio.Runner() as runner:
            made = Session(host, opened, runner)
            made.opens("pass")
            made.watchers = own = [pid for pid in watchers(host) if pid not in before]
            try:
                yield made
            finally:
                runner.run(made.close())
    finally:
        connected.close()
        # a watcher ends after its session
        deadline = time.monotonic() + 10
        while any(queues(pid) for pid in own):
            assert time.monotonic() < deadline, own
