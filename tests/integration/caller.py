"""Who starts the product in these tests, root or an ordinary user, and how a program is started as that caller.

Runs as root. A program of the ordinary user is started through setpriv, which is replaced by it: the process
that a client watches and signals is the product's own.
"""

from __future__ import annotations

import select
import subprocess
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
from mcp import Client, StdioServerParameters, stdio_client
from mcp.client.client import ConnectMode

from tests.escape.arena import Arena, Plot, end

Scenario = Callable[[Client], Coroutine[Any, Any, None]]
SECONDS = 40


@dataclass(frozen=True)
class Caller:
    """One of the two, with a folder of its own."""

    arena: Arena
    mode: str

    @property
    def plot(self) -> Plot:
        return self.arena.plots[self.mode]

    @property
    def project(self) -> Path:
        """A folder of the caller's, in its home."""
        return self.plot.home / "project"

    @property
    def environment(self) -> dict[str, str]:
        """What the caller's shell would export; its temporary files are in its home."""
        return self.arena.environment(self.mode) | {"TMPDIR": str(self.plot.home / "tmp")}

    def reset(self) -> None:
        """Its folders as at the beginning."""
        (self.plot.home / "tmp").mkdir(parents=True, exist_ok=True)
        self.plot.reset()

    def command(self, *arguments: str | Path) -> list[str]:
        """The product's command line, as this caller starts it from anywhere."""
        return [*self.arena.commands[self.mode], *map(str, arguments)]

    def start_options(self) -> tuple[str, ...]:
        """What every personal start needs on this host: no account, and the limits that there are not."""
        return ("-q", *self.arena.accept(self.mode))

    def become(self, argv: Sequence[str]) -> list[str]:
        """The command that turns into `argv` as this caller."""
        if self.mode == "root":
            return list(argv)
        ids = ["--reuid", str(self.plot.uid), "--regid", str(self.plot.gid), "--clear-groups"]
        return ["/usr/bin/setpriv", *ids, "--", *argv]

    def process(
        self,
        argv: Sequence[str | Path],
        *,
        cwd: Path | None = None,
        stdin: int = subprocess.DEVNULL,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """A program with this caller's identity and environment, and pipes for its output."""
        return subprocess.Popen(
            self.become([str(word) for word in argv]),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.environment | dict(env or {}),
            cwd=cwd or self.project,
            start_new_session=True,
        )

    def finish(
        self, argv: Sequence[str | Path], *, cwd: Path | None = None, seconds: float = SECONDS
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end."""
        return self.arena.finish(self.process(argv, cwd=cwd), seconds=seconds)

    def talk(
        self, argv: Sequence[str | Path], scenario: Scenario, *, cwd: Path, log: Path, mode: ConnectMode
    ) -> None:
        """Start an MCP server and play a scenario with the official client; its standard error goes to `log`."""
        first, *rest = self.become([str(word) for word in argv])
        server = StdioServerParameters(command=first, args=rest, cwd=cwd, env=self.arena.environment(self.mode))

        async def play() -> None:
            with log.open("w", encoding="utf-8") as errors:
                transport = stdio_client(server, errlog=errors)
                async with Client(transport, mode=mode, read_timeout_seconds=SECONDS) as client:
                    await scenario(client)

        anyio.run(play)


def stop(process: subprocess.Popen[bytes]) -> None:
    """The end of a program's input, its own end, and only then ours."""
    try:
        if process.stdin and not process.stdin.closed:
            process.stdin.close()
        process.wait(SECONDS)
    finally:
        end(process)


@contextmanager
def said_ready(caller: Caller, argv: Sequence[str | Path]) -> Iterator[subprocess.Popen[bytes]]:
    """A program that has said "ready", and waits; it is ended."""
    process = caller.process(argv, stdin=subprocess.PIPE)
    try:
        assert process.stdout
        assert select.select([process.stdout], [], [], SECONDS)[0]
        assert process.stdout.readline() == b"ready\n", process.stderr and process.stderr.read()
        yield process
    finally:
        end(process)
