"""Ordinary programs reach the hosts that are named, with no proxy settings, and no other host."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.escape.arena import MODES, Arena
from tests.integration.outside import World, make_world

pytestmark = pytest.mark.network_namespace
PYTHON = ("/usr/bin/python3", "-I", "-c")
WEB = "203.0.113.10"


@pytest.fixture(scope="module")
def world(arena: Arena) -> Iterator[World]:
    with ExitStack() as stack:
        yield make_world(arena, stack)


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def curl(
    world: World, mode: str, allow: list[str], *arguments: str, profile: str = "net-allowlist"
) -> tuple[int, str, str]:
    done = world.run(mode, allow, ["/usr/bin/curl", "-sS", "--max-time", "15", *arguments], profile=profile)
    return done.returncode, done.stdout, done.stderr


def test_curl_reaches_a_named_host_and_no_other(world: World, mode: str) -> None:
    status, out, err = curl(world, mode, ["example.test:443"], "https://example.test/a")
    assert (status, out, err) == (0, "served example.test GET /a 0\n", "")
    mark = len(world.log)
    status, out, err = curl(world, mode, ["example.test:443"], "https://another.test/")
    assert status == 6
    assert "egress: another.test: " in err
    assert "--allow another.test:PORT would allow it" in err
    assert not world.since(mark)


@pytest.mark.parametrize(
    ("allow", "url"),
    [
        ("*.wild.test:443", "https://one.wild.test/"),
        ("**.wild.test:443", "https://a.b.wild.test/"),
        ("bücher.test:443", "https://xn--bcher-kva.test/"),
        ("EXAMPLE.test.:443", "https://Example.Test/"),
        ("example.test:80", "http://example.test/"),
        ("http:example.test:8080", "http://example.test:8080/"),
        ("tcp:example.test:8080", "http://example.test:8080/"),
        (f"{WEB}:80", f"http://{WEB}/"),
        ("10.0.0.5:80", "http://10.0.0.5/"),
        ("[2001:db8:1::10]:80", "http://[2001:db8:1::10]/"),
        ("example.test:9443", "https://example.test:9443/"),
        ("alias.test:443", "https://alias.test/"),
        ("many.test:443", "https://many.test/"),
        ("onlysix.test:443", "https://onlysix.test/"),
        ("six.test:443", "https://six.test/"),
        ("slow.test:443", "https://slow.test/"),
        ("127.0.0.1:4000", "http://127.0.0.1:4000/"),
    ],
)
def test_every_kind_of_entry_lets_its_own_host_through(world: World, allow: str, url: str) -> None:
    if "127.0.0.1" in url:
        with ExitStack() as stack:
            server = world.within("root", ["/usr/bin/python3", "-m", "http.server", "-b", "127.0.0.1", "4000"])
            process = stack.enter_context(world.arena.start(server, "root"))
            stack.callback(process.kill)
            status, _, err = curl(
                world, "root", [allow], "--retry", "9", "--retry-all-errors", "--retry-delay", "1", url
            )
            assert (status, err.replace("curl", "")) == (0, err.replace("curl", ""))
            return
    status, out, err = curl(world, "root", [allow], url)
    assert (status, err) == (0, "")
    assert out.startswith("served ")


@pytest.mark.parametrize(
    ("allow", "url"),
    [
        ("*.wild.test:443", "https://a.b.wild.test/"),
        ("*.wild.test:443", "https://wild.test/"),
        ("**.wild.test:443", "https://wild.test/"),
        ("example.test:443", "https://example.test:8443/"),
        ("example.test:443", "http://example.test/"),
        ("example.test:8080", "http://example.test:8080/"),
    ],
)
def test_what_an_entry_does_not_say_stays_shut(world: World, allow: str, url: str) -> None:
    mark = len(world.log)
    status, _, _ = curl(world, "root", [allow], url)
    assert status != 0
    assert not world.since(mark)


def test_ci_runner_has_a_network_only_when_the_operator_names_a_host(world: World, mode: str) -> None:
    status, out, _ = curl(world, mode, ["example.test:443"], "https://example.test/", profile="ci-runner")
    assert (status, out) == (0, "served example.test GET / 0\n")
    status, _, _ = curl(world, mode, [], "https://example.test/", profile="ci-runner")
    assert status == 6
    status, _, err = curl(world, mode, ["example.test:443"], "https://example.test/", profile="fs-readonly")
    assert status == 3
    assert "network.operator" in err


NODE = """
fetch("https://example.test/node").then(r => r.text()).then(t => { process.stdout.write(t); });
"""
URLLIB = """
import socket, urllib.request
print(urllib.request.urlopen("https://example.test/urllib").read().decode(), end="")
print(socket.getaddrinfo("example.test", 443, socket.AF_INET6 if 0 else 0)[0][4][0])
"""


def test_node_fetch_needs_no_settings(world: World, mode: str) -> None:
    done = world.run(mode, ["example.test:443"], ["/usr/bin/node", "-e", NODE])
    assert (done.returncode, done.stdout, done.stderr) == (0, "served example.test GET /node 0\n", "")


def test_python_needs_no_settings(world: World, mode: str) -> None:
    done = world.run(mode, ["example.test:443"], [*PYTHON, URLLIB])
    assert re.fullmatch(r"served example.test GET /urllib 0\n198\.18\.1\.0\n", done.stdout), done.stderr


def test_git_speaks_to_its_host(world: World, mode: str) -> None:
    mark = len(world.log)
    done = world.run(mode, ["example.test:443"], ["/usr/bin/git", "ls-remote", "https://example.test/repository"])
    assert "not valid: is this a git repository" in done.stderr
    assert any("/repository/info/refs" in line for line in world.since(mark))


def test_a_server_that_speaks_first_needs_a_tcp_entry(world: World, mode: str) -> None:
    program = """
import socket
with socket.create_connection(("example.test", 25), 10) as sock:
    print(sock.recv(100).decode().strip())
    sock.sendall(b"hi")
    sock.shutdown(socket.SHUT_WR)
    print(sock.recv(100).decode())
"""
    done = world.run(mode, ["tcp:example.test:25"], [*PYTHON, program])
    assert done.stdout == "220 served banner\necho hi\n", done.stderr
    mark = len(world.log)
    done = world.run(mode, ["example.test:25"], [*PYTHON, program])
    assert "served" not in done.stdout
    assert not world.since(mark)


def test_websockets_and_kept_connections_and_bodies(world: World) -> None:
    program = """
import http.client, socket
c = http.client.HTTPConnection("example.test", timeout=10)
for body in (b"x" * 100000, [b"ab", b"cd" * 5000]):
    c.request("POST", "/p", body=body, encode_chunked=True)
    print(c.getresponse().read().decode(), end="")
s = socket.create_connection(("example.test", 80), 10)
s.sendall(b"GET /ws HTTP/1.1\\r\\nHost: example.test\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\n\\r\\n")
got = s.recv(4096)
s.sendall(b"anything")
while more := s.recv(4096): got += more
print(got.split(b"\\r\\n")[0].decode(), got[-12:].decode())
"""
    done = world.run("root", ["example.test:80"], [*PYTHON, program])
    assert done.stdout.splitlines() == [
        "served example.test POST /p 100000",
        "served example.test POST /p 10002",
        "HTTP/1.1 101 Switching Protocols raw:anything",
    ], done.stderr


def test_programs_that_use_proxy_variables(world: World, mode: str) -> None:
    proxies = ("--env=HTTPS_PROXY=http://198.18.0.1:3128", "--env=http_proxy=http://198.18.0.1:3128")
    allow = ["example.test:443", "example.test:80", "another.test:80"]
    urls = ("https://example.test/1", "http://example.test/2", "http://another.test/3")
    done = world.run(mode, allow, ["/usr/bin/curl", "-sS", "--max-time", "9", *urls], *proxies)
    assert [line.split()[1:4] for line in done.stdout.splitlines()] == [
        ["example.test", "GET", "/1"],
        ["example.test", "GET", "/2"],
        ["another.test", "GET", "/3"],
    ], done.stderr
    done = world.run(mode, allow, ["/usr/bin/curl", "-sS", "https://forbidden.test/"], *proxies)
    assert done.returncode == 56
    assert "--allow forbidden.test:443 would allow it" in done.stderr


def test_a_real_mcp_server_fetches_from_its_host_and_no_other(world: World, mode: str, servers: Path) -> None:
    # its own guard against private addresses takes the ones that stand for names for such; the broker's is the one
    # that counts, and looks at what is dialled
    words = ("-m", "mcp_server_fetch", "--ignore-robots-txt", "--allow-private-ips")
    command: list[str | Path] = [servers / "python" / "bin" / "python", *words]
    done = world.call(mode, ["example.test:443"], command, "fetch", "url=https://example.test/page")
    assert "served example.test GET /page" in done.stdout, done.stderr
    done = world.call(mode, ["example.test:443"], command, "fetch", "url=https://forbidden.test/page")
    assert done.returncode == 1
    assert "--allow forbidden.test:PORT would allow it" in done.stderr


QUIC = """
import socket, sys
where = ("example.test", 443)
hello = bytes([0xC0, 0, 0, 0, 1, 8]) + bytes(1194)  # the size and the first bytes of a QUIC Initial packet
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.settimeout(5)
    sock.connect(where)
    try:
        sock.send(hello)
        print("answered", sock.recv(99))
    except ConnectionRefusedError:
        import urllib.request
        print("fell back:", urllib.request.urlopen("https://example.test/after-quic").read().decode(), end="")
"""


def test_a_client_that_tries_quic_is_refused_at_once_and_falls_back(world: World, mode: str) -> None:
    mark = len(world.log)
    done = world.run(mode, ["example.test:443"], [*PYTHON, QUIC])
    assert done.stdout == "fell back: served example.test GET /after-quic 0\n", done.stderr
    assert not any(line.startswith("udp") for line in world.since(mark))


H2 = """
const client = require("http2").connect("https://example.test:9444", {ca: require("fs").readFileSync("/ca.pem")});
client.on("error", error => { console.log(error.code); process.exit(1); });
const request = client.request({":path": "/"});
let got = "";
request.on("data", data => got += data).on("end", () => { console.log(got); client.close(); });
request.end();
"""


def test_http2_needs_no_settings(world: World, mode: str) -> None:
    done = world.run(mode, ["example.test:9444"], ["/usr/bin/node", "-e", H2])
    assert done.stdout == "served by http2\n", done.stderr


def test_a_host_that_is_down_is_told_apart_from_one_that_is_refused(world: World) -> None:
    done = world.run("root", ["dead.test:443", "nowhere.test:443"], ["/usr/bin/curl", "-sS", "https://dead.test/"])
    assert done.returncode == 35
    assert "not reached: Connection refused" in done.stderr
    done = world.run(
        "root", ["dead.test:443", "nowhere.test:443"], ["/usr/bin/curl", "-sS", "https://nowhere.test/"]
    )
    assert "not reached: nowhere.test does not resolve" in done.stderr


def test_bulk_comes_through_whole(world: World, mode: str) -> None:
    done = world.run(
        mode,
        ["example.test:443"],
        ["/usr/bin/curl", "-sS", "https://example.test/size/50000000", "-o", "/dev/null", "-w", "%{size_download}"],
    )
    assert done.stdout == "50000000", done.stderr
