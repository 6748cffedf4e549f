"""Sessions of a daemon that lives in the world's inner network namespace, driven one expression at a time.

Runs as root, and as the ordinary user while a session is opened. The program inside evaluates what it is told and
answers with one line of JSON.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from supervisor import wire
from tests.escape.arena import end
from tests.integration.outside import World

SECONDS = 20
PROGRAM = """
import json, os, socket, sys, threading, time
kept = {}
def fetch(where, port=80, host=None, path="/", seconds=8):
    with socket.create_connection((where, port), seconds) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\\r\\nHost: {host or where}\\r\\nConnection: close\\r\\n\\r\\n".encode())
        got = b""
        while more := sock.recv(65536): got += more
    return got.partition(b"\\r\\n\\r\\n")[2].decode()[:80] or got[:40].decode()
def size(where, count):
    with socket.create_connection((where, 80), 8) as sock:
        sock.sendall(f"GET /size/{count} HTTP/1.1\\r\\nHost: {where}\\r\\nConnection: close\\r\\n\\r\\n".encode())
        got = 0
        while more := sock.recv(1 << 20): got += len(more)
    return got
def hold(name, where, port):
    kept[name] = socket.create_connection((where, port), 8)
    return kept[name].recv(99).decode()
def use(name):
    kept[name].sendall(b"hi")
    return kept[name].recv(99).decode()
def flood(name):
    "Questions, halves of hellos and of requests, from many threads, until the session ends."
    def ask():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(("198.18.0.1", 53))
            while True:
                try: sock.send(os.urandom(20) + bytes(400))
                except OSError: pass
    def drip(said):
        while True:
            try:
                with socket.create_connection((name, 80), 5) as sock:
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    for at in range(60000): sock.send(said[at % len(said):][:1])
            except OSError: pass
    for work in [(ask,)] * 2 + [(drip, b"GET / HTTP/1.1 x ")] * 20 + [(drip, b"\\x16\\3\\1\\x40\\0")] * 20:
        threading.Thread(target=work[0], args=work[1:], daemon=True).start()
    time.sleep(0.5)
    return "floods"
def at(name):
    return socket.gethostbyname(name)
for line in sys.stdin:
    try: said = eval(line)
    except Exception as error: said = f"{type(error).__name__} {error}"
    print(json.dumps(said), flush=True)
"""


class Agent:
    """One session: its connection to the daemon, and the program's standard streams."""

    def __init__(self, folder: Path, server: str, uid: int) -> None:
        self.events: list[wire.Message] = []
        self.connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.connection.settimeout(SECONDS)
        os.seteuid(uid)
        try:
            self.connection.connect(str(folder / "proxy.sock"))
        finally:
            os.seteuid(0)
        wire.send(self.connection, {"id": 1, "req": "hello", "version": 1})
        wire.send(self.connection, {"id": 2, "req": "open", "server": server})
        answer, fds = self._receive()
        while answer.get("id") != 2:
            answer, fds = self._receive()
        assert "ok" in answer, answer
        self.number = dict(answer["ok"])["session"]  # type: ignore[call-overload]
        self.input, self.output, self.errors = (
            os.fdopen(fd, "wb" if not n else "rb", 0) for n, fd in enumerate(fds[:3])
        )
        self.pidfd = fds[3]

    def _receive(self) -> tuple[wire.Message, list[int]]:
        received = wire.receive(self.connection, max_fds=5)
        assert received, "the daemon hung up"
        return received

    def tell(self, expression: str) -> None:
        """Have it evaluated."""
        self.input.write(expression.encode() + b"\n")

    def hears(self) -> object:
        """The next answer; "" when the program has ended."""
        line = self.output.readline()
        return json.loads(line) if line else ""

    def does(self, expression: str) -> object:
        """Both."""
        self.tell(expression)
        return self.hears()

    def event(self, kind: str) -> wire.Message:
        """The next event of that kind; others before it are kept in `events`."""
        while True:
            message, _ = self._receive()
            self.events.append(message)
            if message.get("event") == kind:
                return message

    def close(self) -> None:
        """Hang up."""
        for each in (self.input, self.output, self.errors, self.connection):
            each.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


class Household:
    """The daemon of one caller, and the agents that it runs."""

    def __init__(self, world: World, mode: str, servers: str) -> None:
        self.world, self.mode = world, mode
        plot = world.arena.plots[mode]
        self.folder = plot.home / "daemon"
        self.folder.mkdir(exist_ok=True)
        config = self.folder / "servers.toml"
        config.write_text(servers)
        os.chown(self.folder, plot.uid, plot.gid)
        os.chown(config, plot.uid, plot.gid)
        plot.home.chmod(0o711)
        argv = [
            *world.arena.commands[mode],
            "daemon",
            "--config",
            str(config),
            "--runtime-dir",
            str(self.folder / "run"),
        ]
        self.process = world.arena.start(world.within(mode, argv), "root", extra_env=world.arena.environment(mode))
        assert self.process.stderr
        said = self.process.stderr.readline()
        assert b"listening" in said, said + self.process.stderr.read()
        self.agents: list[Agent] = []

    def open(self, server: str, *, user: bool = False) -> Agent:
        """A session of the daemon's owner, or of the ordinary user."""
        uid = self.world.arena.plots["user" if user else self.mode].uid
        agent = Agent(self.folder / "run", server, uid)
        self.agents.append(agent)
        return agent

    def broker(self) -> int:
        """The number of the one broker, 0 when there is none."""
        found = [pid for pid in descendants(self.process.pid) if b"egress.broker" in _command(pid)]
        assert len(found) <= 1
        return found[0] if found else 0

    def until(self, what: str, condition: Callable[[], object]) -> None:
        """Wait until `condition()` holds; `what` is left if it does not."""
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert time.monotonic() < deadline, what
            time.sleep(0.01)

    def close(self) -> None:
        """End it; it must have nothing to complain about."""
        for each in self.agents:
            each.close()
        self.process.send_signal(signal.SIGTERM)
        try:
            said = self.process.communicate(timeout=SECONDS)[1].decode()
        finally:
            end(self.process)
        assert self.process.returncode == 0, said
        assert "Traceback" not in said, said


@contextmanager
def household(world: World, mode: str, servers: str) -> Iterator[Household]:
    """A running one."""
    made = Household(world, mode, servers)
    try:
        yield made
    finally:
        made.close()


def servers_toml(world: World, mode: str, tables: Mapping[str, tuple[str, Sequence[str]]]) -> str:
    """servers.toml with agents: {name: (profile, allowed hosts)}, for the ordinary user as well."""
    accepted = re.findall(r"[a-z]+\.[a-z]+", " ".join(world.arena.accept(mode)))
    command = ["/usr/bin/python3", "-I", "-S", "-c", PROGRAM]
    return "".join(
        f"[server.{name}]\nprofile = {json.dumps(profile)}\nallow = {json.dumps(list(allow))}\n"
        f"command = {json.dumps(command)}\nusers = [{json.dumps(world.arena.account)}]\n"
        f"accept_missing = {json.dumps(accepted)}\n"
        for name, (profile, allow) in tables.items()
    )


def descendants(pid: int) -> list[int]:
    """A process and all that it started, as far as they live."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(each for child in children for each in descendants(int(child)))]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def descriptors(pid: int) -> int:
    """How many it has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))
