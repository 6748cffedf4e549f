"""The gateway for the tests: `supervisor serve` over a configuration of the test's own, its servers pinned first.

It is started by one of the callers, on a free port of loopback, and everything about it lies in a folder of that
caller's.
"""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.escape.arena import CHECKOUT, end
from tests.integration.caller import SECONDS, Caller

POLL = 0.02
# The older suite opens a session for each scenario and says goodbye to none of them.
LEFT_OPEN = {"quota.sessions": "64", "session.idle": '"5s"'}
# What pinning found, by the server's table without the folders of its caller: the same server lists the same.
_pinned: dict[str, bytes] = {}


@dataclass(frozen=True)
class Entry:
    """One server of the configuration; `rules` are further keys, their values written as in TOML."""

    name: str
    command: tuple[str, ...] = ()
    profile: str = "none"
    params: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    ro: tuple[str, ...] = ()
    rw: tuple[str, ...] = ()
    rules: Mapping[str, str] = field(default_factory=dict)

    def toml(self, accept_missing: Sequence[str]) -> str:
        """The table of `servers.toml`; JSON's strings and lists are TOML's as well."""
        lines = [f"[server.{self.name}]", f"profile = {json.dumps(self.profile)}"]
        lists = {"command": self.command, "ro": self.ro, "rw": self.rw, "accept_missing": tuple(accept_missing)}
        lines += [f"{key} = {json.dumps(list(words))}" for key, words in lists.items() if words]
        for key, table in (("params", self.params), ("env", self.env)):
            if table:
                pairs = ", ".join(f"{name} = {json.dumps(value)}" for name, value in table.items())
                lines.append(f"{key} = {{ {pairs} }}")
        lines += [f"{key} = {text}" for key, text in self.rules.items()]
        return "\n".join(lines) + "\n"


class Gateway:
    """`supervisor serve`, started by a caller."""

    def __init__(self, caller: Caller, entries: Sequence[Entry], name: str = "gateway") -> None:
        self.caller = caller
        self.entries = tuple(entries)
        self.folder = caller.project / name
        self.config = self.folder / "servers.toml"
        self.port = free_port()
        self.log = self.folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """All servers at once."""
        return f"{self.base}/mcp"

    def only(self, name: str) -> str:
        """One server, its names unchanged."""
        return f"{self.base}/servers/{name}/mcp"

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process, "not started"
        return self._process

    def write(self) -> None:
        """The configuration, in a folder of the caller's."""
        gaps = self.caller.arena.accept(self.caller.mode)
        accepted = gaps[1].split(",") if gaps else []
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        text = "\n".join(entry.toml(accepted) for entry in self.entries)
        self.config.write_text(text, encoding="utf-8")
        give(self.caller, self.folder)

    def pin(self, *names: str) -> None:
        """Review and accept the lists of the servers, of all of them if none is named; each once in a run."""
        for entry in self.entries:
            if names and entry.name not in names:
                continue
            path = self.folder / "pins" / f"{entry.name}.json"
            key = replace(entry, rules={}).toml([]).replace(str(self.caller.plot.home), "")
            if key in _pinned:
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(_pinned[key])
                give(self.caller, path.parent)
                continue
            done = self.caller.finish(self.caller.command("pin", entry.name, "--config", self.config, "--yes"))
            assert done.returncode == 0, done.stderr
            _pinned[key] = path.read_bytes()

    def command(self, *words: str) -> list[str]:
        """`supervisor serve`, on standard input and output if nothing else is said."""
        return self.caller.command("serve", "--config", self.config, *words)

    def run(self, name: str) -> list[str]:
        """One server on standard input and output, its names unchanged."""
        return self.caller.command("run", name, "--config", self.config, "-q")

    def start(self, *words: str, env: Mapping[str, str] | None = None) -> None:
        """Start it and wait until its port answers."""
        command = self.command("--http", f"127.0.0.1:{self.port}", *words)
        self._process = self.caller.process(command, cwd=self.folder, env=env)
        self._reader = threading.Thread(target=self._write_log, args=[self._process])
        self._reader.start()
        deadline = time.monotonic() + SECONDS
        while not listening(self.port):
            assert self._process.poll() is None, f"the gateway ended: {self.said()}"
            assert time.monotonic() < deadline, f"the gateway does not listen: {self.said()}"
            time.sleep(POLL)

    def _write_log(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr
        with self.log.open("wb", buffering=0) as log:
            for line in process.stderr:
                log.write(line)

    def said(self) -> str:
        """Its standard error so far."""
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""

    def close(self) -> None:
        """SIGTERM, and its own end."""
        if self._process and self._reader:
            try:
                self._process.send_signal(signal.SIGTERM)
                self._process.wait(SECONDS)
                self._reader.join(SECONDS)
            finally:
                end(self._process)
                self._process = None


@contextmanager
def serving(caller: Caller, entries: Sequence[Entry], name: str = "gateway") -> Iterator[Gateway]:
    """A gateway with these servers, all of them pinned; its files lie in a folder of that name."""
    made = Gateway(caller, entries, name)
    made.write()
    made.pin()
    try:
        made.start()
        yield made
    finally:
        made.close()


def give(caller: Caller, folder: Path) -> None:
    """Make a folder the caller's own."""
    for path in (folder, *folder.rglob("*")):
        shutil.chown(path, caller.plot.uid, caller.plot.gid)


def copied(caller: Caller, server: str) -> Path:
    """A server of the tests (a folder of `tests/`), copied to where this caller can read it: what starts it."""
    target = caller.project / "copy" / "tests" / server
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(CHECKOUT / "tests" / server, target, ignore=shutil.ignore_patterns("__pycache__"))
    give(caller, caller.project / "copy")
    return target / "start.py"


def conformance_entries(caller: Caller, servers: Path) -> list[Entry]:
    """The conformance server three times: of both eras, of the old one only, of the new one only.

    For a user of both eras only: who started a gateway does not show in what it translates.
    """
    command = (f"{servers}/python/bin/python", str(copied(caller, "conformance")), "--stdio")
    eras = {"conformance": "both", "new": "modern", "old": "legacy"}
    made = [Entry(name, (*command, "--era", era), rules=LEFT_OPEN) for name, era in eras.items()]
    return made if caller.mode == "root" else made[:1]


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert isinstance(port, int)
    return port


def listening(port: int) -> bool:
    """Whether somebody accepts connections on it."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def processes(command: Path) -> list[int]:
    """The processes of the host that were started with that file, by their numbers outside."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                found += [int(entry.name)] if bytes(command) in words[:6] and b"supervisor" not in words[0] else []
    return found
