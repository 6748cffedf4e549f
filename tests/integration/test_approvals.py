"""Approvals on a host: nothing runs that was not approved as it is, and what is taken back ends."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, MCPError

from supervisor import wire
from tests.escape.arena import Arena
from tests.integration.caller import SECONDS
from tests.integration.host import Host, written

CALL = ("call", "-q", "--server", "files", "read_text_file", "path=hello.txt")


@pytest.fixture(scope="module")
def host(arena: Arena, servers: Path) -> Iterator[Host]:
    """A daemon where everything has to be approved; "files" is pinned, which approves of it."""
    made = written(arena, servers, "[approvals]\nrequired = true\n")
    try:
        pinned = made.root.finish(made.root.command("pin", "files", "--config", made.config, "--yes", "-q"))
        assert pinned.returncode == 0, pinned.stderr
        assert "approved as " in pinned.stderr
        made.start()
        yield made
    finally:
        made.close()
        (made.folder / "approvals.jsonl").unlink()
        for path in (made.folder / "pins").glob("*"):
            path.unlink()
        (made.folder / "pins").rmdir()
    assert not list(made.runtime.iterdir())


def root(host: Host, *words: str) -> Any:
    """One command of root's, its JSON."""
    done = host.ask(host.root, *words, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def number(host: Host, server: str) -> str:
    (found,) = [each["approval"] for each in root(host, "pending") if each["server"] == server]
    assert isinstance(found, str)
    return found


def test_what_was_pinned_in_person_runs_and_everything_else_waits(host: Host) -> None:
    assert [each["server"] for each in root(host, "list", "--approved")] == ["files"]
    assert {each["server"] for each in root(host, "pending")} == {"memory", "private"}
    assert "nothing secret" in host.ask(host.user, *CALL).stdout
    refused = host.ask(host.user, "run", "memory")
    assert refused.returncode == 3
    assert f"approval {number(host, 'memory')} needed: supervisor approve" in refused.stderr
    shown = root(host, "show", "memory")
    assert any(change["what"].startswith("read and write ") for change in shown["changes"])


def test_an_approval_is_given_taken_back_and_ends_what_runs(host: Host) -> None:
    waiting = number(host, "memory")
    assert host.ask(host.user, "run", "memory").returncode == 3
    assert root(host, "approve", waiting, "--reason", "needed", "--until", "1h")["held"] == ""
    with host.running("memory") as process:
        assert root(host, "revoke", "memory", "--reason", "enough")["held"]
        assert process.stderr
        assert b"stopped by the operator" in process.stderr.read()
        assert host.sessions() == []
    refused = host.ask(host.user, "run", "memory")
    assert (refused.returncode, waiting in refused.stderr) == (3, True)
    shown = root(host, "show", waiting)
    assert [(each["what"], each["by"], each["reason"]) for each in shown["decisions"]] == [
        ("approve", "root", "needed"),
        ("revoke", "root", "enough"),
    ]
    assert shown["decisions"][0]["asked"] == [host.user.arena.account]
    assert shown["changes"] == []


def test_an_approval_that_is_over_lets_nothing_run(host: Host) -> None:
    waiting = number(host, "memory")
    assert root(host, "approve", waiting)["held"] == ""
    with host.running("memory") as process:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.connect(str(host.runtime / "admin.sock"))
            about: wire.Message = {"server": "memory", "approval": waiting, "until": time.time() + 0.5}
            for message in ({"id": 1, "req": "hello", "version": 1}, {"id": 2, "req": "approve"} | about):
                wire.send(sock, message)
                received = wire.receive(sock)
                assert received
                assert "ok" in received[0]
        assert process.stderr
        assert b"approval" in process.stderr.read()
    assert number(host, "memory") == waiting


def test_a_change_asks_again_and_tells_in_words_what_more_it_could_touch(host: Host) -> None:
    text = host.config.read_text(encoding="utf-8")
    before, more = root(host, "show", "files")["approval"], host.user.plot.outside
    host.config.write_text(text.replace('profile = "fs-readonly"', f'profile = "fs-readonly"\nro = ["{more}"]', 1))
    try:
        host.admin("reload")
        assert number(host, "files") != before
        refused = host.ask(host.user, *CALL)
        assert refused.returncode == 3
        told = {each["sign"] + each["what"] for each in root(host, "show", "files")["changes"]}
        assert f"+read {more} at {more}, and run programs in it" in told
        stale = host.ask(host.root, "approve", before)
        assert stale.returncode == 2
        assert root(host, "deny", "files", "--reason", "too much")["held"].endswith("(denied: too much)")
    finally:
        host.config.write_text(text, encoding="utf-8")
        host.admin("reload")
    assert "nothing secret" in host.ask(host.user, *CALL).stdout, "as it was, it is still approved"


def test_a_call_that_was_refused_works_when_it_is_repeated_after_the_approval(host: Host, tmp_path: Path) -> None:
    assert root(host, "revoke", "files")["held"]

    async def scenario(client: Client) -> None:
        assert "files__read_text_file" in {tool.name for tool in (await client.list_tools()).tools}
        for _ in range(9):  # and no number of them makes it a server that has failed
            with pytest.raises(MCPError, match=r"approval [0-9a-f]{12} needed: supervisor approve"):
                await client.call_tool("files__read_text_file", {"path": "/data/hello.txt"})
        assert root(host, "approve", "files")["held"] == ""
        done = await client.call_tool("files__read_text_file", {"path": "/data/hello.txt"})
        assert "nothing secret" in str(done.content)
        assert root(host, "revoke", "files")["held"]
        with pytest.raises(MCPError, match=r"approval|ended|stopped"):
            await until_refused(client)

    command = host.user.command("serve", "-q", "--runtime-dir", host.runtime)
    host.user.talk(command, scenario, cwd=host.user.project, log=tmp_path / "log", mode="legacy")
    asked = root(host, "show", "files")["decisions"][-2]["asked"]
    assert asked == [host.user.arena.account]
    assert root(host, "approve", "files")["held"] == ""


async def until_refused(client: Client) -> None:
    for _ in range(1000):
        await client.call_tool("files__read_text_file", {"path": "/data/hello.txt"})


def test_what_discover_requests_is_approved_under_a_daemon_and_runs(host: Host) -> None:
    before = host.config.read_text(encoding="utf-8")
    watched = host.folder / "discover"
    watched.mkdir()
    text = '[server.{}]\nprofile = "none"\ncommand = ["/usr/bin/cat", "/proc/self/mountinfo"]\n'
    (watched / "a.toml").write_text(text.format("found") + text.format("other").replace("mountinfo", "status"))
    state = {"XDG_STATE_HOME": str(host.folder / "state")}
    try:
        argv = host.root.command("discover", "--config", host.config, "--request", "all", "--source", watched)
        done = host.root.arena.finish(host.root.process(argv, env=state), seconds=SECONDS)
        assert done.returncode == 0, done.stderr
        asked = {each["server"]: each["approval"] for each in root(host, "pending") if each["request"]}
        assert asked.keys() == {"found", "other"}
        assert "found" not in host.admin("inspect").stdout
        assert root(host, "deny", asked["other"], "--reason", "why that?")["done"] == "deny"
        assert root(host, "approve", asked["found"], "--reason", "seen")["done"] == "approve"
        assert "found" in json.loads(host.admin("inspect").stdout)["servers"]
        assert "found" in [each["server"] for each in root(host, "list", "--approved")]
        assert not [each for each in root(host, "pending") if each["request"]]
    finally:
        host.config.write_text(before, encoding="utf-8")
        for folder in (watched, host.folder / "state", host.folder / "servers.d"):
            shutil.rmtree(folder)
        host.admin("reload")


def test_nobody_but_the_operator_decides_and_the_file_is_the_operators(host: Host) -> None:
    waiting = number(host, "memory")
    for words in (("approve", waiting), ("deny", waiting, "--reason", "x"), ("revoke", "files"), ("pending",)):
        done = host.ask(host.user, *words)
        assert done.returncode == 1
        assert "no daemon that you administer answers there" in done.stderr
    store = host.folder / "approvals.jsonl"
    assert (store.stat().st_uid, store.stat().st_mode & 0o777) == (0, 0o644)
    kept = store.read_bytes()
    os.chmod(store, 0o666)
    try:
        failed = host.ask(host.root, "admin", "reload")
        assert f"{store}: others can write it" in failed.stderr
    finally:
        os.chmod(store, 0o644)
    assert store.read_bytes() == kept
