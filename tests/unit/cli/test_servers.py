"""add, remove and list on a registry file: nothing is written that could not be planned, nothing else changes."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from pathlib import Path

import pytest

from supervisor.cli import servers
from supervisor.errors import ConfigError, Refused, SupervisorError
from supervisor.profile import offers
from supervisor.registry import written


class Shelf:
    """A registry in a folder, and the three commands over it."""

    def __init__(self, top: Path) -> None:
        self.folder = top / "etc"
        self.path = self.folder / "servers.toml"
        self.missing = [",".join(offers.probe().missing)] if offers.probe().missing else []

    def add(self, name: str, *command: str, **more: object) -> int:
        lists: dict[str, object] = {key: [] for key in ("param", "ro", "rw", "env", "secret", "allow", "user")}
        plain = {"profile": "none", "summary": None, "config": str(self.path), "json": False, "name": name}
        plain |= dict.fromkeys(("image", "runtime", "engine", "store", "lock"))
        options = lists | plain | {"accept_missing": self.missing, "proposed": False} | more
        return servers.add(Namespace(**options), list(command))

    def remove(self, name: str) -> int:
        return servers.remove(Namespace(name=name, config=str(self.path), json=False), [])

    def list(self) -> int:
        words = {"config": str(self.path), "runtime_dir": None, "personal": False, "approved": False}
        return servers.listing(Namespace(**words, json=True), [])

    def table(self, name: str) -> dict[str, object]:
        found = written.servers(self.path.read_text(encoding="utf-8"))[name]
        assert isinstance(found, dict)
        found.pop("accept_missing", None)
        return found


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    (tmp_path / "work" / "data").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    return Shelf(tmp_path)


def test_a_list_of_nothing_says_so(shelf: Shelf, capsys: pytest.CaptureFixture[str]) -> None:
    shelf.folder.mkdir(exist_ok=True)
    shelf.path.touch(mode=0o644)
    words = {"config": str(shelf.path), "runtime_dir": None, "personal": False, "approved": False}
    assert servers.listing(Namespace(**words, json=False), []) == 0
    assert capsys.readouterr() == ("", "there is no server that you may use\n")


def test_the_first_server_makes_the_file_for_its_owner_alone(shelf: Shelf) -> None:
    assert shelf.add("a", "/usr/bin/cat", summary="the first") == 0
    assert shelf.table("a") == {"summary": "the first", "profile": "none", "command": ["/usr/bin/cat"]}
    assert shelf.path.stat().st_mode & 0o777 == 0o600
    assert shelf.folder.stat().st_mode & 0o777 == 0o700
    assert os.listdir(shelf.folder) == ["servers.toml"]


def test_what_names_a_file_from_here_is_written_from_the_root(shelf: Shelf) -> None:
    here = os.getcwd()
    Path("data/x.txt").write_text("x")
    shelf.add("a", profile="fs-readonly", param=["root=."], ro=["data:/inside"], rw=["./data/x.txt"])
    assert shelf.table("a") == {
        "profile": "fs-readonly",
        "params": {"root": here},
        "ro": [f"{here}/data:/inside"],
        "rw": [f"{here}/data/x.txt"],
    }
    shelf.add("b", "cat", "data/x.txt", "--all=./data", "data")
    assert shelf.table("b")["command"] == ["cat", f"{here}/data/x.txt", f"--all={here}/data", "data"]


def test_a_variable_of_the_caller_s_is_written_with_its_value(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINE", "value")
    shelf.add("a", "cat", env=["MINE", "OTHER=x y"])
    assert shelf.table("a")["env"] == {"MINE": "value", "OTHER": "x y"}


def test_a_profile_beside_the_registry_is_known_by_its_name(shelf: Shelf) -> None:
    shelf.folder.mkdir()
    (shelf.folder / "mine.toml").write_text('profile = 1\nname = "mine"\nextends = "none"\nsummary = "x"\n')
    shelf.add("a", "cat", profile="mine")
    assert shelf.table("a")["profile"] == "mine"


REFUSED: list[tuple[str, dict[str, object], type[SupervisorError], str]] = [
    ("a", {"profile": "no-such"}, ConfigError, 'unknown profile "no-such"'),
    ("a", {"param": ["root=/x"]}, ConfigError, 'has no param "root"'),
    ("a", {"profile": "fs-readonly"}, ConfigError, 'param "root" is not set'),
    ("a", {"profile": "fs-readonly", "param": ["root=nowhere"]}, ConfigError, "no such file"),
    ("a", {"ro": ["/"]}, Refused, "the whole host"),
    ("a", {"allow": ["example.com:443"]}, SupervisorError, "example.com"),
    ("A", {}, ConfigError, "a-z, 0-9"),
    ("a__b", {}, ConfigError, 'holds "__"'),
    ("a-", {}, ConfigError, "ends in"),
]


@pytest.mark.parametrize(("name", "more", "kind", "says"), REFUSED)
def test_nothing_is_written_that_does_not_plan(
    name: str, more: dict[str, object], kind: type[SupervisorError], says: str, shelf: Shelf
) -> None:
    with pytest.raises(SupervisorError, match=f".*{says}") as raised:
        shelf.add(name, "/usr/bin/cat", **more)
    assert raised.value.exit_status == kind("").exit_status or kind is SupervisorError
    assert not shelf.folder.exists()
    shelf.add("good", "cat")
    before = shelf.path.read_bytes()
    with pytest.raises(SupervisorError):
        shelf.add(name, "/usr/bin/cat", **more)
    assert shelf.path.read_bytes() == before
    assert os.listdir(shelf.folder) == ["servers.toml"]


def test_a_name_that_is_taken_is_told_with_its_line(shelf: Shelf) -> None:
    shelf.add("a", "cat")
    with pytest.raises(ConfigError, match=f'{shelf.path}:3: server "a" is registered already'):
        shelf.add("a", "cat")
    (shelf.folder / "servers.d").mkdir()
    more = shelf.folder / "servers.d" / "more.toml"
    more.write_text('[server.b]\nprofile = "none"\ncommand = ["cat"]\n')
    more.chmod(0o600)
    with pytest.raises(SupervisorError, match=r'server "b" is defined at .*servers\.toml:7 already'):
        shelf.add("b", "cat")


def test_a_file_that_is_no_registry_is_not_touched(shelf: Shelf) -> None:
    shelf.folder.mkdir()
    shelf.path.write_text("nonsense = [")
    with pytest.raises(ConfigError, match=f"{shelf.path}:1: "):
        shelf.add("a", "cat")
    with pytest.raises(ConfigError, match=f"{shelf.path}:1: "):
        shelf.remove("a")
    with pytest.raises(ConfigError, match=f"{shelf.path}:1: "):
        shelf.list()
    assert shelf.path.read_text() == "nonsense = ["


def test_a_server_that_is_removed_takes_its_manifest_with_it(shelf: Shelf) -> None:
    shelf.add("b", "cat")
    before = shelf.path.read_text()
    shelf.add("a", "cat")
    (shelf.folder / "pins").mkdir()
    for name in "ab":
        (shelf.folder / "pins" / f"{name}.json").write_text("{}")
    shelf.remove("a")
    assert os.listdir(shelf.folder / "pins") == ["b.json"]
    assert shelf.path.read_text() == before
    with pytest.raises(ConfigError, match='no server "a" here; there are: b'):
        shelf.remove("a")


def test_a_server_is_removed_from_the_file_in_which_it_stands(shelf: Shelf) -> None:
    shelf.add("a", "cat")
    (shelf.folder / "servers.d").mkdir()
    more = shelf.folder / "servers.d" / "more.toml"
    more.write_text('# more\n\n[server.b]\nprofile = "none"\ncommand = ["cat"]\n')
    more.chmod(0o600)
    shelf.remove("b")
    assert more.read_text() == "# more\n"
    assert "[server.a]" in shelf.path.read_text()


def test_a_server_can_be_removed_while_another_is_broken(shelf: Shelf) -> None:
    shelf.add("a", "cat")
    text = shelf.path.read_text() + '\n[server.broken]\nprofile = "no-such"\n'
    shelf.path.write_text(text)
    shelf.remove("a")
    shelf.remove("broken")
    assert written.servers(shelf.path.read_text()) == {}


def test_the_list_says_what_is_pinned_and_what_is_switched_off(
    shelf: Shelf, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match="supervisor add makes one"):
        shelf.list()
    shelf.add("b", "cat", summary="second")
    shelf.add("a", "cat")
    (shelf.folder / "pins").mkdir()
    (shelf.folder / "pins" / "b.json").write_text("{}")
    shelf.path.write_text(shelf.path.read_text() + "enabled = false\n")
    capsys.readouterr()
    shelf.list()
    assert json.loads(capsys.readouterr().out) == [
        {"name": "a", "profile": "none", "pinned": False, "state": "disabled", "summary": ""},
        {"name": "b", "profile": "none", "pinned": True, "state": "registered", "summary": "second"},
    ]
