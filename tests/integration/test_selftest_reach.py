"""`supervisor selftest --allow HOST:PORT`: which of the allowed hosts answer, and that they lead nowhere else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.escape.arena import MODES, Arena
from tests.integration.outside import World, make_world

pytestmark = pytest.mark.network_namespace
TARGETS = (
    "example.test:443", "example.test:80", "http:example.test:8080", "example.test:9443", "tcp:example.test:25",
    "dead.test:443", "nowhere.test:443", "tcp:dead.test:25", "dead.test:80",
    "private.test:443", "10.0.0.5:80", "*.wild.test:443",
)  # fmt: skip


@pytest.fixture(scope="module")
def world(arena: Arena) -> Iterator[World]:
    with ExitStack() as stack:
        yield make_world(arena, stack)


def selftest(world: World, mode: str, *words: str) -> tuple[int, str, str]:
    head = [*world.arena.commands[mode], "selftest", "--profile", "net-allowlist", *world.arena.accept(mode)]
    done = world.outside(mode, [*head, *words])
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("mode", MODES)
def test_every_allowed_host_is_dialled_and_one_that_is_down_fails_no_boundary(world: World, mode: str) -> None:
    mark = len(world.log)
    status, out, err = selftest(world, mode, "--json", *(f"--allow={each}" for each in TARGETS))
    assert status == 0, out + err
    answer = json.loads(out)
    assert answer["held"] is True
    reach = {each["host"]: (each["state"], each["seen"]) for each in answer["reach"]}
    assert len(reach) == len(TARGETS)
    for host in ("example.test:443", "example.test:9443"):
        assert reach[host] == ("answers", "TLSv1.3")
    for host in ("example.test:80", "example.test:8080"):
        assert reach[host] == ("answers", "HTTP/1.1 200 OK")
    assert reach["example.test:25"] == ("answers", "b'220 served banner\\r\\n'")
    for host in ("dead.test:443", "dead.test:80", "dead.test:25"):
        assert reach[host] == ("silent", "not reached: Connection refused")
    assert reach["nowhere.test:443"] == ("silent", "not reached: nowhere.test does not resolve")
    assert reach["private.test:443"][0] == "refused"
    assert "leads to 10.0.0.5: private" in reach["private.test:443"][1]
    assert reach["10.0.0.5:80"][0] == "answers"
    assert reach["*.wild.test:443"][0] == "pattern"
    tried = {each["tried"]: each["held"] for each in answer["probes"] if each["boundary"] == "network"}
    assert tried["find a name that is not allowed"]
    assert tried["connect to example.test at a port that is not allowed"]
    assert tried["say another name to example.test"]
    assert not any("not-allowed" in line for line in world.since(mark))


def test_people_read_which_host_does_not_answer_and_why(world: World) -> None:
    status, out, _ = selftest(world, "root", "--allow=example.test:443", "--allow=dead.test:443")
    assert status == 0
    assert "  example.test:443 answers: TLSv1.3\n" in out
    assert "  dead.test:443 does not answer (the host, not the sandbox): not reached: Connection refused\n" in out
    assert "FAILED" not in out
