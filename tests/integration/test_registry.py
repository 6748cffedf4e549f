"""The registry of a running daemon: read again when a file changes, and steered by its owner."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from supervisor import wire
from supervisor.cli import gateways
from tests.escape.arena import Arena
from tests.integration.caller import SECONDS
from tests.integration.host import Host, running

CAT = '[server.{}]\nprofile = "none"\ncommand = ["/usr/bin/cat"]\n'


@pytest.fixture
def host(arena: Arena, servers: Path) -> Iterator[Host]:
    """A running daemon; after its end nothing of it is left, and its registry is as it was."""
    with running(arena, servers) as made:
        try:
            yield made
        finally:
            made.close()
            for folder in ("servers.d", "pins"):
                for each in (made.folder / folder).glob("*"):
                    each.unlink()
                if (made.folder / folder).exists():
                    (made.folder / folder).rmdir()


class Proxy:
    """A gateway's connection, as root."""

    def __init__(self, host: Host) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(SECONDS)
        self.socket.connect(str(host.runtime / "proxy.sock"))
        self.number = 0
        self.ask("hello", version=1)

    def message(self) -> wire.Message:
        received = wire.receive(self.socket, max_fds=5)
        assert received
        for fd in received[1]:
            os.close(fd)
        return received[0]

    def ask(self, req: str, **fields: object) -> wire.Message:
        """A request's answer; events on the way are not looked at."""
        self.number += 1
        wire.send(self.socket, {"id": self.number, "req": req, **fields})
        while (told := self.message()).get("id") != self.number:
            pass
        return told

    def reloaded(self) -> None:
        """Wait until the daemon says that there is something new."""
        while self.message().get("event") != "reloaded":
            pass

    def listed(self) -> dict[str, dict[str, object]]:
        answer = self.ask("list")["ok"]
        assert isinstance(answer, dict)
        return {each["name"]: each for each in answer["servers"]}


@contextmanager
def proxy(host: Host) -> Iterator[Proxy]:
    made = Proxy(host)
    try:
        yield made
    finally:
        made.socket.close()


def put(path: Path, text: str) -> None:
    """A file of root's, in its place in one step."""
    path.parent.mkdir(exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_text(text, encoding="utf-8")
    new.chmod(0o600)
    new.replace(path)


def errors_of(process: subprocess.Popen[bytes]) -> str:
    """What it has said when it has ended, with its input still open."""
    process.wait(SECONDS)
    assert process.returncode != 0
    assert process.stderr
    return process.stderr.read().decode()


def owned(host: Host, command: str, *words: str) -> subprocess.CompletedProcess[str]:
    """A command of the owner's over the daemon's registry."""
    return host.root.finish(host.root.command(command, "--config", host.config, *words))


def test_what_add_writes_is_offered_and_what_remove_takes_is_not(host: Host) -> None:
    before = host.config.read_text(encoding="utf-8")
    with proxy(host) as gateway:
        done = owned(host, "add", "new", "--profile", "none", "--summary", "a new one", "--", "/usr/bin/cat")
        assert done.returncode == 0, done.stderr
        gateway.reloaded()
        assert set(gateway.listed()) == {"files", "memory", "private", "new"}
        told = gateway.ask("describe", server="new")["ok"]
        assert isinstance(told, dict)
        assert json.loads(str(told["gateway"]))["summary"] == "a new one"
        assert owned(host, "remove", "new").returncode == 0
        gateway.reloaded()
        assert set(gateway.listed()) == {"files", "memory", "private"}
    assert host.config.read_text(encoding="utf-8") == before


def test_a_file_beside_is_read_when_it_comes_when_it_changes_and_no_more_when_it_goes(host: Host) -> None:
    more = host.folder / "servers.d" / "more.toml"
    with proxy(host) as gateway:
        put(more, CAT.format("one"))
        gateway.reloaded()
        assert "one" in gateway.listed()
        put(more, CAT.format("two") + CAT.format("three"))
        gateway.reloaded()
        assert {"two", "three"} == set(gateway.listed()) - {"files", "memory", "private"}
        more.unlink()
        gateway.reloaded()
        assert set(gateway.listed()) == {"files", "memory", "private"}


def test_a_new_manifest_is_handed_out_as_it_is(host: Host) -> None:
    with proxy(host) as gateway:
        assert gateway.listed()["private"]["manifest"] == ""
        put(host.folder / "pins" / "private.json", "any bytes")
        gateway.reloaded()
        digest = gateway.listed()["private"]["manifest"]
        wire.send(gateway.socket, {"id": 99, "req": "describe", "server": "private"})
        received = wire.receive(gateway.socket, max_fds=1)
        assert received
        answer, (fd,) = received
        told = answer["ok"]
        assert isinstance(told, dict)
        with open(fd, "rb") as file:
            assert file.read() == b"any bytes"
        assert told["manifest"] == digest != ""


def test_a_server_may_be_changed_again_and_again(host: Host) -> None:
    with proxy(host) as gateway:
        for word in ("one", "two", "three", "four"):
            put(host.folder / "servers.d" / "new.toml", CAT.format("new") + f'env = {{ WORD = "{word}" }}\n')
            gateway.reloaded()
            opened = gateway.ask("open", server="new")
            assert "ok" in opened, opened


def test_a_broken_file_is_told_once_and_the_old_configuration_stays(host: Host) -> None:
    more = host.folder / "servers.d" / "more.toml"
    with proxy(host) as gateway:
        put(more, "nonsense = [")
        assert f"{more}:1: " in host.hears("the old configuration stays")
        put(more, "still nonsense = [")
        # the first thing that is said after it is about the second file
        assert f"{more}:1: " in host.hears("the old configuration stays")
        put(more, CAT.format("one"))
        gateway.reloaded()
        assert "one" in gateway.listed()


def test_sessions_of_servers_that_did_not_change_live_on_and_others_end_and_are_told_why(host: Host) -> None:
    with host.running("files") as kept, host.running("memory") as gone:
        text = host.config.read_text(encoding="utf-8")
        put(host.config, text.replace("[server.memory]", '[server.memory]\nsummary = "a word"'))
        owned(host, "add", "new", "--profile", "none", "--", "/usr/bin/cat")
        # a summary is no change of what runs
        assert {each.server for each in host.sessions()} == {"files", "memory"}
        put(host.config, text.replace("[server.memory]", "[server.another]"))
        assert "its configuration has changed" in errors_of(gone)
        assert [each.server for each in host.sessions()] == ["files"]
        assert kept.poll() is None
    assert host.listed() == {"files", "another"}


def test_a_server_that_is_stopped_ends_in_order_and_is_not_opened_until_it_is_started(host: Host) -> None:
    with host.running("files") as process, host.running("memory"):
        done = host.ask(host.root, "stop", "files")
        assert done.returncode == 0
        assert "supervisor start files" in done.stdout
        assert "stopped by the operator" in errors_of(process)
        assert [each.server for each in host.sessions()] == ["memory"]
    refused = host.ask(host.user, "call", "-q", "--server", "files", "read_text_file", "path=hello.txt")
    assert refused.returncode == 3
    assert '"files" was stopped by the operator: supervisor start files' in refused.stderr
    states = {each["name"]: each["state"] for each in json.loads(host.ask(host.user, "list", "--json").stdout)}
    assert states == {"files": "stopped", "memory": "registered"}
    assert host.ask(host.root, "start", "files").returncode == 0
    done = host.ask(host.user, "call", "-q", "--server", "files", "read_text_file", "path=hello.txt")
    assert done.returncode == 0, done.stderr


def test_a_server_that_is_killed_ends_at_once_and_stays_stopped(host: Host) -> None:
    with host.running("files") as one, host.running("files") as two, host.running("memory"):
        done = host.ask(host.root, "kill", "files")
        assert done.returncode == 0
        for process in (one, two):
            assert "killed by the operator" in errors_of(process)
        assert [each.server for each in host.sessions()] == ["memory"]
    assert host.ask(host.user, "run", "files").returncode == 3


def test_only_the_operator_steers_and_only_servers_that_there_are(host: Host) -> None:
    for request in ("start", "stop", "kill"):
        refused = host.ask(host.user, request, "files")
        assert refused.returncode == 1
        assert "no daemon that you administer answers there" in refused.stderr
        unknown = host.ask(host.root, request, "nothing")
        assert unknown.returncode == 2
        assert 'no server "nothing" is registered' in unknown.stderr
    assert host.listed() == {"files", "memory"}


def test_a_server_that_is_not_there_is_told_as_that_alone(host: Host) -> None:
    told = host.ask(host.user, "run", "nothing")
    assert told.returncode == 3
    assert told.stderr.strip() == 'supervisor: no server "nothing" is registered; `supervisor list` shows which are'


def test_a_stop_outlives_a_reload(host: Host) -> None:
    host.ask(host.root, "stop", "files")
    host.admin("reload")
    assert host.ask(host.user, "run", "files").returncode == 3


def test_ps_shows_what_runs_to_whoever_administers_it(host: Host) -> None:
    with host.running("memory") as process:
        # it is not pinned, so its bytes are only passed on: nobody is asked who would not answer
        assert process.pid not in {each.pid for each in gateways.gateways()}
        rows = json.loads(host.ask(host.root, "ps", "--json").stdout)["sessions"]
        (row,) = [each for each in rows if each.get("monitor") == host.process.pid]
        assert (row["server"], row["profile"], row["state"]) == ("memory", "fs-scoped", "READY")
        # the server itself, or whoever reaps for it, in a namespace of its own
        assert os.readlink(f"/proc/{row['pid']}/ns/pid") != os.readlink("/proc/self/ns/pid")
        assert row["memory"] > 1 << 20
        assert row["cpu"] > 0
        assert 0 <= row["age"] < SECONDS
        plain = host.ask(host.root, "ps").stdout
        assert any(line.split()[1:2] == ["memory"] and "READY" in line for line in plain.splitlines())


def test_the_list_tells_what_is_pinned(host: Host) -> None:
    with proxy(host) as gateway:
        put(host.folder / "pins" / "files.json", "{}")
        gateway.reloaded()
    lines = host.ask(host.user, "list").stdout.splitlines()
    assert [line.split() for line in lines] == [
        ["files", "fs-readonly", "pinned"],
        ["memory", "fs-scoped", "not", "pinned"],
    ]


def test_two_who_add_at_once_are_both_heard(host: Host) -> None:
    names = [f"new-{number}" for number in range(4)]
    before = host.config.read_text(encoding="utf-8")
    words = ("--profile", "none", "--", "/usr/bin/cat")
    processes = [
        host.root.process(host.root.command("add", "--config", host.config, name, *words)) for name in names
    ]
    for process in processes:
        host.root.arena.finish(process)
        assert process.returncode == 0
    assert {name for name in names if f"[server.{name}]" in host.config.read_text(encoding="utf-8")} == set(names)
    for name in reversed(names):
        owned(host, "remove", name)
    assert host.config.read_text(encoding="utf-8") == before


def test_a_server_of_the_daemon_s_is_pinned_where_the_daemon_reads_and_by_its_operator_only(host: Host) -> None:
    refused = host.ask(host.user, "pin", "memory", "--yes")
    assert refused.returncode == 1
    assert "its operator pins" in refused.stderr
    assert "supervisor pin --personal memory" in refused.stderr
    with proxy(host) as gateway:
        done = host.ask(host.root, "pin", "memory", "--yes")
        assert done.returncode == 0, done.stderr
        gateway.reloaded()
    assert f"pinned in {host.folder}/pins/memory.json" in done.stdout
    rows = [line.split() for line in host.ask(host.user, "list").stdout.splitlines()]
    assert ["memory", "fs-scoped", "pinned"] in rows
