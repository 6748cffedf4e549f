"""The invariants of the design, each with a test of the same name, on a real monitor with a real sandbox."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor import wire
from supervisor.errors import Refused
from supervisor.monitor import dispatch
from supervisor.proxy.link import Link, connect

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="runs a host's daemon")
SERVERS = """
[server.sleeper]
profile = "none"
command = ["/usr/bin/sleep", "600.{number}"]
[server.echo]
profile = "none"
command = ["/usr/bin/cat"]
"""


# an approval's number is a digest of what was reviewed; its reason and end are for people and the clock
NAMES = {"id", "req", "version", "server", "session", "approval", "reason", "until"}


class Daemon:
    """A daemon with two servers, in a folder of the test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "servers.toml"
        self.number = os.getpid()
        self.config.write_text(SERVERS.format(number=self.number))
        argv = [sys.executable, "-m", "supervisor", "daemon", "--config", str(self.config)]
        self.process = subprocess.Popen([*argv, "--runtime-dir", str(folder)], stderr=subprocess.PIPE)
        assert self.process.stderr
        assert b"listening" in self.process.stderr.readline()

    def link(self) -> Link:
        link = connect(f"{self.folder}/proxy.sock")
        link.hello()
        return link

    def raw(self, name: str = "proxy.sock") -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.connect(f"{self.folder}/{name}")
        wire.send(sock, {"id": 0, "req": "hello", "version": 1})
        assert wire.receive(sock)
        return sock

    def sleepers(self) -> list[int]:
        found = []
        for name in os.listdir("/proc"):
            with contextlib.suppress(OSError, ValueError):
                if (
                    Path(f"/proc/{int(name)}/cmdline").read_bytes()
                    == f"/usr/bin/sleep\x00600.{self.number}\x00".encode()
                ):
                    found.append(int(name))
        return found

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(10)
        assert self.process.stderr
        self.process.stderr.close()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    made = Daemon(tmp_path)
    try:
        yield made
    finally:
        made.stop()


def gone(daemon: Daemon) -> bool:
    """No payload is left, waiting for it at most a second."""
    deadline = time.monotonic() + 1
    while daemon.sleepers():
        if time.monotonic() > deadline:
            return False
        select.select([], [], [], 0.005)
    return True


def test_requests_carry_names_never_policy(daemon: Daemon) -> None:
    for rule in (*dispatch.PROXY.values(), *dispatch.ADMIN.values()):
        assert set(rule.shape.__struct_fields__) <= NAMES
    for extra in ("argv", "profile", "mounts", "env", "image"):
        with daemon.raw() as sock:
            wire.send(sock, {"id": 1, "req": "open", "server": "echo", extra: "x"})
            assert wire.receive(sock) is None, "the connection is closed, and nothing started"


def test_the_monitor_is_never_on_the_data_path(daemon: Daemon) -> None:
    link = daemon.link()
    opened = link.open("echo")
    pipes = {os.readlink(f"/proc/self/fd/{fd}") for fd in (opened.stdin, opened.stdout, opened.stderr)}

    def kept() -> set[str]:
        open_now = set()
        for fd in os.listdir(f"/proc/{daemon.process.pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                open_now.add(os.readlink(f"/proc/{daemon.process.pid}/fd/{fd}"))
        return pipes & open_now

    deadline = time.monotonic() + 1
    # it closes its copies after they were sent, so perhaps a moment after they came
    while kept() and time.monotonic() < deadline:
        select.select([], [], [], 0.005)
    assert not kept()
    os.write(opened.stdin, b"straight through\n")
    assert os.read(opened.stdout, 100) == b"straight through\n"
    link.close()


def test_a_session_lives_as_long_as_the_connection_that_opened_it(daemon: Daemon) -> None:
    first, second = daemon.link(), daemon.link()
    for link in (first, second):
        link.open("sleeper")
    assert len(daemon.sleepers()) == 2
    first.close()
    deadline = time.monotonic() + 1
    while len(daemon.sleepers()) != 1 and time.monotonic() < deadline:
        select.select([], [], [], 0.005)
    assert len(daemon.sleepers()) == 1, "the other connection's session lives on"
    second.close()
    assert gone(daemon)


@pytest.mark.parametrize("victim", ["monitor", "spawner"])
def test_a_session_ends_with_each_process_that_holds_it(daemon: Daemon, victim: str) -> None:
    link = daemon.link()
    link.open("sleeper")
    children = Path(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children").read_text().split()
    spawners = [each for each in children if b"sandbox.spawner" in Path(f"/proc/{each}/cmdline").read_bytes()]
    os.kill(daemon.process.pid if victim == "monitor" else int(spawners[0]), signal.SIGKILL)
    assert gone(daemon)
    link.close()


def test_all_or_nothing(tmp_path: Path) -> None:
    profile = tmp_path / "mine.toml"
    profile.write_text(
        'profile = 1\nname = "mine"\nextends = "none"\nsummary = "x"\n'
        '[[mount]]\nsource = "/usr/share"\ntarget = "/data/share"\nmode = "ro"\n'
        '[[mount]]\nsource = "/usr/share/doc"\ntarget = "/data/share/missing"\nmode = "ro"\n'
    )
    marker = tmp_path / "ran"
    argv = [sys.executable, "-m", "supervisor", "exec", "--profile", str(profile), "--rw", str(tmp_path)]
    done = subprocess.run([*argv, "--", "touch", str(marker)], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "/data/share/missing" in done.stderr, "the step that failed is named"
    assert not marker.exists(), "and nothing was started without it"


def test_posture_is_read_back_not_assumed(daemon: Daemon) -> None:
    """The list of steps is tampered with, one at a time, in test_posture.py; here: it is read at every open."""
    link = daemon.link()
    opened = link.open("sleeper")
    (payload,) = daemon.sleepers()
    status = dict(
        line.split(":\t") for line in Path(f"/proc/{payload}/status").read_text().splitlines() if ":\t" in line
    )
    assert (status["CapEff"], status["NoNewPrivs"], status["Seccomp"]) == ("0" * 16, "1", "2")
    assert len(opened.spec) == 64
    link.close()


def test_planning_happens_at_load_not_at_open(daemon: Daemon) -> None:
    """The registry file and the profile it names may be gone or worse; what was loaded is what is opened."""
    daemon.config.write_text('[server.echo]\nprofile = "none"\ncommand = ["/bin/false"]\n')
    link = daemon.link()
    opened = link.open("echo")
    os.write(opened.stdin, b"still cat\n")
    assert os.read(opened.stdout, 100) == b"still cat\n"
    link.close()


def test_the_proxy_may_ask_for_approval_only_admin_sock_can_give_it(daemon: Daemon) -> None:
    assert not set(dispatch.PROXY) & {"approve", "deny", "kill", "reload", "drain", "inspect", "start", "stop"}
    assert os.stat(f"{daemon.folder}/admin.sock").st_mode & 0o777 == 0o600
    for request in ("approve", "deny", "revoke", "kill", "reload", "drain", "inspect"):
        with daemon.raw() as sock:
            wire.send(sock, {"id": 1, "req": request, "server": "echo", "approval": "0" * 12})
            assert wire.receive(sock) is None
    daemon.config.write_text("[approvals]\nrequired = true\n" + SERVERS.format(number=daemon.number))
    with daemon.raw("admin.sock") as sock:
        wire.send(sock, {"id": 1, "req": "reload"})
        assert wire.receive(sock)
    link = daemon.link()
    with pytest.raises(Refused, match=r"approval [0-9a-f]{12} needed: supervisor approve") as refused:
        link.open("echo")
    number = re.findall("[0-9a-f]{12}", str(refused.value))[0]
    with daemon.raw() as sock:
        wire.send(sock, {"id": 1, "req": "ask", "server": "echo"})
        received = wire.receive(sock)
        assert received
        assert number in str(received[0]["ok"])
    with pytest.raises(Refused):
        link.open("echo")
    with daemon.raw("admin.sock") as sock:
        wire.send(sock, {"id": 1, "req": "approve", "server": "echo", "approval": number})
        received = wire.receive(sock)
        assert received
        assert "ok" in received[0]
    os.write(link.open("echo").stdin, b"it runs")
    link.close()


def test_secrets_are_opened_after_the_fork(tmp_path: Path) -> None:
    """Not by whoever forks: the sandbox reads them itself. Everything else that may hold none: test_secrets.py."""
    secret, token = f"canary-{os.urandom(8).hex()}", tmp_path / "token"
    token.write_text(secret)
    token.chmod(0o600)
    argv = [sys.executable, "-m", "supervisor", "exec", "--profile", "none", f"--secret=KEY=file:{token}"]
    code = "import os, sys; print(os.environ['KEY'], flush=True); sys.stdin.read()"
    process = subprocess.Popen(
        [*argv, "--", "/usr/bin/python3", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdout
        assert process.stdout.readline().decode().strip() == secret
        holders = []
        for name in os.listdir("/proc"):
            with contextlib.suppress(OSError, ValueError):
                base = Path(f"/proc/{int(name)}")
                assert secret.encode() not in (base / "cmdline").read_bytes()
                if secret.encode() in (base / "environ").read_bytes():
                    holders.append((base / "cmdline").read_bytes())
        assert len(holders) == 1, "the server"
        assert b"supervisor" not in holders[0]
    finally:
        _, said = process.communicate(timeout=20)
    assert secret.encode() not in said


def test_an_unregistered_name_is_refused_with_the_reason(daemon: Daemon) -> None:
    link = daemon.link()
    with pytest.raises(Refused, match='no server "files" is registered'):
        link.open("files")
    assert json.dumps(link.servers())
    link.close()
