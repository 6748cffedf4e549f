"""Posture of a container: whose ids it may have, what may be open in it, asked of processes that have neither."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from supervisor.monitor.contained import Contained
from supervisor.profile import load, plan
from tests.unit.profile.test_plan import entry

WAITS = ("sh", "-c", "echo; read line")


@contextmanager
def process(*argv: str, stderr: int = subprocess.PIPE) -> Iterator[Contained]:
    """One that waits, and how it is read."""
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=stderr) as started:
        try:
            assert started.stdout
            assert started.stdout.read(1)
            yield Contained(started.pid, plan.plan(load.load("none"), entry(Path("/usr/share"))).spec, {})
        finally:
            started.kill()


def test_a_map_with_whoever_started_it_is_noticed() -> None:
    inside = plan.plan(load.load("none"), entry(Path("/usr/share"))).spec.uid
    as_whom = (f"--map-user={inside}", f"--map-group={inside}")
    with process("unshare", "--user", *as_whom, *WAITS) as reader:
        wrong = list(reader.identity())
    assert f"Uid is {os.geteuid()}" in wrong[0]
    assert f"[[{inside}, {os.geteuid()}, 1]]" in wrong[0]


@pytest.mark.parametrize("other", [False, True])
def test_what_is_open_and_no_pipe_is_noticed(*, other: bool) -> None:
    with process(*WAITS, stderr=subprocess.DEVNULL if other else subprocess.PIPE) as reader:
        assert list(reader.descriptors()) == (["descriptor 2 is no pipe"] if other else [])
