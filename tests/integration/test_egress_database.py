"""A real PostgreSQL server and psql: the client asks in clear whether there is TLS, and waits for the server.

The server runs in the tests' outer network namespace, as their ordinary user, with a certificate of their own.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.escape.arena import MODES, Arena, end
from tests.integration.outside import WEB, World, make_world

pytestmark = pytest.mark.network_namespace
PROGRAMS = Path("/usr/lib/postgresql/15/bin")
SETTINGS = {
    "listen_addresses": WEB,
    "port": "5432",
    "unix_socket_directories": "",
    "ssl": "on",
    "ssl_cert_file": "server.crt",
    "ssl_key_file": "server.key",
    "fsync": "off",
    "log_connections": "on",
}


class Database:
    """The server, and what it said: one line for each connection."""

    def __init__(self, world: World, stack: ExitStack) -> None:
        if not (PROGRAMS / "postgres").exists():
            pytest.skip("postgresql-15 is not installed")
        self.folder = world.folder / "database"
        self.log = world.folder / "database.log"
        plot = world.arena.plots["user"]
        become = ["setpriv", f"--reuid={plot.uid}", f"--regid={plot.gid}", "--clear-groups", "--"]
        self.folder.mkdir(mode=0o700)
        shutil.chown(self.folder, plot.uid, plot.gid)
        init = [*become, str(PROGRAMS / "initdb"), "-D", str(self.folder), "-U", "ada", "--auth=trust", "-N"]
        subprocess.run(init, check=True, capture_output=True, timeout=60, cwd="/")
        for name in ("server.crt", "server.key"):
            shutil.copy(world.folder / name, self.folder / name)
            shutil.chown(self.folder / name, plot.uid, plot.gid)
            (self.folder / name).chmod(0o600)
        with (self.folder / "pg_hba.conf").open("a") as file:
            file.write("host all all all trust\n")
        options = [f"--{name}={value}" for name, value in SETTINGS.items()]
        argv = [
            "ip",
            "netns",
            "exec",
            world.outer,
            *become,
            str(PROGRAMS / "postgres"),
            "-D",
            str(self.folder),
            *options,
        ]
        with self.log.open("wb") as log:
            process = subprocess.Popen(argv, stderr=log, stdout=log, cwd="/", start_new_session=True)
        stack.callback(self._stop, process)
        ready = [str(PROGRAMS / "pg_isready"), "-h", WEB, "-t", "20"]
        for _ in range(200):
            done = subprocess.run(["ip", "netns", "exec", world.outer, *ready], capture_output=True, timeout=30)
            if done.returncode == 0:
                return
            assert process.poll() is None, self.log.read_text()
        raise AssertionError(self.log.read_text())

    @staticmethod
    def _stop(process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        finally:
            end(process)

    def count(self, what: str) -> int:
        """How many connections were "received", and how many "authorized": those asked for something."""
        return self.log.read_text().count(f"connection {what}")


@pytest.fixture(scope="module")
def world(arena: Arena) -> Iterator[World]:
    with ExitStack() as stack:
        yield make_world(arena, stack)


@pytest.fixture(scope="module")
def database(world: World) -> Iterator[Database]:
    with ExitStack() as stack:
        yield Database(world, stack)


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def psql(
    world: World,
    mode: str,
    allow: str,
    query: str,
    where: str = "",
    *,
    host: str = "db.test",
    tls: str = "verify-full",
) -> subprocess.CompletedProcess[str]:
    text = f"host={host} user=ada dbname=postgres sslmode={tls} connect_timeout=15 {where}"
    return world.run(mode, [allow], [PROGRAMS / "psql", text, "-Atc", query])


def test_psql_with_a_verified_certificate(world: World, database: Database, mode: str) -> None:
    for where in ("", "gssencmode=disable"):
        done = psql(
            world, mode, "db.test:5432", "select ssl, version from pg_stat_ssl where pid = pg_backend_pid()", where
        )
        assert done.stdout == "t|TLSv1.3\n", done.stderr


def test_a_tcp_entry_lets_psql_speak_without_tls(world: World, database: Database, mode: str) -> None:
    done = psql(
        world, mode, "tcp:db.test:5432", "select ssl from pg_stat_ssl where pid = pg_backend_pid()", tls="disable"
    )
    assert done.stdout == "f\n", done.stderr
    done = psql(world, mode, "tcp:db.test:5432", "select ssl from pg_stat_ssl where pid = pg_backend_pid()")
    assert done.stdout == "t\n", done.stderr


def test_without_tls_or_its_name_nothing_reaches_the_server(world: World, database: Database, mode: str) -> None:
    received, authorized = database.count("received"), database.count("authorized")
    done = psql(world, mode, "db.test:5432", "select 1", tls="disable")
    assert done.returncode == 2
    assert "--allow tcp:db.test:5432 would allow it" in done.stderr
    assert database.count("received") == received
    done = psql(world, mode, "db.test:5432", "select 1", "hostaddr=198.18.1.0", host="example.test")
    assert done.returncode == 2
    assert "example.test was asked for at the address of db.test" in done.stderr
    done = psql(world, mode, "db.test:5432", "select 1", "sslsni=0", tls="require")
    assert done.returncode == 2
    assert "no server name (SNI)" in done.stderr
    # the server was asked whether it speaks TLS, and nothing else
    assert database.count("authorized") == authorized


def test_a_query_and_its_answer_of_many_megabytes(world: World, database: Database, mode: str) -> None:
    query = (
        "select count(*), sum(length(x)) from (select repeat('x', 1000) as x from generate_series(1, 20000)) as t"
    )
    assert psql(world, mode, "db.test:5432", query).stdout == "20000|20000000\n"
    done = psql(
        world, mode, "db.test:5432", "copy (select repeat('x', 999) from generate_series(1, 20000)) to stdout"
    )
    assert len(done.stdout) == 20_000_000, done.stderr


def test_a_session_waits_as_long_as_its_query_takes(world: World, database: Database) -> None:
    done = psql(world, "root", "db.test:5432", "select pg_sleep(6)")
    assert done.returncode == 0, done.stderr
