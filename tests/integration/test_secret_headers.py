"""A secret that only the broker has: what a hostile server can and cannot make of the host that gets it."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.escape.arena import MODES, Arena
from tests.integration.outside import World, make_world

pytestmark = pytest.mark.network_namespace
PYTHON = ("/usr/bin/python3", "-I", "-c")
VALUE = f"canary{secrets.token_hex(12)}"
# holds each conversation of [host, port, part, ...], a pause before each further part; prints what was answered
TALK = """
import json, socket, sys, time
def talk(host, port, *parts):
    said = ""
    try:
        with socket.create_connection((host, port), 5) as sock:
            sock.settimeout(4)
            for part in parts:
                sock.sendall(part.encode())
                time.sleep(0.05)
            while data := sock.recv(65536):
                said += data.decode("latin-1")
    except OSError as error:
        said += type(error).__name__
    return said
print(json.dumps([talk(*each) for each in json.load(sys.stdin)]))
"""
Conversation = tuple[str, int, list[str]]


@pytest.fixture(scope="module")
def world(arena: Arena) -> Iterator[World]:
    with ExitStack() as stack:
        made = make_world(arena, stack)
        made.trusted = True
        yield made


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def token(world: World, mode: str) -> Path:
    plot = world.arena.plots[mode]
    path = plot.home / "token"
    path.write_text(VALUE + "\n", encoding="utf-8")
    path.chmod(0o600)
    os.chown(path, plot.uid, plot.gid)
    return path


def talk(world: World, mode: str, *conversations: Conversation) -> tuple[list[str], list[str]]:
    """What a server was answered in each of them, and what the world saw."""
    mark = len(world.log)
    text = json.dumps([[host, port, *parts] for host, port, parts in conversations])
    allow = ["another.test:443", "another.test:80"]
    secret = f"--secret=T@example.test=file:{token(world, mode)}"
    done = world.run(mode, allow, [*PYTHON, TALK], secret, text=text)
    assert done.returncode == 0, done.stderr
    assert VALUE not in done.stdout
    assert VALUE not in done.stderr
    return json.loads(done.stdout), world.since(mark)


def credentials(seen: list[str]) -> list[str]:
    return [line for line in seen if line.startswith("credential ")]


def ask(path: str, *fields: str, host: str = "example.test", method: str = "GET", body: str = "") -> str:
    lines = (f"{method} {path} HTTP/1.1", f"Host: {host}", *fields)
    return "\r\n".join(lines) + "\r\n\r\n" + body


def here(*parts: str) -> Conversation:
    return ("example.test", 80, list(parts))


def test_the_host_gets_the_header_over_tls_and_the_server_gets_the_answer(world: World, mode: str) -> None:
    (said,), seen = talk(world, mode, here(ask("/here")))
    assert said.startswith("HTTP/1.1 200 OK\r\n")
    assert "served example.test GET /here 0" in said
    assert credentials(seen) == [f"credential example.test /here Bearer {VALUE}"]
    assert "sni example.test" in seen


def test_one_request_of_a_connection_is_passed_on_with_its_body_and_no_header_of_the_server_s_own(
    world: World,
) -> None:
    own = ask("/own", "authorization: Basic mine", "AUTHORIZATION: two", "Connection: authorization")
    chunked = ask("/put", "Transfer-Encoding: chunked", method="POST", body="3\r\nabc\r\n0\r\n\r\n")
    counted = ask("/len", "Content-Length: 2", method="PUT", body="ab")
    second = ask("/second")
    said, seen = talk(world, "root", here(own), here(chunked, second), here(counted + second))
    assert "served example.test POST /put 3" in said[1]
    assert "served example.test PUT /len 2" in said[2]
    assert credentials(seen) == [
        f"credential example.test /{path} Bearer {VALUE}" for path in ("own", "put", "len")
    ]
    assert not any("/second" in line for line in seen)


def test_a_host_that_says_the_secret_back_does_not_tell_the_server(world: World) -> None:
    paths = ("/echo", "/echo/pieces", "/echo/elsewhere", "/echo/packed")
    asked = [here(ask(path, "Accept-Encoding: gzip", "Range: bytes=0-9")) for path in paths]
    (*told, packed), seen = talk(world, "root", *asked)
    assert len(credentials(seen)) == len(paths)
    assert not any(line.startswith(("sni another", "dns another")) for line in seen), "no redirect is followed"
    for each in told:
        assert "Location: https://another.test/?Bearer ****" in each
        assert each.replace("\r\n1\r\n", "").count("*" * len(VALUE)) == 2
    assert "403 Forbidden" in packed
    assert "compressed although that was not asked for" in packed


REFUSED = [
    (ask("/a", host="another.test"), "another.test was asked for at the address of example.test"),
    (ask("/a", host="example.test:443"), "port 443 was asked for at port 80"),
    (ask("/a", "Host: another.test"), "two host fields"),
    (ask("http://another.test/a"), "absolute request targets are for proxies"),
    (ask("https://example.test/a"), "absolute request targets are for proxies"),
    (ask("example.test:443", method="CONNECT"), "CONNECT and absolute request targets"),
    ("GET /a\r\n\r\n", "a malformed request line"),
    ("GET /a HTTP/1.0\r\nHost: example.test\r\n\r\n", "HTTP/1.0"),
    (ask("/a", method="TRACE"), "TRACE"),
    (ask("/a", "Connection: upgrade", "Upgrade: websocket"), "an upgrade"),
    (ask("/a", "Connection: upgrade", "Upgrade: h2c", "HTTP2-Settings: x"), "an upgrade to HTTP/2"),
    (ask("/a", "Content-Length: 3", "Transfer-Encoding: chunked"), "a body with two lengths"),
    (ask("/a", "Transfer-Encoding: chunked, gzip"), "in another coding than chunked"),
    ("GET /a HTTP/1.1\nHost: example.test\n\n", "bare line feeds"),
    ("GET /a HTTP/1.1\r\nHost: example.test\r\n x: folded\r\n\r\n", "folded"),
    (ask("/a", "authorization : x"), "malformed"),
]


def test_no_request_of_the_server_s_own_takes_the_secret_elsewhere(world: World) -> None:
    said, seen = talk(world, "root", *(here(text) for text, _ in REFUSED))
    for answer, (text, reason) in zip(said, REFUSED, strict=True):
        assert answer.startswith("HTTP/1.1 403 Forbidden\r\n"), text
        assert reason in answer
    assert not any(line.startswith(("credential", "web")) for line in seen)


def test_other_hosts_ports_and_ways_get_no_secret(world: World) -> None:
    tunnel = "CONNECT example.test:80 HTTP/1.1\r\nHost: example.test:80\r\n\r\n"
    said, seen = talk(
        world,
        "root",
        ("another.test", 80, [ask("/plain", host="another.test")]),
        ("example.test", 443, [ask("/tls")]),
        ("198.18.0.1", 3128, [ask("http://example.test/a")]),
        ("198.18.0.1", 3128, [tunnel, ask("/x", host="another.test")]),
    )
    assert "served another.test GET /plain" in said[0]
    assert said[1] == "ConnectionRefusedError", "the host itself is allowed with the secret alone"
    assert "through a proxy" in said[2]
    assert "another.test was asked for" in said[3]
    assert not credentials(seen)


def test_a_host_that_cannot_prove_its_name_gets_nothing(world: World) -> None:
    world.trusted = False
    try:
        (said,), seen = talk(world, "root", here(ask("/a")))
    finally:
        world.trusted = True
    assert "502 Bad Gateway" in said
    assert "no TLS with example.test: " in said
    assert not credentials(seen)


@pytest.mark.parametrize(
    ("options", "status", "reason"),
    [
        (["--secret=T@203.0.113.10=env:X"], 2, "an address has no name that a certificate could be checked for"),
        (["--secret=T@*.wild.test=env:X"], 2, "a secret goes to one host, not to a pattern"),
        (["--secret=T@example.test=env:X", "--allow=example.test:80"], 2, "would be the same inside"),
        (["--allow=header:example.test:443"], 2, "comes with a secret"),
    ],
)
def test_what_cannot_be_done_with_a_header_is_refused_with_the_reason(
    world: World, options: list[str], status: int, reason: str
) -> None:
    done = world.run("root", [], ["/usr/bin/true"], *options)
    assert done.returncode == status
    assert reason in done.stderr
