"""Posture: a step that was left out is noticed from outside, before one instruction of the payload has run.

Each step is taken out of the list in turn, in a spawner of the test's own; everything else is the real thing.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from supervisor.errors import LaunchFailed
from supervisor.model import SandboxSpec
from supervisor.monitor import posture
from supervisor.monitor.children import Spawner
from supervisor.monitor.loop import Loop
from supervisor.profile import host, load, plan
from supervisor.runtimes import native
from supervisor.sandbox import cgroup, enter
from tests.unit.profile.test_plan import entry

WITHOUT = """import sys; sys.path.insert(0, sys.argv[1])
from supervisor.sandbox import enter, spawner
whole = enter.plan
enter.plan = lambda document: [step for step in whole(document) if type(step).__name__ != "{step}"]
spawner.main(3)"""
STEPS = [
    "JoinCgroup",
    "Descriptors",
    "Identity",
    "Loopback",
    "Root",
    "Proc",
    "PrivateTmp",
    "Mounts",
    "PivotRoot",
    "Rlimits",
    "Capabilities",
    "NoNewPrivileges",
    "Landlock",
    "SeccompFilter",
]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="reads back what only root can set up in full")


class Trial:
    """One session under a spawner that may have been tampered with."""

    def __init__(self, spawner: Spawner, spec: SandboxSpec, document: dict[str, object]) -> None:
        self.spawner, self.spec, self.document = spawner, spec, document
        self.loop = Loop()
        self.failure: LaunchFailed | None = None
        self.started = False
        self.seen: list[str] = []
        spawner.greet()
        spawner.load(spec.digest, document)
        spawner.serve(self.loop, lambda *_: self.loop.stop(), self.loop.stop)

    def verify(self, pid: int, group: str) -> list[str]:
        reader = posture.Reader(pid, self.spec, self.document)
        self.seen = posture.differences(reader, cgroup.probe(), group)
        return self.seen

    def done(self, failure: LaunchFailed | None, fds: list[int]) -> None:
        self.failure = failure
        self.started = failure is None
        for fd in fds:
            os.close(fd)
        if failure:
            self.loop.stop()
        else:
            self.spawner.kill(1, signal.SIGKILL)

    def run(self) -> None:
        self.spawner.spawn(1, self.spec.digest, self.verify, self.done)
        self.loop.run()


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """A file that the payload writes if it ever runs."""
    tmp_path.chmod(0o755)
    return tmp_path / "scope" / "ran"


def trial(marker: Path, code: str | None) -> Trial:
    marker.parent.mkdir()
    command = ["/usr/bin/touch", str(marker)]
    written = entry(marker.parent, profile="fs-scoped", command=command)
    ready = plan.plan(load.load(written.profile), written)
    facts = host.probe()
    spawner = Spawner(code) if code else Spawner()
    made = Trial(spawner, ready.spec, native.document(ready.spec, facts))
    try:
        made.run()
    finally:
        spawner.close()
    return made


def test_the_whole_list_is_what_was_asked_for(marker: Path) -> None:
    made = trial(marker, None)
    assert made.seen == []
    assert made.started


def test_the_steps_tried_here_are_all_there_are() -> None:
    document = native.document(plan.plan(load.load("none"), entry(Path("/usr/share"))).spec, host.probe())
    # without a network there is nothing for Egress to do; with one, the spawner counts the sockets it is handed
    names = [type(step).__name__ for step in enter.plan(document)]
    assert [name for name in names if name != "Egress"] == [*STEPS, "Proof"]


@pytest.mark.parametrize("step", STEPS)
def test_a_step_left_out_is_noticed_before_the_payload_runs(step: str, marker: Path) -> None:
    made = trial(marker, WITHOUT.format(step=step))
    assert made.failure is not None
    assert not made.started
    assert not marker.exists()


@pytest.mark.parametrize(
    ("step", "says"),
    [
        ("JoinCgroup", "cgroup"),
        ("Rlimits", "rlimit"),
        ("Capabilities", "Cap"),
        ("SeccompFilter", "Seccomp"),
        ("PrivateTmp", "/tmp"),
    ],
)
def test_the_difference_is_named(step: str, says: str, marker: Path) -> None:
    made = trial(marker, WITHOUT.format(step=step))
    assert made.failure is not None
    assert says in str(made.failure)
