"""`supervisor selftest`: every shipped profile holds on this host, and a profile that grants more says so."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.escape.arena import CHECKOUT, Arena
from tests.integration.caller import Caller


def selftest(caller: Caller, *arguments: str) -> tuple[int, dict[str, object]]:
    argv = caller.become([*caller.command("selftest", *arguments, *caller.start_options()), "--json"])
    done = subprocess.run(
        argv, cwd=caller.project, env=caller.environment, capture_output=True, text=True, timeout=100
    )
    assert done.stdout, done.stderr
    answer: dict[str, object] = json.loads(done.stdout)
    return done.returncode, answer


@pytest.mark.parametrize("profile", ["none", "fs-readonly", "fs-scoped"])
def test_a_shipped_profile_holds_at_every_boundary(profile: str, caller: Caller) -> None:
    status, answer = selftest(caller, "--profile", profile)
    probes = answer["probes"]
    assert isinstance(probes, list)
    assert [row for row in probes if not row["held"]] == []
    assert len(probes) > 60
    assert isinstance(answer["calls"], int)
    assert 100 < answer["calls"] <= 150
    assert status == 0


def test_the_probes_cross_where_there_is_no_sandbox(arena: Arena) -> None:
    """The control: run outside as an ordinary user, they find what a profile would have kept from them."""
    source = (CHECKOUT / "supervisor" / "cli" / "probes.py").read_text(encoding="utf-8")
    bounds = {"files": 16, "tmp": 1 << 20, "pids": 4, "memory": 1 << 20}
    asked = {
        "environment": ["sandbox"],
        "granted": [],
        "network": False,
        "bounds": bounds,
        "targets": [],
        "image": False,
    }
    argv = ["/usr/bin/python3", "-I", "-S", "-c", source, json.dumps(asked)]
    said = arena.outside(argv, "user").stdout
    crossed = {(boundary, what) for boundary, what, held, _ in json.loads(said)["probes"] if not held}
    for boundary, what in (
        ("inheritance", "have only the profile's variables"),
        ("inheritance", "not know the host's name"),
        ("files", "find anything that was not granted in /"),
        ("files", "find anything that was not granted in /var"),
        ("processes", "see only itself in /proc"),
        ("privilege", "have no capability"),
        ("privilege", "be filtered"),
        ("privilege", "make a set-uid file"),
        ("privilege", "make a user namespace"),
        ("network", "an internet socket"),
        ("limits", "use more memory than it may"),
        ("limits", "start more processes than it may"),
        ("limits", "fill /tmp"),
    ):
        assert (boundary, what) in crossed
    assert len(json.loads(said)["calls"]) > 250
