"""Posture: a step that was left out is noticed from outside, before one instruction of the payload has run.

Each step is taken out of the list in turn, in a spawner of the test's own; everything else is the real thing.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from supervisor.errors import LaunchFailed
from supervisor.model import SandboxSpec
from supervisor.monitor import posture, watchers
from supervisor.monitor.children import Spawner
from supervisor.monitor.loop import Loop
from supervisor.profile import host, load, plan
from supervisor.runtimes import native
from supervisor.sandbox import cgroup, enter
from tests.integration import adversary
from tests.unit.profile.test_plan import entry

WITHOUT = """import sys; sys.path.insert(0, sys.argv[1])
from supervisor.sandbox import enter, spawner
whole = enter.plan
enter.plan = lambda *given: [step for step in whole(*given) if step.name != "{step}"]
spawner.main(3)"""
# a step that leaves a socket behind, after all those that close or make some
LEAK = """import socket, sys; sys.path.insert(0, sys.argv[1])
from supervisor.sandbox import enter, spawner
whole, kept = enter.plan, []
def leak(ctx):
    kept.append(socket.socket({family}, {kind}))
    kept[0].bind(({address!r}, 4711))
    if kept[0].type == socket.SOCK_STREAM: kept[0].listen()
enter.plan = lambda *given: [*whole(*given)[:5], enter.Step("leak", "leak", leak), *whole(*given)[5:]]
spawner.main(3)"""
ELSEWHERE = """import sys; sys.path.insert(0, sys.argv[1])
from supervisor.sandbox import network, spawner
whole = network.sockets
network.sockets = lambda udp, tcp: whole(udp, [(address, port + 1) for address, port in tcp])
spawner.main(3)"""
STEPS = [
    "cgroup",
    "descriptors",
    "identity",
    "loopback",
    "root",
    "proc",
    "tmp",
    "mounts",
    "pivot_root",
    "rlimits",
    "capabilities",
    "no_new_privs",
    "landlock",
    "seccomp",
]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="reads back what only root can set up in full")


class Trial:
    """One session under a spawner that may have been tampered with."""

    def __init__(
        self, spawner: Spawner, spec: SandboxSpec, document: dict[str, object], image: Sequence[int] = ()
    ) -> None:
        self.spawner, self.spec, self.document = spawner, spec, document
        self.loop = Loop()
        self.failure: LaunchFailed | None = None
        self.started = False
        self.seen: list[str] = []
        self.donated: list[int] = []
        self.watchers = watchers.Watchers(self.loop, lambda *_: None)
        spawner.donated = lambda _, fds: self.donated.extend(fds)
        spawner.greet()
        spawner.load(spec.digest, document, list(image))
        spawner.serve(self.loop, lambda *_: self.loop.stop(), self.loop.stop)

    def verify(self, pid: int, group: str) -> list[str]:
        reader = posture.Reader(pid, self.spec, self.document)
        self.seen = posture.differences(reader, cgroup.probe(), group) or self.watchers.add(1, reader)
        return self.seen

    def done(self, failure: LaunchFailed | None, fds: list[int]) -> None:
        self.failure = failure
        self.started = failure is None
        if failure:
            self.loop.stop()
        else:
            with suppress(ProcessLookupError):  # it has ended by itself
                signal.pidfd_send_signal(fds[3], signal.SIGKILL)
        for fd in fds:
            os.close(fd)

    def run(self) -> None:
        self.spawner.spawn(1, self.spec.digest, self.verify, self.done)
        self.loop.run()
        self.watchers.close()
        for fd in (*self.donated, *(fd for fds in self.watchers.told.values() for fd in fds)):
            os.close(fd)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    """A file that the payload writes if it ever runs."""
    tmp_path.chmod(0o755)
    return tmp_path / "scope" / "ran"


def trial(marker: Path, code: str | None, profile: str = "fs-scoped", **fields: object) -> Trial:
    marker.parent.mkdir()
    command = ["/usr/bin/touch", str(marker)]
    written = entry(marker.parent, profile=profile, command=command, **fields)
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
    names = [step.name for step in enter.plan(document, [])]
    assert [name for name in names if name != "egress"] == [*STEPS, "proof"]


@pytest.mark.parametrize("step", STEPS)
def test_a_step_left_out_is_noticed_before_the_payload_runs(step: str, marker: Path) -> None:
    made = trial(marker, WITHOUT.format(step=step))
    assert made.failure is not None
    assert not made.started
    assert not marker.exists()


@pytest.mark.parametrize(
    ("step", "says"),
    [("cgroup", "cgroup"), ("rlimits", "rlimit"), ("capabilities", "Cap"), ("seccomp", "Seccomp"), ("tmp", "/tmp")],
)
def test_the_difference_is_named(step: str, says: str, marker: Path) -> None:
    made = trial(marker, WITHOUT.format(step=step))
    assert made.failure is not None
    assert says in str(made.failure)


@pytest.mark.parametrize(
    ("family", "kind", "address", "says"),
    [
        ("socket.AF_INET", "socket.SOCK_STREAM", "127.0.0.1", "tcp sockets are [('127.0.0.1', 4711)], not []"),
        ("socket.AF_INET6", "socket.SOCK_STREAM", "::1", "tcp sockets are [('::1', 4711)], not []"),
        ("socket.AF_INET", "socket.SOCK_DGRAM", "127.0.0.1", "udp sockets are [('127.0.0.1', 4711)], not []"),
        ("socket.AF_INET6", "socket.SOCK_DGRAM", "::1", "udp sockets are [('::1', 4711)], not []"),
        ("socket.AF_INET", "socket.SOCK_RAW, socket.IPPROTO_ICMP", "127.0.0.1", "there are raw sockets"),
        ("socket.AF_INET6", "socket.SOCK_RAW, socket.IPPROTO_ICMPV6", "::1", "there are raw sockets"),
    ],
)
def test_a_socket_that_was_left_in_its_network_is_noticed(
    family: str, kind: str, address: str, says: str, marker: Path
) -> None:
    made = trial(marker, LEAK.format(family=family, kind=kind, address=address))
    assert made.seen == [says]
    assert not marker.exists()


@pytest.mark.parametrize("allow", ["a.test:443", "*.a.test:443", "192.0.2.7:443", "[2001:db8::7]:443", "[::1]:80"])
def test_the_broker_s_sockets_are_where_they_were_asked_for(allow: str, marker: Path) -> None:
    made = trial(marker, None, "net-allowlist", allow=[allow])
    assert (made.seen, made.started) == ([], True)


def test_a_socket_of_the_broker_s_that_is_elsewhere_is_noticed(marker: Path) -> None:
    made = trial(marker, ELSEWHERE, "net-allowlist", allow=["a.test:443"])
    assert [each.split(" are ")[0] for each in made.seen] == ["tcp sockets"]
    assert not marker.exists()


def test_a_folder_on_a_disk_that_cannot_be_watched_is_noticed(
    marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planner has looked; the monitor looks again, at the mounts of the session itself."""
    monkeypatch.setattr(watchers, "COUNTING", ())
    made = trial(marker, None)
    assert [each.split(" is on ")[0] for each in made.seen] == [f"limits.disk: {marker.parent}"]
    assert not marker.exists()


def test_of_a_user_with_too_many_sessions_no_more_are_watched_and_required_ones_not_started(
    marker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchers, "EACH", -1)
    required = adversary.write_profile(tmp_path, "watched", '[audit]\nfiles = "required"\n', extends="fs-scoped")
    made = trial(marker, None, str(required))
    assert [each.split(":")[0] for each in made.seen] == ["file-audit"]
    assert not marker.exists()


def test_where_it_is_not_required_it_is_started_and_said_not_to_be_watched(
    marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchers, "EACH", -1)
    made = trial(marker, None)
    assert (made.seen, made.started, made.watchers.told) == ([], True, {})
