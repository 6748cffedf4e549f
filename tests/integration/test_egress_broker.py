"""The broker as a process: what it may, that sessions end with it, the limits of a session, and who has none."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.escape.arena import MODES, Arena, end
from tests.integration.outside import World, make_world

pytestmark = pytest.mark.network_namespace
PYTHON = ("/usr/bin/python3", "-I", "-c")
LIMITED = """
profile = 1
name = "limited"
extends = "net-allowlist"
summary = "Little of everything."
[network]
connections = 3
rate = 5
bytes = "1M"
idle = "3s"
"""


@pytest.fixture(scope="module")
def world(arena: Arena) -> Iterator[World]:
    with ExitStack() as stack:
        yield make_world(arena, stack)


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def limited(world: World) -> str:
    path = world.folder / "limited.toml"
    path.write_text(LIMITED)
    return str(path)


def descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in descendants(int(child)))]


def broker_of(process: subprocess.Popen[bytes]) -> list[int]:
    found = []
    for pid in descendants(process.pid):
        if b"egress.broker" in Path(f"/proc/{pid}/cmdline").read_bytes():
            found.append(pid)
    return found


def started(world: World, mode: str, allow: list[str], profile: str = "net-allowlist") -> subprocess.Popen[bytes]:
    process = world.start(mode, allow, ["/bin/sh", "-c", "echo up; exec sleep 30"], profile=profile)
    assert process.stdout
    assert process.stdout.readline() == b"up\n"
    return process


def test_the_broker_has_an_identity_and_no_powers_of_its_own(world: World, mode: str) -> None:
    process = started(world, mode, ["example.test:443"])
    try:
        (broker,) = broker_of(process)
        deadline = time.monotonic() + 5
        while "Seccomp:\t2" not in (text := Path(f"/proc/{broker}/status").read_text()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        status = dict(line.split(":\t", 1) for line in text.splitlines())
        uid = int(status["Uid"].split()[0])
        assert uid == (0x70000000 + broker if mode == "root" else world.arena.plots["user"].uid)
        assert [status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")] == ["0" * 16] * 5
        assert status["NoNewPrivs"] == "1"
        others = {os.readlink(f"/proc/{pid}/ns/user") for pid in descendants(process.pid) if pid != broker}
        assert mode == "root" or os.readlink(f"/proc/{broker}/ns/user") not in others
        assert status["Threads"] == "1"
    finally:
        end(process)


def test_a_session_ends_with_its_broker(world: World, mode: str) -> None:
    process = started(world, mode, ["example.test:443"])
    os.kill(broker_of(process)[0], signal.SIGKILL)
    began = time.monotonic()
    done = world.arena.finish(process)
    assert time.monotonic() - began < 3
    assert done.returncode == 137
    assert "the egress broker ended unexpectedly" in done.stderr


def test_the_broker_ends_with_the_session(world: World, mode: str) -> None:
    process = started(world, mode, ["example.test:443"])
    (broker,) = broker_of(process)
    process.terminate()
    world.arena.finish(process)
    deadline = time.monotonic() + 1
    while os.path.exists(f"/proc/{broker}") and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not os.path.exists(f"/proc/{broker}")


@pytest.mark.parametrize("profile", ["none", "ci-runner"])
def test_without_a_network_there_is_no_broker(world: World, profile: str) -> None:
    process = started(world, "root", [], profile)
    try:
        assert not broker_of(process)
    finally:
        end(process)


def test_connections_at_a_time_are_limited(world: World, limited: str) -> None:
    program = """
import socket
held = [socket.create_connection(("example.test", 25), 5) for _ in range(4)]
greeted = 0
for each in held:
    try: greeted += bool(each.recv(10))
    except OSError: pass
print(greeted)
"""
    done = world.run("root", ["tcp:example.test:25"], [*PYTHON, program], profile=limited)
    assert done.stdout == "3\n"
    assert "(network.connections)" in done.stderr


def test_new_connections_are_limited_in_a_second(world: World, limited: str) -> None:
    program = """
import socket
answered = 0
for _ in range(30):
    with socket.create_connection(("example.test", 80), 5) as sock:
        try:
            sock.sendall(b"GET / HTTP/1.1\\r\\nHost: example.test\\r\\n\\r\\n")
            answered += bool(sock.recv(10))
        except OSError: pass
print(answered)
"""
    done = world.run("root", ["example.test:80"], [*PYTHON, program], profile=limited)
    assert 10 <= int(done.stdout) < 20
    assert "(network.rate)" in done.stderr


def test_bytes_are_limited(world: World, limited: str) -> None:
    argv = [
        "/usr/bin/curl",
        "-sS",
        "https://example.test/size/5000000",
        "-o",
        "/dev/null",
        "-w",
        "%{size_download}",
    ]
    done = world.run("root", ["example.test:443"], argv, profile=limited)
    assert done.returncode != 0
    assert int(done.stdout) < 1_500_000
    assert "(network.bytes)" in done.stderr


def test_an_idle_connection_is_ended(world: World, limited: str) -> None:
    program = """
import socket, time
with socket.create_connection(("example.test", 2525), 5) as sock:
    sock.recv(99)
    began = time.monotonic()
    sock.settimeout(15)
    try: print(sock.recv(99))
    except OSError as error: print(repr(error)[:20])
    print(2 < time.monotonic() - began < 12)
"""
    done = world.run("root", ["tcp:example.test:2525"], [*PYTHON, program], profile=limited)
    assert done.stdout.endswith("True\n"), done.stdout + done.stderr


def test_a_client_that_says_nothing_is_ended(world: World) -> None:
    program = """
import socket, time
with socket.create_connection(("example.test", 443), 5) as sock:
    sock.sendall(b"\\x16")
    began = time.monotonic()
    print(sock.recv(99), 4 < time.monotonic() - began < 7)
"""
    done = world.run("root", ["example.test:443"], [*PYTHON, program.replace(", 5)", ", 9)")])
    assert done.stdout == "b'' True\n", done.stdout + done.stderr
