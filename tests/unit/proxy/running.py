"""The stdio front as a program, and a client of it with nothing but pipes."""

from __future__ import annotations

import json
import subprocess
import sys
from types import TracebackType

from tests.unit.proxy.puppet import Json
from tests.unit.proxy.stand import SERVER

ROOT = SERVER.parents[3]
HELLO: Json = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}


class Running:
    """See front.py for `words`."""

    def __init__(self, *words: str) -> None:
        argv = [sys.executable, "-m", "tests.unit.proxy.front", *words]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(argv, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe)
        assert self.process.stdin
        assert self.process.stdout
        assert self.process.stderr
        self.stdin, self.stdout, self.stderr = self.process.stdin, self.process.stdout, self.process.stderr

    def send(self, line: bytes) -> None:
        self.stdin.write(line)
        self.stdin.flush()

    def ask(self, number: object, method: str, params: Json | None = None) -> None:
        self.send(
            json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params or {}}).encode() + b"\n"
        )

    def read(self) -> Json:
        found: Json = json.loads(self.stdout.readline())
        return found

    def hello(self) -> None:
        self.ask("hello", "initialize", HELLO)
        assert self.read()["id"] == "hello"

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        for stream in (self.stdin, self.stdout, self.stderr):
            if not stream.closed:
                stream.close()
