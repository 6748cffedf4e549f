"""Finding the gateways of this host, and believing only the kernel about whose they are."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.cli import gateways
from supervisor.errors import SupervisorError

ROOT = Path(__file__).resolve().parents[3]


class Running:
    """A gateway with one server, in a process of its own."""

    def __init__(self) -> None:
        argv = [sys.executable, "-m", "tests.unit.cli.small_gateway"]
        self.process = subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._heard() == "ready\n"

    def _heard(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def do(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        assert self._heard() == "done\n"

    def server(self) -> dict[str, object]:
        """What the gateway says of its one server."""
        [servers] = [each["servers"] for each in gateways.statuses() if each["pid"] == self.process.pid]
        assert isinstance(servers, list)
        [found] = servers
        assert isinstance(found, dict)
        return found

    def close(self) -> None:
        self.process.communicate(timeout=20)


@pytest.fixture
def running() -> Iterator[Running]:
    made = Running()
    yield made
    made.close()


def test_a_gateway_is_found_by_its_socket(running: Running) -> None:
    [found] = [each for each in gateways.gateways() if each.pid == running.process.pid]
    assert found.uid == os.getuid()
    assert gateways.status(found)["clients"] == 0


def test_every_gateway_tells_of_its_servers_and_their_sessions(running: Running) -> None:
    assert running.server()["sessions"] == []
    running.do("talk")
    warm = running.server()
    assert (warm["state"], warm["calls"], warm["in_flight"]) == ("READY", 1, 0)


def test_logs_prints_what_was_kept_and_nothing_that_a_terminal_would_act_on(
    running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    running.do("write one \x1b[31mred")
    assert gateways.logs(argparse.Namespace(name="a", follow=False), []) == 0
    assert capsys.readouterr().out == "one \\x1b[31mred\n"


def test_logs_of_a_server_that_nobody_runs_says_what_to_do() -> None:
    with pytest.raises(SupervisorError, match="supervisor serve starts one"):
        gateways.logs(argparse.Namespace(name="no-such-server", follow=False), [])


def test_logs_follows_until_it_is_interrupted(running: Running) -> None:
    program = (
        "import argparse, sys; from supervisor.cli import gateways\n"
        "gateways.logs(argparse.Namespace(name='a', follow=True), [])"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        running.do("write first")
        assert child.stdout.readline() == "first\n"
        running.do("write second")
        assert child.stdout.readline() == "second\n"
        child.send_signal(signal.SIGTERM)


def test_a_process_that_took_a_gateway_s_name_is_not_believed() -> None:
    name = f"supervisor-{os.getuid()}-1"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind("\0" + name)
        sock.listen()
        assert name in Path("/proc/net/unix").read_text(encoding="utf-8", errors="replace")
        assert name not in [each.name for each in gateways.gateways()]
        with pytest.raises(SupervisorError, match="somebody took the name"):
            gateways.status(gateways.Gateway(1, os.getuid(), name))
