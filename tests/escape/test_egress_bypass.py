"""Ways around the allowlist. Inside, `example.test` and names that lead to bad places are allowed.

Each attempt is made once without the sandbox, by the same caller in the same network, and must succeed there: the
hosts exist and answer. `served` in an answer is what the attempts are after.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.escape.arena import MODES, PYTHON, Arena
from tests.integration.outside import World, make_world

pytestmark = pytest.mark.network_namespace
PROFILE = "net-allowlist"
FIRST = Path(__file__).with_name("egress_attempts.py").read_text(encoding="utf-8")
BEYOND = Path(__file__).with_name("egress_attempts_beyond.py").read_text(encoding="utf-8")
MORE = Path(__file__).with_name("egress_attempts_more.py").read_text(encoding="utf-8")
ATTEMPTS = "".join((FIRST, *(part.partition("# what travels begins here\n")[2] for part in (BEYOND, MORE))))
BAD = (
    "private",
    "loopback",
    "link",
    "own",
    "mapped",
    "nat64",
    "zero",
    "mixed",
    "hidden",
    "tosix",
    "inner",
    "infile",
    "chain",
    "carrier",
    "cloud",
    "home",
    "unique",
    "compatible",
    "teredo",
    "flip",
)
ALLOW = ("example.test:443", "example.test:80", "example.test:9443", "another.test:8443", "*.wild.test:443")
NAMES = [line[4:].split("(")[0] for line in ATTEMPTS.splitlines() if line.startswith("def try_")]
# what only makes sense where synthetic addresses and the broker are
INSIDE_ONLY = {
    "try_an_address_that_stands_for_nothing",
    "try_the_address_of_another_name",
    "try_the_pool_before_a_question",
    "try_the_proxy_for_a_refused_name",
    "try_the_proxy_for_an_address",
    "try_the_proxy_for_its_own_network",
    "try_the_proxy_with_an_absolute_target",
    "try_the_proxy_and_then_another_sni",
    "try_the_proxy_for_the_host_s_loopback",
    "try_the_proxy_behind_a_proxy",
    "try_the_proxy_a_second_time",
    "try_the_proxy_with_other_spellings",
    "try_the_proxy_for_another_port",
    "try_the_proxy_for_metadata",
    "try_the_proxy_with_the_target_and_host_of_two",
    "try_socks",
    "try_the_ends_of_the_network",
}
# nothing answers there in this network; inside, nothing may even be tried
SILENT = {
    "try_rebinding_nat64",
    "try_rebinding_zero",
    "try_rebinding_inner",
    "try_rebinding_compatible",
    "try_rebinding_teredo",
}
LISTENER = """
import socket, sys, threading
def serve(address):
    s = socket.create_server((address, 80))
    while True:
        c, _ = s.accept(); c.recv(999)
        c.sendall(b"HTTP/1.1 200 OK\\r\\n\\r\\nserved by the host itself"); c.close()
for each in ("127.0.0.1", "203.0.113.1"): threading.Thread(target=serve, args=(each,), daemon=True).start()
print("up", flush=True); sys.stdin.read()
"""


@pytest.fixture(scope="module")
def world(arena: Arena) -> Iterator[World]:
    with ExitStack() as stack:
        made = make_world(arena, stack)
        host = made.within("root", [*PYTHON, "-c", LISTENER])
        arena.companion("bypass-listener", host, "root")
        yield made


Results = dict[tuple[str, bool], dict[str, str]]


@pytest.fixture(scope="module")
def results() -> Results:
    return {}


def outcome(world: World, results: Results, mode: str, *, inside: bool) -> dict[str, str]:
    """What each attempt got, from one run of all of them."""
    if (mode, inside) not in results:
        allow = [*ALLOW, *(f"{name}.test:80" for name in BAD)]
        authority = "/ca.pem" if inside else str(world.authority)
        # outside, those would wait for nobody, each as long as it can
        chosen = [name for name in NAMES if inside or name not in INSIDE_ONLY | SILENT]
        text = f"{ATTEMPTS}\n\nmain({chosen!r}, {authority!r})\n"
        mark = len(world.log)
        if inside:
            done = world.run(mode, allow, [*PYTHON, "-"], text=text, seconds=100)
        else:
            done = world.outside(mode, [*PYTHON, "-"], text=text)
        assert done.stdout, done.stderr
        results[mode, inside] = json.loads(done.stdout)
        results[mode, inside]["log"] = "\n".join(world.since(mark))
        results[mode, inside]["said"] = done.stderr
    return results[mode, inside]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_a_way_around_the_allowlist_is_shut(world: World, results: Results, name: str, mode: str) -> None:
    if name not in INSIDE_ONLY | SILENT:
        control = outcome(world, results, mode, inside=False)[name]
        if not (control.startswith("needs root") and mode == "user"):
            assert control.startswith("CROSSED"), f"proves nothing: {control}"
    assert outcome(world, results, mode, inside=True)[name].startswith("HELD")


@pytest.mark.parametrize("mode", MODES)
def test_what_is_allowed_still_works_beside_the_attempts(world: World, results: Results, mode: str) -> None:
    assert outcome(world, results, mode, inside=True)["allowed"] == "served example.test"


@pytest.mark.parametrize("mode", MODES)
def test_no_label_of_a_question_leaves_the_host(world: World, results: Results, mode: str) -> None:
    assert "leaked" in outcome(world, results, mode, inside=False)["log"]
    assert "leaked" not in outcome(world, results, mode, inside=True)["log"]


@pytest.mark.parametrize("mode", MODES)
def test_no_other_name_reached_a_server(world: World, results: Results, mode: str) -> None:
    for word in ("sni forbidden.test", "web 203.0.113.10 GET /smuggled", "forbidden.test", "banner", "udp"):
        assert word in outcome(world, results, mode, inside=False)["log"], f"proves nothing: {word}"
        assert word not in outcome(world, results, mode, inside=True)["log"]


@pytest.mark.parametrize("mode", MODES)
def test_refusals_are_told_with_the_rule_that_would_allow_them(world: World, results: Results, mode: str) -> None:
    said = outcome(world, results, mode, inside=True)["said"]
    for word in (
        "--allow forbidden.test:443 would allow it",
        "private.test leads to 10.0.0.5: private",
        "Encrypted",
    ):
        assert word in said


STEAL = """
import socket
held = 0
for kind, address, port in (("tcp", "198.18.1.0", 443), ("udp", "198.18.0.1", 53), ("tcp", "198.18.0.1", 3128)):
    for where in (address, "0.0.0.0", "::ffff:" + address, "::"):
        for option in (None, socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            family = socket.AF_INET6 if ":" in where else socket.AF_INET
            sock = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
            try:
                if option: sock.setsockopt(socket.SOL_SOCKET, option, 1)
                sock.bind((where, port))
                if kind == "tcp": sock.listen(1)
                print("stolen", kind, where, port, option)
            except OSError:
                held += 1
print(held)
"""


@pytest.mark.parametrize("mode", MODES)
def test_the_broker_s_sockets_cannot_be_stolen_where_binding_is_allowed(world: World, mode: str) -> None:
    done = world.run(mode, ["example.test:443"], [*PYTHON, "-c", STEAL], profile="ci-runner")
    assert done.stdout == "36\n", done.stderr
