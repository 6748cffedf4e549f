"""An audit log of a test's own, programs that write to it, and the commands that look into it."""

from __future__ import annotations

import json
import select
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.integration.caller import SECONDS, Caller, stop
from tests.integration.gateway import Entry, Gateway, give
from tests.integration.host import children

Json = dict[str, Any]
HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "tester", "version": "7"}}
SERVER = Path(__file__).parent / "waiting_server.py"


class AuditLog:
    """The log of one caller, in a folder that is empty at first."""

    def __init__(self, caller: Caller, name: str) -> None:
        self.caller = caller
        self.parent = caller.arena.base / f"audit-{caller.mode}-{name}"
        shutil.rmtree(self.parent, ignore_errors=True)
        self.parent.mkdir(mode=0o755)
        shutil.chown(self.parent, caller.plot.uid, caller.plot.gid)
        self.root = self.parent / ("audit" if caller.mode == "root" else "supervisor/audit")
        self.env = {"LOGS_DIRECTORY": str(self.parent), "XDG_STATE_HOME": str(self.parent)}

    def _run(self, *words: str) -> subprocess.CompletedProcess[str]:
        process = self.caller.process(self.caller.command("audit", *words), env=self.env)
        return self.caller.arena.finish(process, seconds=SECONDS)

    def query(self, *words: str) -> list[Json]:
        """Calls, newest first."""
        done = self._run("query", "--json", "--limit", "0", *words)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def show(self, call: str) -> str:
        """Everything about one call, as a person sees it."""
        done = self._run("show", call)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def records(self, call: str) -> list[Json]:
        """Its records as they were written."""
        done = self._run("show", "--json", call)
        assert done.returncode == 0, done.stderr
        return [each["body"] for each in json.loads(done.stdout)["records"] if each]

    def verified(self) -> str:
        """What verify says of a log that is whole."""
        done = self._run("verify")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def text(self) -> str:
        """Every byte of it."""
        files = sorted(path for path in self.root.rglob("*") if path.is_file() and path.name != "signing.key")
        return "".join(path.read_text(encoding="utf-8", errors="replace") for path in files)


class Pipe:
    """A program that speaks MCP on its standard streams."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._number = 0
        self._buffer = b""

    def ask(self, method: str, params: Json | None = None) -> int:
        """Send a request; its id."""
        self._number += 1
        self.send({"jsonrpc": "2.0", "id": self._number, "method": method, "params": params or {}})
        return self._number

    def send(self, value: object) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(value).encode() + b"\n")
        self.process.stdin.flush()

    def read(self) -> Json:
        """The next message."""
        assert self.process.stdout
        while b"\n" not in self._buffer:
            ready = select.select([self.process.stdout], [], [], SECONDS)[0]
            data = self.process.stdout.read1(1 << 16) if ready else b""  # type: ignore[attr-defined]
            if not data:
                raise EOFError
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        found: Json = json.loads(line)
        return found

    def answer(self, number: int) -> Json:
        """The answer to a request; what comes before is dropped."""
        while (found := self.read()).get("id") != number:
            pass
        return found

    def hello(self) -> None:
        """The handshake."""
        assert "result" in self.answer(self.ask("initialize", HELLO))
        self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def call(self, tool: str, **arguments: object) -> Json:
        """One tool call and its answer."""
        return self.answer(self.ask("tools/call", {"name": tool, "arguments": arguments}))

    def ledger(self) -> int:
        """The ledger's process: the one child of the keeper, which is a child of ours."""
        for child in children(self.process.pid):
            if b"audit.keeper" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(children(int(child))[0])
        raise AssertionError("no keeper")


@contextmanager
def piped(log: AuditLog, command: Sequence[str]) -> Iterator[Pipe]:
    """A program that writes to a log, greeted."""
    process = log.caller.process(command, stdin=subprocess.PIPE, env=log.env)
    try:
        made = Pipe(process)
        made.hello()
        yield made
    finally:
        stop(process)


def waiting(caller: Caller, *, name: str = "audited", **rules: str) -> Gateway:
    """A gateway over the waiting server under two names, pinned; `rules` are keys of the first."""
    folder = caller.project / "waiting"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copy(SERVER, folder / "server.py")
    give(caller, folder)
    command = ("/usr/bin/python3", "-I", "-S", str(folder / "server.py"))
    network = Entry(
        "net",
        command,
        profile="net-allowlist",
        rules={"allow": '["allowed.example:443"]', "quota": "{ calls = 8 }"},
    )
    made = Gateway(caller, [Entry("slow", command, rules=rules), network], name)
    made.write()
    made.pin()
    return made
