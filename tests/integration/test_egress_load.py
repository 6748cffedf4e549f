"""Limits and patience of the broker while much goes on: many downloads, many idle connections, slow peers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.escape.arena import MODES, Arena
from tests.integration.outside import World, make_world

pytestmark = pytest.mark.network_namespace
PYTHON = ("/usr/bin/python3", "-I", "-c")
WIDE = """
profile = 1
name = "wide"
extends = "net-allowlist"
summary = "Many connections, few bytes, little patience."
[network]
connections = 100
rate = 200
bytes = "20M"
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
def wide(world: World) -> str:
    path = world.folder / "wide.toml"
    path.write_text(WIDE)
    return str(path)


DOWNLOADS = """
import socket, threading
got, lock = [], threading.Lock()
def download():
    count = 0
    try:
        with socket.create_connection(("example.test", 80), 10) as sock:
            sock.sendall(b"GET /size/10000000 HTTP/1.1\\r\\nHost: example.test\\r\\n\\r\\n")
            while more := sock.recv(65536): count += len(more)
    except OSError: pass
    with lock: got.append(count)
threads = [threading.Thread(target=download) for _ in range(30)]
for each in threads: each.start()
for each in threads: each.join()
again = 1
try:
    with socket.create_connection(("example.test", 80), 10) as sock:
        sock.sendall(b"GET / HTTP/1.1\\r\\nHost: example.test\\r\\n\\r\\n")
        again = len(sock.recv(99))
except OSError: again = 0
print(sum(got), len([each for each in got if each]), again)
"""


def test_bytes_are_limited_over_all_connections_together(world: World, wide: str, mode: str) -> None:
    done = world.run(mode, ["example.test:80"], [*PYTHON, DOWNLOADS], profile=wide)
    total, served, again = map(int, done.stdout.split())
    # at most one step of copying beyond, on each of them
    assert 15 << 20 < total <= (20 << 20) + 30 * 65536
    assert served > 1
    assert again == 0
    assert "(network.bytes)" in done.stderr


IDLE = """
import socket, time
where = ("example.test", 25)
held = [socket.create_connection(where, 10) for _ in range(60)]
for each in held: each.recv(99)
busy = socket.create_connection(("example.test", 80), 10)
busy.sendall(b"GET /drip/30 HTTP/1.1\\r\\nHost: example.test\\r\\n\\r\\n")
began, body = time.monotonic(), b""
while not body.endswith(b"\\r\\n\\r\\n" + b"x" * 30): body += busy.recv(99)
ended = 0
for each in held:
    each.settimeout(0.1)
    try: ended += each.recv(1) == b""
    except ConnectionError: ended += 1
    except TimeoutError: pass
print(ended, time.monotonic() - began > 11)
"""


def test_idle_connections_are_ended_and_one_that_drips_is_not(world: World, wide: str, mode: str) -> None:
    allow = ["example.test:80", "tcp:example.test:25"]
    done = world.run(mode, allow, [*PYTHON, IDLE], profile=wide)
    assert done.stdout == "60 True\n", done.stderr


DRIPPING = """
import socket, sys, time
port, said = int(sys.argv[1]), sys.argv[2].encode().decode("unicode_escape").encode("latin-1")
with socket.create_connection(("example.test", port), 10) as sock:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    began, sent = time.monotonic(), 0
    try:
        for at in range(len(said)):
            sock.sendall(said[at:at + 1])
            sent += 1
            time.sleep(0.5)
    except OSError: pass
    print(sent < len(said), 4 < time.monotonic() - began < 8)
"""


@pytest.mark.parametrize(
    ("port", "said"), [("443", r"\x16\x03\x01\x02\x00" + "x" * 40), ("80", "GET /" + "x" * 40)], ids=["tls", "http"]
)
def test_a_client_that_drips_its_first_words_is_ended(world: World, port: str, said: str) -> None:
    """However often it says one byte more, what is asked for must be known within five seconds."""
    mark = len(world.log)
    done = world.run("root", ["example.test:443", "example.test:80"], [*PYTHON, DRIPPING, port, said])
    assert done.stdout == "True True\n", done.stderr
    assert not world.since(mark)


SLOW_READER = """
import socket, time
with socket.create_connection(("example.test", 80), 10) as sock:
    sock.sendall(b"GET /size/30000000 HTTP/1.1\\r\\nHost: example.test\\r\\n\\r\\n")
    time.sleep(1)
    got = 0
    while got < 30000000 and (more := sock.recv(100000)): got += more.count(b"x")
print(got)
"""


def test_a_client_that_reads_late_gets_all_of_it(world: World, mode: str) -> None:
    done = world.run(mode, ["example.test:80"], [*PYTHON, SLOW_READER])
    assert done.stdout == "30000001\n", done.stderr


MANY = """
import socket, threading, urllib.request
failed = []
def ask(number):
    for step in range(10):
        try:
            text = urllib.request.urlopen(f"http://example.test/{number}/{step}", timeout=15).read().decode()
            if text != f"served example.test GET /{number}/{step} 0\\n": failed.append(text)
        except OSError as error: failed.append(repr(error))
threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
for each in threads: each.start()
for each in threads: each.join()
print(failed[:3])
"""


def test_many_short_connections_at_once_each_get_their_own_answer(world: World, wide: str, mode: str) -> None:
    done = world.run(mode, ["example.test:80"], [*PYTHON, MANY], profile=wide)
    assert done.stdout == "[]\n", done.stderr
