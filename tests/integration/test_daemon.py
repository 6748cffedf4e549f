"""`supervisor daemon`: one for the host, run by root, with servers for an ordinary user."""

from __future__ import annotations

import json
import os
import pwd
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from mcp import Client

from tests.escape.arena import Arena
from tests.integration.caller import SECONDS
from tests.integration.host import Host, children, running

ENTITY = {"name": "Ada", "entityType": "person", "observations": ["wrote the first program"]}


@pytest.fixture
def host(arena: Arena, servers: Path) -> Iterator[Host]:
    """A running daemon; after its end nothing of it is left."""
    with running(arena, servers) as made:
        yield made
    assert not list(made.runtime.iterdir())


def test_a_user_sees_exactly_the_servers_that_are_granted(host: Host) -> None:
    assert host.listed() == {"files", "memory"}
    plain = host.ask(host.user, "list")
    assert [line.split() for line in plain.stdout.splitlines()] == [
        ["files", "fs-readonly", "not", "pinned"],
        ["memory", "fs-scoped", "not", "pinned"],
    ]


def test_a_user_runs_a_granted_server_and_what_it_writes_is_the_users(host: Host, tmp_path: Path) -> None:
    plot = host.user.plot

    async def scenario(client: Client) -> None:
        done = await client.call_tool("create_entities", {"entities": [ENTITY]})
        assert not done.is_error, done
        graph = await client.call_tool("read_graph", {})
        assert "wrote the first program" in str(graph.content)
        assert [(each.server, each.uid) for each in host.sessions()] == [("memory", plot.uid)]

    command = host.user.command("run", "-q", "memory", "--runtime-dir", host.runtime)
    host.user.talk(command, scenario, cwd=host.user.project, log=tmp_path / "log", mode="legacy")
    status = (plot.scope / "memory.json").stat()
    assert (status.st_uid, status.st_gid) == (plot.uid, plot.gid)


def test_the_users_own_process_makes_no_namespace_and_no_process(host: Host) -> None:
    with host.running("files") as process:
        assert children(process.pid) == []
        for kind in ("user", "mnt", "pid", "net"):
            assert os.readlink(f"/proc/{process.pid}/ns/{kind}") == os.readlink(f"/proc/self/ns/{kind}")


def test_a_tool_of_a_granted_server_is_called_by_name(host: Host) -> None:
    done = host.ask(host.user, "call", "-q", "--server", "files", "read_text_file", "path=hello.txt")
    assert done.returncode == 0, done.stderr
    assert "nothing secret" in done.stdout


@pytest.mark.parametrize("server", ["private", "unknown"])
def test_a_server_that_is_not_granted_is_refused(server: str, host: Host) -> None:
    done = host.ask(host.user, "run", server)
    assert done.returncode == 3
    assert done.stdout == ""
    assert server in done.stderr
    assert host.sessions() == []


def test_a_refusal_names_the_line_that_would_allow_it(host: Host) -> None:
    done = host.ask(host.user, "run", "private")
    line = host.config.read_text(encoding="utf-8").splitlines().index("[server.private]") + 1
    assert f"{host.config}:{line}: " in done.stderr
    assert "users" in done.stderr


def test_a_session_has_no_mount_of_another_servers(host: Host) -> None:
    """The server prints its mounts, and the relay tells each of these lines on standard error."""
    done = host.ask(host.root, "run", "-q", "private")
    mounts = [line.partition("dropped: ")[2].split() for line in done.stderr.splitlines()]
    points = [fields[4] for fields in mounts if len(fields) > 4]
    assert {"/", "/usr", "/proc", "/tmp"} <= set(points)
    assert len(points) == len(set(points))
    assert "node_modules" not in done.stderr
    assert "images" not in done.stderr


def test_a_user_is_no_operator(host: Host) -> None:
    for request in (["inspect"], ["reload"], ["drain"], ["kill", "1"]):
        done = host.ask(host.user, "admin", *request)
        assert done.returncode != 0
        assert "Permission denied" in done.stderr
    assert host.process.poll() is None


def test_the_operator_kills_a_session_and_its_client_hears_why(host: Host) -> None:
    with host.running("files") as process:
        (session,) = host.sessions()
        host.admin("kill", str(session.number))
        _, errors = process.communicate(timeout=SECONDS)
        assert process.returncode != 0
        assert b"killed by the operator" in errors
    assert host.sessions() == []


def test_a_session_lives_as_long_as_the_connection_that_opened_it(host: Host) -> None:
    with host.running("files") as process:
        (session,) = host.sessions()
        assert session.server == "files"
        process.kill()
        process.wait(SECONDS)
    host.admin("drain")
    # the daemon ends when the last session has
    assert host.ended() == 0


def test_a_reload_brings_a_new_server_and_leaves_sessions_alone(host: Host) -> None:
    host.write('[server.new]\nprofile = "none"\ncommand = ["/usr/bin/cat"]\n')
    with host.running("files"):
        answer = host.admin("reload", "--json")
        assert json.loads(answer.stdout)["servers"] == ["files", "memory", "new", "private"]
        assert [each.server for each in host.sessions()] == ["files"]


def test_what_a_reload_grants_is_granted(host: Host) -> None:
    host.write(f'users = ["{host.user.plot.uid}", "{pwd.getpwuid(host.user.plot.uid).pw_name}"]\n')
    host.process.send_signal(signal.SIGHUP)
    # requests are answered in the order of their arrival: after this one the signal has been served
    host.admin("inspect")
    assert host.listed() == {"files", "memory", "private"}


@pytest.mark.parametrize("broken", ["nonsense = [", 'colour = "red"\n', "[server.x]\nprofile = 'no-such'\n"])
def test_a_broken_file_changes_nothing_and_is_told_with_its_line(broken: str, host: Host) -> None:
    host.write(broken)
    host.process.send_signal(signal.SIGHUP)
    assert "servers.toml" in host.hears("the old configuration stays")
    refused = host.ask(host.root, "admin", "reload")
    assert refused.returncode != 0
    assert f"{host.config}:" in refused.stderr
    assert host.listed() == {"files", "memory"}
    done = host.ask(host.user, "call", "-q", "--server", "files", "read_text_file", "path=hello.txt")
    assert done.returncode == 0


def test_a_draining_daemon_opens_nothing_and_ends_with_its_last_session(host: Host) -> None:
    with host.running("files") as process:
        answer = host.admin("drain", "--json")
        assert json.loads(answer.stdout) == {"sessions": 1}
        refused = host.ask(host.user, "run", "memory")
        assert refused.returncode == 3
        assert "draining" in refused.stderr
        assert host.process.poll() is None
        process.communicate(timeout=SECONDS)
        assert process.returncode == 0
    assert host.ended() == 0
    assert not list(host.runtime.iterdir())


def test_sigterm_ends_the_daemon_and_every_session(host: Host) -> None:
    with host.running("files") as one, host.running("memory") as two:
        host.process.send_signal(signal.SIGTERM)
        for process in (one, two):
            process.communicate(timeout=SECONDS)
            assert process.returncode != 0
    assert host.ended() == 0
    assert not list(host.runtime.iterdir())


def test_after_sigkill_the_next_daemon_starts_over_the_old_sockets(host: Host) -> None:
    with host.running("files") as process:
        host.crash()
        _, errors = process.communicate(timeout=SECONDS)
        assert process.returncode != 0
        assert b"monitor" in errors
    host.close()
    assert {path.name for path in host.runtime.iterdir()} == {"proxy.sock", "admin.sock", "audit.sock"}
    host.start()
    assert host.listed() == {"files", "memory"}


def test_a_second_daemon_leaves_the_first_alone(host: Host) -> None:
    argv = host.root.command("daemon", "--config", host.config, "--runtime-dir", host.runtime)
    second = host.root.finish(argv)
    assert second.returncode != 0
    assert "another supervisor daemon" in second.stderr
    assert host.listed() == {"files", "memory"}


def test_a_file_that_others_can_write_is_not_believed(host: Host) -> None:
    host.config.chmod(0o666)
    try:
        refused = host.ask(host.root, "admin", "reload")
        assert refused.returncode != 0
        assert "others can write it" in refused.stderr
    finally:
        host.config.chmod(0o644)
    assert host.listed() == {"files", "memory"}
