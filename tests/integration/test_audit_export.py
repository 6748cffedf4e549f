"""Exports to Debian's own rsyslog, over TCP, TLS and a Unix socket, and while it is ended and started again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from supervisor.audit.confine import Place
from supervisor.audit.segments import Log, Rules
from tests.unit.audit import ledgers, logs

pytestmark = pytest.mark.skipif(not shutil.which("rsyslogd"), reason="needs Debian's rsyslog and rsyslog-openssl")
SUPERVISOR = Path(sys.executable).parent / "supervisor"
CONFIG = """
global(workDirectory="{folder}" maxMessageSize="64k" defaultNetstreamDriverCAFile="{folder}/cert.pem"
  defaultNetstreamDriverCertFile="{folder}/cert.pem" defaultNetstreamDriverKeyFile="{folder}/key.pem")
module(load="imtcp")
module(load="imuxsock" SysSock.Use="off")
input(type="imuxsock" Socket="{folder}/log" UseSpecialParser="off" ParseHostname="on" RateLimit.Interval="0")
input(type="imtcp" port="{tcp}" address="127.0.0.1")
input(type="imtcp" port="{tls}" address="127.0.0.1" streamDriver.name="ossl" streamDriver.mode="1"
  streamDriver.authMode="anon")
template(name="parsed" type="string" string="%app-name%|%procid%|%msgid%|%structured-data%|%msg%\\n")
action(type="omfile" file="{folder}/out" template="parsed")
"""


class Rsyslog:
    """One of our own, that can be ended and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
            self.tcp, self.tls = one.getsockname()[1], two.getsockname()[1]
        make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
        name = ["-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"]
        subprocess.run([*make, *name], cwd=folder, check=True, capture_output=True)
        text = CONFIG.format(folder=folder, tcp=self.tcp, tls=self.tls)
        (folder / "conf").write_text(text)
        self.start()

    def start(self) -> None:
        argv = ["rsyslogd", "-n", "-f", str(self.folder / "conf"), "-i", str(self.folder / "pid")]
        self.process = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
        until(self._listens)

    def _listens(self) -> bool:
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", self.tls)) == 0 and (self.folder / "log").exists()

    def end(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        self.process.wait(20)

    def got(self) -> list[tuple[str, int]]:
        """Message id and number of the records that it understood, without what it says itself."""
        found = []
        out = self.folder / "out"
        for line in out.read_text().splitlines() if out.exists() else []:
            app, _, kind, data, message = line.split("|", 4)
            if app == "supervisor":
                number = int(json.loads(message)["metadata"]["sequence"])
                assert f'seq="{number}"' in data
                found.append((kind, number))
        return found

    def wait(self, number: int) -> None:
        """Until it has this record."""
        until(lambda: number in self.numbers())

    def numbers(self) -> list[int]:
        return [number for _, number in self.got()]


def until(happens: Callable[[], bool], seconds: float = 30) -> None:
    ends = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < ends
        time.sleep(0.05)


@pytest.fixture
def rsyslog(tmp_path: Path) -> Iterator[Rsyslog]:
    # its socket's path must be short
    folder = Path(f"/tmp/rsyslog-{os.getpid()}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    made = Rsyslog(folder)
    yield made
    made.end()
    shutil.rmtree(folder)


@pytest.fixture
def here() -> Iterator[Place]:
    with ledgers.place() as made:
        for folder in (made.cursors, made.logs / "0"):
            folder.mkdir(parents=True, mode=0o777)
            folder.chmod(0o777)
        yield made


def argv(place: Place, to: str, *more: str) -> list[str]:
    return [str(SUPERVISOR), "audit", "export", "--folder", str(place.root), "--to", to, *more]


def export(place: Place, to: str, *more: str) -> str:
    return subprocess.run(argv(place, to, *more), capture_output=True, text=True, check=True, timeout=60).stdout


def test_rsyslog_understands_every_record_over_tcp_tls_and_a_unix_socket(rsyslog: Rsyslog, here: Place) -> None:
    log = Log(here.logs / "0", Rules())
    wanted: list[int] = []
    for to in (f"tcp://127.0.0.1:{rsyslog.tcp}", f"tls://localhost:{rsyslog.tls}", f"unix:{rsyslog.folder}/log"):
        first = log.head.seq + 1
        logs.fill(log, 100)
        wanted += range(first, log.head.seq + 1)
        assert export(here, to, "--ca", f"{rsyslog.folder}/cert.pem") == "100 records exported\n", to
        rsyslog.wait(log.head.seq)
        assert rsyslog.numbers() == wanted
    assert {kind for kind, _ in rsyslog.got()} == {"event"}


def test_a_receiver_that_is_ended_and_started_again_misses_nothing(rsyslog: Rsyslog, here: Place) -> None:
    log = Log(here.logs / "0", Rules())
    following = subprocess.Popen(
        argv(here, f"tcp://127.0.0.1:{rsyslog.tcp}", "--follow"), stderr=subprocess.PIPE, text=True
    )
    assert following.stderr
    try:
        for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM):
            logs.fill(log, 300)
            rsyslog.wait(log.head.seq)
            rsyslog.end(number)
            logs.fill(log, 300)
            assert "; again in" in following.stderr.readline()
            rsyslog.start()
        rsyslog.wait(log.head.seq)
        assert sorted(set(rsyslog.numbers())) == list(range(2, log.head.seq + 1))
    finally:
        following.terminate()
        following.communicate()
