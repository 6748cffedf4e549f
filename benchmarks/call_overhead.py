"""What a gateway adds to one small tools/call: time and processor, one at a time and with 16 in flight.

Run from a checkout, `python benchmarks/call_overhead.py [--calls N] [--json FILE] [--fastmcp PYTHON]` (PYTHON: an
interpreter that has fastmcp). The server is a C program that answers at once; beside the gateway stand the server
alone, a C program that copies bytes (the floor), the official SDK's client and server glued together, and fastmcp's
proxy. The cases take turns in rounds; medians over the rounds. Over HTTP the same server is behind `serve --http`.
`serve` writes every call down; what that adds is seen by the gateway's code over a server without a sandbox, with
policies that decide about every call, once without and once with a ledger.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROUNDS = 5
INFLIGHT = 16
INITIALIZE = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "call_overhead", "version": "1"},
}


def message(number: int, method: str, params: object) -> bytes:
    """One request as a line."""
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}).encode() + b"\n"


def processor(pid: int) -> float:
    """Seconds of processor of a process and all that it has started, dead or alive."""
    total, todo = 0.0, [pid]
    while todo:
        each = todo.pop()
        try:
            fields = Path(f"/proc/{each}/stat").read_text(encoding="utf-8").rsplit(") ", 1)[1].split()
            total += sum(int(value) for value in fields[11:15])
            for task in os.listdir(f"/proc/{each}/task"):
                children = Path(f"/proc/{each}/task/{task}/children").read_text(encoding="utf-8")
                todo += [int(child) for child in children.split()]
        except OSError:
            continue
    return total / os.sysconf("SC_CLK_TCK")


class Pipes:
    """A client of a program on standard streams."""

    def __init__(self, argv: list[str], tool: str) -> None:
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self.process.stdin
        assert self.process.stdout
        self._in, self._out, self._rest = self.process.stdin.fileno(), self.process.stdout.fileno(), b""
        self._call = message(7, "tools/call", {"name": tool, "arguments": {"text": "hello"}})
        self._many = [message(100 + n, "tools/call", {"name": tool, "arguments": {}}) for n in range(INFLIGHT)]
        self.ask(message(1, "initialize", INITIALIZE))
        os.write(self._in, b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n')
        self.ask(self._call)

    def ask(self, line: bytes) -> None:
        """One request and its answer."""
        os.write(self._in, line)
        self._lines(1)

    def _lines(self, count: int) -> None:
        while count:
            if b"\n" not in self._rest:
                data = os.read(self._out, 1 << 16)
                assert data, "the program has ended"
                self._rest += data
                continue
            line, _, self._rest = self._rest.partition(b"\n")
            count -= b'"result"' in line

    def one(self) -> None:
        """One call."""
        self.ask(self._call)

    def many(self, count: int) -> None:
        """`count` calls, 16 in flight."""
        for line in self._many:
            os.write(self._in, line)
        for number in range(count):
            self._lines(1)
            if number < count - INFLIGHT:
                os.write(self._in, self._many[number % INFLIGHT])

    @property
    def pid(self) -> int:
        return self.process.pid

    def close(self) -> None:
        """The end."""
        os.close(self._in)
        self.process.stdin = None
        self.process.wait(10)


class Http:
    """A client of Streamable HTTP: kept-alive connections, raw requests of the modern era."""

    def __init__(self, argv: list[str], port: int, path: str, tool: str) -> None:
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        meta = {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
        }
        body = message(7, "tools/call", {"name": tool, "arguments": {"text": "hello"}, "_meta": meta}).rstrip()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
            "Accept: application/json, text/event-stream\r\nMCP-Protocol-Version: 2026-07-28\r\n"
            f"Mcp-Method: tools/call\r\nMcp-Name: {tool}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._request = head.encode() + body
        self._port = port
        self._sockets = [self._connect() for _ in range(INFLIGHT)]
        self.one()

    def _connect(self) -> socket.socket:
        deadline = time.monotonic() + 20
        while True:
            try:
                sock = socket.create_connection(("127.0.0.1", self._port))
            except ConnectionRefusedError:
                assert time.monotonic() < deadline, "nobody listens"
                time.sleep(0.05)
            else:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return sock

    def _answer(self, sock: socket.socket) -> None:
        data = b""
        while True:
            got = sock.recv(1 << 16)
            assert got, "the server hung up"
            data += got
            head, found, rest = data.partition(b"\r\n\r\n")
            if found and b'"result"' in rest and rest.endswith(b"}"):
                return
            assert b"HTTP/1.1 4" not in head, data

    def one(self) -> None:
        """One call."""
        self._sockets[0].sendall(self._request)
        self._answer(self._sockets[0])

    def many(self, count: int) -> None:
        """`count` calls, one on each of 16 connections."""
        for sock in self._sockets:
            sock.sendall(self._request)
        for number in range(count):
            sock = self._sockets[number % INFLIGHT]
            self._answer(sock)
            if number < count - INFLIGHT:
                sock.sendall(self._request)

    @property
    def pid(self) -> int:
        return self.process.pid

    def close(self) -> None:
        """The end."""
        self.process.terminate()
        self.process.wait(10)


Client = Pipes | Http


def measure(client: Client, calls: int) -> tuple[float, float, float]:
    """Median seconds of one call, seconds of processor a call, calls a second with 16 in flight."""
    for _ in range(50):
        client.one()
    began, times = processor(client.pid), []
    for _ in range(calls):
        start = time.perf_counter()
        client.one()
        times.append(time.perf_counter() - start)
    used = processor(client.pid) - began
    start = time.perf_counter()
    client.many(calls * 4)
    return statistics.median(times), used / calls, calls * 4 / (time.perf_counter() - start)


def compiled(folder: Path, name: str) -> str:
    """A C program of peers/, in a folder of its own."""
    compiler = shutil.which("cc")
    assert compiler, "a C compiler is needed"
    made = folder / "bin" / name
    made.parent.mkdir(exist_ok=True)
    subprocess.run([compiler, "-O2", "-o", made, HERE / "peers" / f"{name}.c"], check=True)
    return str(made)


def cases(folder: Path, options: argparse.Namespace) -> dict[str, Callable[[], Client]]:
    """How each program is started."""
    server, forwarder = compiled(folder, "echo_server"), compiled(folder, "forwarder")
    config = folder / "servers.toml"
    config.write_text(f'[server.echo]\nprofile = "none"\ncommand = ["{server}"]\n', encoding="utf-8")
    ours = [str(Path(sys.executable).parent / "supervisor")]
    accept = ["--accept-missing", options.accept_missing] if options.accept_missing else []
    subprocess.run([*ours, "pin", "echo", "--config", config, "--yes", "-q"], check=True, stdout=subprocess.DEVNULL)
    port = free_port()
    serve = [*ours, "serve", "--config", str(config), "-q", *accept]
    web = [*serve, "--http", f"127.0.0.1:{port}"]
    found: dict[str, Callable[[], Client]] = {
        "the server alone": lambda: Pipes([server], "echo"),
        "C forwarder (floor)": lambda: Pipes([forwarder, server], "echo"),
        "supervisor serve, stdio": lambda: Pipes(serve, "echo__echo"),
        "supervisor serve, HTTP": lambda: Http(web, port, "/mcp", "echo__echo"),
        "SDK client + server": lambda: Pipes([sys.executable, str(HERE / "peers" / "sdk_glue.py"), server], "echo"),
    }
    front = [sys.executable, "-m", "tests.unit.proxy.front", f"command={server}", "governed"]
    other = free_port()
    found["the gateway's code alone"] = lambda: Pipes(front, "a__echo")
    found["the same, HTTP"] = lambda: Http([*front, f"http={other}"], other, "/mcp", "a__echo")
    found["the same, written down"] = lambda: Pipes([*front, "audit"], "a__echo")
    if options.fastmcp:
        proxy = [options.fastmcp, str(HERE / "peers" / "fastmcp_proxy.py"), server]
        found["fastmcp proxy"] = lambda: Pipes(proxy, "echo")
    return found


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1000, help="in each round")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--fastmcp", metavar="PYTHON")
    parser.add_argument("--accept-missing", metavar="NAMES")
    options = parser.parse_args()
    results: dict[str, list[tuple[float, float, float]]] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp")))
        folder.chmod(0o755)
        os.environ["LOGS_DIRECTORY"] = os.environ["XDG_STATE_HOME"] = str(folder)
        running = {name: start() for name, start in cases(folder, options).items()}
        for client in running.values():
            stack.callback(client.close)
        for _ in range(ROUNDS):
            for name, client in running.items():
                slow = 10 if name.startswith(("SDK", "fastmcp")) else 1
                results.setdefault(name, []).append(measure(client, options.calls // slow))
    table = {
        name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in results.items()
    }
    alone = table["the server alone"]
    print(f"{'':26} {'p50':>9} {'added':>9} {'CPU a call':>11} {'calls/s, 16 in flight':>22}")
    for name, (p50, used, rate) in table.items():
        print(f"{name:26} {p50 * 1e6:6.0f} us {(p50 - alone[0]) * 1e6:6.0f} us {used * 1e6:8.0f} us {rate:22,.0f}")
    if options.json:
        Path(options.json).write_text(json.dumps(table, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
