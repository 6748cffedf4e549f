"""A host's daemon for the tests: started by root over a configuration file, heard, asked and stopped."""

from __future__ import annotations

import json
import os
import pwd
import queue
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.escape.arena import Arena, end
from tests.integration.caller import SECONDS, Caller
from tests.integration.remains import nothing_left


@dataclass(frozen=True)
class Session:
    """One line of `admin inspect`."""

    number: int
    server: str
    uid: int


class Host:
    """The daemon, the root that administers it, and the ordinary user whom it serves."""

    def __init__(self, root: Caller, user: Caller, servers: Path) -> None:
        self.root = root
        self.user = user
        self.servers = servers
        self.folder = root.arena.base / "host"
        self.config = self.folder / "servers.toml"
        self.runtime = self.folder / "run"
        self._said: queue.Queue[str] = queue.Queue()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process, "not started"
        return self._process

    def write(self, extra: str = "") -> None:
        """The configuration: two servers for the user, one for nobody, and `extra`."""
        plot = self.user.plot
        name = pwd.getpwuid(plot.uid).pw_name
        memory = f'MEMORY_FILE_PATH = "{plot.scope}/memory.json"'
        text = f"""[server.files]
profile = "fs-readonly"
params = {{ root = "{plot.folder}" }}
users = ["{name}"]

[server.memory]
profile = "fs-scoped"
params = {{ root = "{plot.folder}", scope = "{plot.scope}" }}
command = ["{self.servers}/node_modules/.bin/mcp-server-memory"]
env = {{ {memory} }}
users = ["{name}"]

[server.private]
profile = "none"
command = ["/usr/bin/cat", "/proc/self/mountinfo"]
{extra}"""
        self.folder.mkdir(exist_ok=True)
        self.config.write_text(text, encoding="utf-8")

    def start(self) -> None:
        """Start the daemon and wait until it listens."""
        argv = self.root.command("daemon", "--config", self.config, "--runtime-dir", self.runtime)
        self._said = queue.Queue()
        self._process = self.root.process(argv)
        self._thread = threading.Thread(target=self._listen, args=[self._process, self._said])
        self._thread.start()
        self.hears("listening in")

    def _listen(self, process: subprocess.Popen[bytes], said: queue.Queue[str]) -> None:
        assert process.stderr
        for line in process.stderr:
            said.put(line.decode(errors="replace"))
        said.put("")

    def hears(self, text: str) -> str:
        """Wait until the daemon says a line with `text` in it."""
        earlier = []
        while line := self._said.get(timeout=SECONDS):
            if text in line:
                return line
            earlier.append(line)
        raise AssertionError(f"the daemon ended and said: {earlier}")

    def ended(self) -> int:
        """Wait for the daemon's own end; its exit status."""
        return self.process.wait(SECONDS)

    def crash(self) -> None:
        """SIGKILL, and the end of the processes that it leaves: ours, since the tests adopt them."""
        orphans = children(self.process.pid)
        self.process.kill()
        self.ended()
        for pid in orphans:
            os.waitpid(int(pid), 0)

    def close(self) -> None:
        """The end, whatever the test did to it."""
        if self._process and self._thread:
            if self._process.poll() is None:
                self._process.send_signal(signal.SIGTERM)
                self._process.wait(SECONDS)
            self._thread.join(SECONDS)
            end(self._process)
            self._process = None

    def ask(self, caller: Caller, *words: str) -> subprocess.CompletedProcess[str]:
        """One command of the product that talks to the daemon."""
        command, *rest = words
        return caller.finish(caller.command(command, "--runtime-dir", self.runtime, *rest))

    def admin(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A request of the operator's, granted."""
        done = self.ask(self.root, "admin", *words)
        assert done.returncode == 0, done.stderr
        return done

    def sessions(self) -> list[Session]:
        """What the daemon runs now."""
        answer = json.loads(self.admin("inspect").stdout)
        return [Session(each["session"], each["server"], each["uid"]) for each in answer["sessions"]]

    def listed(self) -> set[str]:
        """The names that the user's `list` shows."""
        done = self.ask(self.user, "list", "--json")
        assert done.returncode == 0, done.stderr
        return {each["name"] for each in json.loads(done.stdout)}

    @contextmanager
    def running(self, server: str) -> Iterator[subprocess.Popen[bytes]]:
        """`supervisor run` of the user's, once the server has answered its first request."""
        argv = self.user.command("run", server, "--runtime-dir", self.runtime)
        process = self.user.process(argv, stdin=subprocess.PIPE)
        try:
            assert process.stdin
            assert process.stdout
            process.stdin.write(json.dumps(INITIALIZE).encode() + b"\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
            assert "serverInfo" in answer["result"]
            yield process
        finally:
            end(process)


INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
}


def children(pid: int) -> list[str]:
    """The children of a process."""
    found: list[str] = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        found += Path(f"/proc/{pid}/task/{thread}/children").read_text(encoding="utf-8").split()
    return found


def written(arena: Arena, servers: Path, extra: str = "") -> Host:
    """One with its configuration and `extra`, not started."""
    root, user = Caller(arena, "root"), Caller(arena, "user")
    for caller in (root, user):
        caller.reset()
    made = Host(root, user, servers)
    made.write(extra)
    return made


@contextmanager
def running(arena: Arena, servers: Path) -> Iterator[Host]:
    """A running daemon; after its end nothing of it is left."""
    made = written(arena, servers)
    with nothing_left(made.root), nothing_left(made.user, writes=made.user.plot.scope):
        try:
            made.start()
            yield made
        finally:
            made.close()
