"""Which files of a command an approval binds, and what it says where it binds none."""

from __future__ import annotations

import fcntl
import json
import os
import signal
from pathlib import Path

import pytest

from supervisor.model import Registered
from supervisor.profile.entry import ServerEntry
from supervisor.registry import approvals, policies
from supervisor.registry.planner import answer


def planned(folder: Path, *commands: list[str]) -> list[Registered]:
    path = folder / "servers.toml"
    text = "[approvals]\nrequired = true\n"
    for name, command in zip("ab", commands, strict=False):
        text += f'[server.{name}]\nprofile = "none"\nro = ["{folder}/app"]\ncommand = {json.dumps(command)}\n'
    path.write_text(text)
    found = answer({"catalog": str(path)}, policies.govern)
    assert not found.error, found.error
    return list(found.servers)


@pytest.fixture
def app(tmp_path: Path) -> Path:
    (tmp_path / "app" / "lib").mkdir(parents=True)
    for name in ("__main__.py", "lib/main.js", "hook.js", "data.txt"):
        (tmp_path / "app" / name).write_text("as it was")
    (tmp_path / "app" / "package.json").write_text('{"main": "lib/main"}')
    return tmp_path / "app"


@pytest.mark.parametrize("changed", ["__main__.py", "lib/main.js", "package.json"])
def test_what_a_folder_is_started_by_is_bound(app: Path, changed: str) -> None:
    command = ["/usr/bin/python3", "-IS", str(app)]
    before = planned(app.parent, command)[0].approval
    assert planned(app.parent, command)[0].approval == before
    (app / changed).write_text("{}")
    assert planned(app.parent, command)[0].approval != before


@pytest.mark.parametrize("option", ["--require={}", "-r{}"])
def test_a_file_behind_an_option_is_bound(app: Path, option: str) -> None:
    words = ["/usr/bin/python3", option.format(app / "hook.js"), str(app / "__main__.py")]
    entry = ServerEntry.model_validate({"name": "a", "command": tuple(words), "origin": "x", "profile": "none"})
    assert str(app / "hook.js") in approvals.programs(entry, words)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["/usr/bin/python3", "-m", "json"], True),
        (["/usr/bin/python3", "-I", "-c", "pass", "/etc/passwd"], True),
        (["/usr/bin/sh", "-ec", "exec cat"], True),
        (["/usr/bin/cat"], False),
        (["/usr/bin/sh", "-e", "{app}/hook.js"], False),
        (["/usr/bin/python3", "-IS", "{app}"], False),
    ],
)
def test_it_is_said_when_no_script_is_bound(app: Path, words: list[str], *, said: bool) -> None:
    words = [each.format(app=app) for each in words]
    entry = ServerEntry.model_validate({"name": "a", "command": tuple(words), "origin": "x", "profile": "none"})
    assert any("what no approval binds" in each for each in approvals.unbound(entry, words)) == said


def test_a_program_that_its_owner_keeps_shut_or_makes_huge_holds_its_own_server_at_once(app: Path) -> None:
    program = app / "__main__.py"
    mine, other = ["/usr/bin/python3", "-IS", str(program)], ["/usr/bin/cat"]
    fd, before = os.open(program, os.O_RDWR), signal.signal(signal.SIGIO, signal.SIG_IGN)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        servers = planned(app.parent, mine, other)
        assert servers[0].held == f"{program}: somebody holds a lease on it"
        assert (servers[0].approval, len(servers[1].approval)) == ("", 12)
    finally:
        os.close(fd)
        signal.signal(signal.SIGIO, before)
    os.truncate(program, (256 << 20) + 1)
    servers = planned(app.parent, mine, other)
    assert "at most 256 MiB" in servers[0].held
    assert len(servers[1].approval) == 12
