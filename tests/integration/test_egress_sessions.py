"""One daemon, one broker, many sessions: each reaches its own hosts, within its own limits, until its own end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.escape.arena import MODES, Arena
from tests.integration.agents import Household, descriptors, household, servers_toml
from tests.integration.outside import World, make_world

pytestmark = pytest.mark.network_namespace
ONE = ["example.test:80", "tcp:example.test:25"]
TWO = ["another.test:80", "tcp:another.test:25"]
LIMITED = """
profile = 1
name = "few"
extends = "net-allowlist"
summary = "Few connections, few bytes."
[network]
connections = 3
bytes = "1M"
"""
HOST_FIRST = "example.test", "another.test"


@pytest.fixture(scope="module")
def world(arena: Arena) -> Iterator[World]:
    with ExitStack() as stack:
        yield make_world(arena, stack)


@pytest.fixture(scope="module", params=MODES)
def house(request: pytest.FixtureRequest, world: World) -> Iterator[Household]:
    mode = str(request.param)
    few = world.folder / "few.toml"
    few.write_text(LIMITED)
    tables = {"one": ("net-allowlist", ONE), "two": ("net-allowlist", TWO), "few": (str(few), ONE)}
    with household(world, mode, servers_toml(world, mode, tables)) as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_left(house: Household) -> Iterator[None]:
    """After each test no session is left, and with the last one the broker has gone."""
    yield
    for each in house.agents:
        each.close()
    house.agents.clear()
    house.until("a broker without sessions", lambda: not house.broker())


def test_a_name_of_one_session_is_not_known_to_another(house: Household) -> None:
    before = len(house.world.log)
    one, two = house.open("one"), house.open("two", user=True)
    assert one.does('fetch("example.test")') == "served example.test GET / 0\n"
    assert two.does('fetch("another.test")') == "served another.test GET / 0\n"
    mark = house.world.mark(before, "example.test", "another.test")
    assert "gaierror" in str(one.does('fetch("another.test")'))
    assert "gaierror" in str(two.does('fetch("example.test")'))
    assert not house.world.since(mark)


def test_the_same_address_means_another_name_in_each_session(house: Household) -> None:
    before = len(house.world.log)
    one, two = house.open("one"), house.open("two", user=True)
    assert one.does('at("example.test")') == two.does('at("another.test")') == "198.18.1.0"
    assert one.does('fetch("198.18.1.0", host="example.test")') == "served example.test GET / 0\n"
    mark = house.world.mark(before, "example.test")
    said = two.does('fetch("198.18.1.0", host="example.test")')
    assert said == "supervisor: example.test was asked for at the address of another.test\n"
    assert not house.world.since(mark)


def test_what_is_refused_is_told_to_the_session_that_asked(house: Household) -> None:
    one, two = house.open("one"), house.open("two", user=True)
    two.does('fetch("forbidden.test")')
    told = two.event("refused")
    assert (told["session"], told["name"]) == (two.number, "forbidden.test")
    one.does('fetch("elsewhere.test")')
    assert one.event("refused")["name"] == "elsewhere.test"
    assert [each for each in one.events if each.get("session") != one.number] == []


def test_many_requests_of_many_sessions_are_not_mixed_up(house: Household) -> None:
    agents = [house.open("one" if number % 2 else "two", user=number % 4 < 2) for number in range(12)]
    for number, agent in enumerate(agents):
        name = HOST_FIRST[0] if number % 2 else HOST_FIRST[1]
        for step in range(15):
            agent.tell(f'fetch("{name}", path="/{number}/{step}")')
    for number, agent in enumerate(agents):
        name = HOST_FIRST[0] if number % 2 else HOST_FIRST[1]
        expected = [f"served {name} GET /{number}/{step} 0\n" for step in range(15)]
        assert [agent.hears() for _ in range(15)] == expected


def test_the_end_of_a_session_ends_its_connections_and_no_other_s(house: Household) -> None:
    first, second = house.open("one"), house.open("one", user=True)
    broker, before = house.broker(), 0
    for each in (first, second):
        assert each.does('hold("a", "example.test", 25)') == "220 served banner\r\n"
        before = before or descriptors(broker)
    first.close()
    house.until("sockets of a session that ended", lambda: descriptors(broker) < before + 2)
    assert second.does('use("a")') == "echo hi"
    assert second.does('fetch("example.test")') == "served example.test GET / 0\n"
    assert house.broker() == broker


def test_a_broker_that_is_killed_ends_every_session_with_that_reason(house: Household) -> None:
    agents = [house.open("one"), house.open("two", user=True), house.open("few")]
    for each in agents[:2]:
        each.does(f'hold("a", "{HOST_FIRST[agents.index(each)]}", 25)')
    os.kill(house.broker(), signal.SIGKILL)
    for each in agents:
        told = each.event("exited")
        assert (told["session"], told["code"]) == (each.number, None)
        assert "the egress broker ended unexpectedly" in str(told["reason"])
        assert each.hears() == ""
    # and the next session has another
    assert house.open("one").does('fetch("example.test")') == "served example.test GET / 0\n"


def test_connections_are_counted_for_each_session(house: Household) -> None:
    full, other, free = house.open("few"), house.open("few", user=True), house.open("one")
    for number in range(3):
        assert full.does(f'hold({number}, "example.test", 25)') == "220 served banner\r\n"
    assert full.does('hold(3, "example.test", 25)') != "220 served banner\r\n"
    assert "(network.connections)" in str(full.event("refused")["reason"])
    for each in (other, free):
        assert each.does('hold(0, "example.test", 25)') == "220 served banner\r\n"
    full.does("kept.pop(0).close()")
    house.until("room for one more", lambda: full.does('hold(0, "example.test", 25)') == "220 served banner\r\n")


def test_bytes_are_counted_for_each_session(house: Household) -> None:
    full, other = house.open("few"), house.open("few", user=True)
    assert int(str(full.does('size("example.test", 3000000)'))) < 1_500_000
    assert "(network.bytes)" in str(full.event("refused")["reason"])
    assert str(full.does('fetch("example.test")')) != "served example.test GET / 0\n"
    assert other.does('fetch("example.test")') == "served example.test GET / 0\n"


def test_sockets_and_namespaces_of_many_sessions_are_given_back(house: Household) -> None:
    keeper = house.open("one")
    assert keeper.does('fetch("example.test")') == "served example.test GET / 0\n"
    broker = house.broker()
    before = descriptors(broker), descriptors(house.process.pid)
    for _ in range(3):
        agents = [house.open("two", user=number % 2 > 0) for number in range(10)]
        for each in agents:
            assert each.does('hold("a", "another.test", 25)')
        for each in agents:
            each.close()
        house.until("their sockets", lambda: descriptors(broker) <= before[0])
        house.until("their descriptors", lambda: descriptors(house.process.pid) <= before[1])
    assert keeper.does('fetch("example.test")') == "served example.test GET / 0\n"


def test_a_session_that_floods_the_broker_leaves_the_others_their_share(house: Household) -> None:
    quiet, loud = house.open("one"), house.open("two", user=True)
    assert quiet.does('fetch("example.test")') == "served example.test GET / 0\n"
    assert loud.does('flood("another.test")') == "floods"
    took = []
    for number in range(30):
        began = time.monotonic()
        assert quiet.does(f'fetch("example.test", path="/{number}")') == f"served example.test GET /{number} 0\n"
        took.append(time.monotonic() - began)
    # on a machine of two processors, one of which the flood has
    assert sorted(took)[15] < 0.5, took
    assert loud.does("1 + 1") == 2
