"""podman: what it says of itself decides what is refused, by name, before anything is made in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from supervisor.model import HostFacts
from supervisor.profile import load, plan
from supervisor.runtimes import native
from supervisor.runtimes.api import Table
from supervisor.runtimes.podman import Podman, subordinate
from tests.unit.profile.test_plan import entry

OWN: Table = {"container_id": 0, "host_id": 1000, "size": 1}
NARROW: Table = {"container_id": 1, "host_id": 100_000, "size": 1000}
WIDE: Table = {"container_id": 1001, "host_id": 200_000, "size": 65_536}


def refused(extents: list[object], *limits: str, rootless: bool = True) -> dict[str, str]:
    """What one that says this of itself cannot hold of `none`."""
    spec = plan.plan(load.load("none"), entry(Path("/usr/share"))).spec
    host = HostFacts(root=False, landlock=7, cgroup="none", controllers=(), missing={})
    spec = spec.model_copy(update={"engine": {"image": {"config": "sha256:0"}}})
    ids = subordinate(extents)
    facts: Table = {"rootless": rootless, "UIDMap": ids, "GIDMap": ids, "limits": list(limits)}
    return Podman("/run/podman/podman.sock", "").gaps(native.document(spec, host), facts)


def test_a_container_s_ids_are_the_widest_range_that_is_not_the_user_s_own() -> None:
    assert subordinate([OWN, NARROW, WIDE]) == [{"container_id": 0, "host_id": 1001, "size": 65_536}]


@pytest.mark.parametrize("extents", [[OWN], [OWN, NARROW], []])
def test_who_has_too_few_subordinate_ids_is_told_how_to_get_some(extents: list[object]) -> None:
    assert "usermod --add-subuids" in refused(extents)["namespaces.user"]
    assert "namespaces.user" not in refused(extents, rootless=False)


def test_a_user_s_limits_are_those_of_a_control_group_and_processes_are_counted_anyway() -> None:
    assert set(refused([OWN, WIDE])) - {"runtime"} == {"limits.memory", "limits.cpus"}
    assert set(refused([OWN, WIDE], "memory", "cpus", "pids")) <= {"runtime"}
    assert "limits.pids" in refused([], rootless=False)


@pytest.mark.parametrize("rootless", [True, False])
def test_whose_it_is_decides_who_may_use_it(*, rootless: bool) -> None:
    assert ("runtime" in refused([OWN, WIDE], rootless=rootless)) == (rootless == (os.geteuid() == 0))
