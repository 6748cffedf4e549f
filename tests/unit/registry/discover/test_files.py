"""Files of strangers: whatever lies in a watched folder, a look at it ends, and names what it does not take."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from supervisor.registry.discover import files
from supervisor.registry.installed import Machine


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    home = tmp_path / "home"
    home.mkdir()
    return Machine(str(home), str(home), {"PATH": "/usr/bin:/bin"})


def client(command: str, *arguments: str) -> str:
    return json.dumps({"mcpServers": {"one": {"command": command, "args": arguments}}})


def test_every_kind_of_file_is_read_and_other_names_are_left_alone(tmp_path: Path, machine: Machine) -> None:
    folder = tmp_path / "watched"
    folder.mkdir()
    (folder / "a.toml").write_text('[server.own]\nprofile = "none"\ncommand = ["/usr/bin/true"]\n')
    (folder / "b.json").write_text(client("/usr/bin/cat"))
    (folder / "c.json").write_text(json.dumps({"name": "x/y", "packages": []}))
    (folder / "mcp.json").write_text('{"servers": {"two": {"command": "/usr/bin/true"},}} // VS Code')
    for name in ("README.md", ".hidden.json", "x.json.swp"):
        (folder / name).write_text("{")
    found = files.in_folder(str(folder), machine)
    assert found.problem == ""
    assert {each.name: bool(each.refused) for each in found.proposals} == {
        "own": False,
        "one": False,
        "y": True,
        "two": False,
    }


def test_hostile_files_are_refused_by_name(tmp_path: Path, machine: Machine) -> None:
    folder = tmp_path / "watched"
    folder.mkdir()
    (folder / "binary.json").write_bytes(b'{"\xff')
    (folder / "binary.toml").write_bytes(b"\xff")
    (folder / "deep.json").write_text('{"mcpServers":' * 5000)
    (folder / "deep.toml").write_text("a = " + "[" * 5000)
    with (folder / "huge.json").open("wb") as file:
        file.truncate(files.LIMIT + 1)
    (folder / "link.json").symlink_to("/etc/passwd")
    (folder / "loop.json").symlink_to("loop.json")
    os.mkfifo(folder / "pipe.json")
    (folder / "folder.json").mkdir()
    (folder / "users.toml").write_text('[server.x]\nprofile = "none"\nusers = ["eve"]\n')
    (folder / "twice.json").write_text('{"mcpServers": {}, "mcpServers": {}}')
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.json")).write_text("{}")
    found = files.in_folder(str(folder), machine)
    refused = {os.path.basename(each.place.partition("#")[0]): each.refused for each in found.proposals}
    assert len(refused) == len(os.listdir(folder))
    assert all(refused.values())
    assert "symbolic link" in refused["link.json"]
    assert "symbolic link" in refused["loop.json"]
    assert "regular file" in refused["pipe.json"]
    assert "UTF-8" in refused["binary.json"]
    assert "users" in refused["users.toml"]
    assert all("\n" not in each and "\x1b" not in each for each in refused)


def test_a_folder_with_too_many_names_is_said_to_be_seen_in_part(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "NAMES", 3)
    for number in range(9):
        (tmp_path / f"{number}.json").write_text(client("/usr/bin/true"))
    found = files.in_folder(str(tmp_path), machine)
    assert len(found.proposals) <= 3
    assert "more than 3 names" in found.problem


def test_what_changes_while_it_is_read_is_left_for_the_next_look(tmp_path: Path, machine: Machine) -> None:
    path = tmp_path / "growing.json"
    path.write_bytes(b" " * (files.LIMIT // 2))
    ended = threading.Event()

    def write() -> None:
        while not ended.is_set():
            with path.open("r+b") as file:
                file.write(b" ")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        looks = [files.one_file(str(path), machine) for _ in range(50)]
        while not any(each.problem for each in looks) and len(looks) < 20_000:
            looks.append(files.one_file(str(path), machine))
    finally:
        ended.set()
        writer.join()
    changed = [each for each in looks if each.problem]
    assert changed, "no look met a write"
    assert all("changed while it was read" in each.problem and not each.proposals for each in changed)


def test_a_client_s_servers_are_found_where_clients_keep_them_and_ours_left_out(machine: Machine) -> None:
    home = Path(machine.home)
    (home / ".cursor").mkdir()
    (home / ".cursor/mcp.json").write_text(
        json.dumps(
            {
                "mcpServers": {
                    "time": {"command": "/usr/bin/true"},
                    "ours": {"command": "supervisor", "args": ["run", "x"]},
                    "remote": {"url": "https://example.com/mcp"},
                    "shell": {"command": "sh", "args": ["-c", "x"]},
                }
            }
        )
    )
    found = files.of_clients(machine)
    assert [(each.name, bool(each.refused)) for each in found.proposals] == [("time", False), ("shell", True)]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ('profile = "ci-runner"', "grants more than the bound, none"),
        ('profile = "./evil.toml"', "is none of"),
        ('profile = "none"\nro = ["/root"]', "ro: for whoever"),
        ('profile = "none"\nrw = ["/root"]', "rw: for whoever"),
        ('profile = "none"\nallow = ["example.com:443"]', "allow: for whoever"),
        ('profile = "none"\nparams = { root = "/" }', "params: for whoever"),
        ('profile = "none"\ngrant = ["eve"]', "grant: for whoever"),
        ('profile = "none"\ntools = { grant = { x = ["eve"] } }', "tools.grant: for whoever"),
        ('profile = "none"\nsecrets = { A = { command = ["id"], to = "env" } }', "secrets: for whoever"),
        ('profile = "none"\nengine = "/run/eve.sock"', "engine: for whoever"),
        ('profile = "none"\naudit = { sync = "process" }', "audit: for whoever"),
        ('profile = "none"\nquota = { calls = 1000000 }', "quota: for whoever"),
    ],
)
def test_a_file_of_a_watched_folder_may_only_narrow(
    tmp_path: Path, machine: Machine, words: str, said: str
) -> None:
    path = tmp_path / "evil.toml"
    path.write_text(f'[server.x]\n{words}\ncommand = ["/usr/bin/true"]\n')
    (found,) = files.one_file(str(path), machine).proposals
    assert (said in found.refused, found.fields) == (True, {}), found.refused
    wide = files.one_file(str(path), machine, "ci-runner").proposals[0]
    assert bool(wide.refused) == ("ci-runner" not in words)


def test_what_a_stranger_s_command_line_names_is_not_granted_to_it(tmp_path: Path, machine: Machine) -> None:
    path = tmp_path / "mcp.json"
    for arguments, said in (([str(tmp_path)], "ro: for whoever"), (["https://example.com"], "allow: for whoever")):
        path.write_text(client("/usr/bin/cat", *arguments))
        (found,) = files.one_file(str(path), machine, "net-allowlist").proposals
        assert (said in found.refused, found.fields) == (True, {}), found.refused
    # in the person's own client it is the person who names it
    own = Path(machine.home) / ".cursor"
    own.mkdir()
    (own / "mcp.json").write_text(client("/usr/bin/cat", str(tmp_path)))
    assert files.of_clients(machine).proposals[0].fields["ro"] == [str(tmp_path)]
