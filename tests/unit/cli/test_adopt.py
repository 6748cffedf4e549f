"""adopt and release on files as clients write them: what they refuse, what stays, that one undoes the other."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from pathlib import Path

import pytest

from supervisor.cli import adopt, client_file, files, release
from supervisor.errors import ConfigError, Refused, SupervisorError
from supervisor.profile import offers
from supervisor.registry import adopted, written

CAT = {"command": "/usr/bin/cat"}
PLAIN = json.dumps({"mcpServers": {"one": CAT}, "other": [1.0, "é"]}, indent=2, ensure_ascii=False) + "\n"


class Desk:
    """A home with a client's file, and the two commands over a registry in it."""

    def __init__(self, top: Path) -> None:
        self.home = top
        self.file = top / "client.json"
        self.registry = top / "config" / "supervisor" / "servers.toml"
        self.backup = Path(f"{self.file}{client_file.BACKUP}")
        self.missing = [",".join(offers.probe().missing)] if offers.probe().missing else []

    def write(self, text: str | bytes, name: str = "client.json") -> Path:
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def adopt(self, file: Path | None = None, **more: object) -> int:
        plain = {"config": None, "runtime_dir": str(self.home), "json": True, "yes": True, "dry_run": False}
        options = plain | {"gateway": False, "accept_missing": self.missing, "file": str(file or self.file)} | more
        return adopt.adopt(Namespace(**options), [])

    def release(self, file: Path | None = None, **more: object) -> int:
        plain = {"config": None, "runtime_dir": str(self.home), "json": True, "file": str(file or self.file)}
        return release.release(Namespace(**(plain | more)), [])

    def servers(self) -> dict[str, object]:
        text = self.registry.read_text(encoding="utf-8") if self.registry.exists() else ""
        return written.servers(text)

    def left(self) -> set[str]:
        """Everything there is, by its path in the home."""
        return {str(path.relative_to(self.home)) for path in self.home.rglob("*")}


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    own = str(tmp_path / "config/supervisor/servers.toml")
    monkeypatch.setattr("supervisor.cli.entry.catalog", lambda options: options.config or own)
    return Desk(tmp_path)


SPELLINGS = {
    "plain": PLAIN.encode(),
    "one line": json.dumps(json.loads(PLAIN)).encode(),
    "tabs": json.dumps(json.loads(PLAIN), indent="\t").encode(),
    "crlf": PLAIN.replace("\n", "\r\n").encode(),
    "mark in front": b"\xef\xbb\xbf" + PLAIN.encode(),
    "no newline at the end": PLAIN.rstrip().encode(),
    "comments": PLAIN.replace('"one"', '/* mine */ "one"').replace('"é"', '"é", // last\n').encode(),
}


@pytest.mark.parametrize("gateway", [False, True])
@pytest.mark.parametrize("name", list(SPELLINGS))
def test_a_file_comes_back_byte_for_byte_and_nothing_else_is_left(name: str, gateway: bool, desk: Desk) -> None:
    data = SPELLINGS[name]
    desk.write(data)
    desk.file.chmod(0o640)
    assert desk.adopt(gateway=gateway) == 0
    assert desk.file.read_bytes() != data
    assert set(desk.servers()) == {"one"}
    assert (desk.backup.read_bytes(), desk.backup.stat().st_mode & 0o777) == (data, 0o600)
    assert desk.file.stat().st_mode & 0o777 == 0o640
    assert desk.release() == 0
    assert desk.file.read_bytes() == data
    assert desk.file.stat().st_mode & 0o777 == 0o640
    assert desk.servers() == {}
    assert desk.left() == {"client.json", "config", "config/supervisor", "config/supervisor/servers.toml"}


def test_the_ends_of_lines_and_the_mark_in_front_stay(desk: Desk) -> None:
    desk.write(b"\xef\xbb\xbf" + PLAIN.replace("\n", "\r\n").encode())
    desk.adopt()
    data = desk.file.read_bytes()
    assert data.startswith(b"\xef\xbb\xbf{")
    assert data.count(b"\n") == data.count(b"\r\n") == PLAIN.count("\n")


def test_adopting_twice_is_the_same_as_once(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    desk.write(PLAIN)
    desk.adopt()
    before = {name: (desk.home / name).read_bytes() for name in desk.left() if (desk.home / name).is_file()}
    capsys.readouterr()
    assert desk.adopt() == 0
    (told,) = json.loads(capsys.readouterr().out)["servers"]
    assert told["state"] == "adopted already"
    assert before == {name: (desk.home / name).read_bytes() for name in desk.left() if (desk.home / name).is_file()}


def test_what_came_later_is_adopted_too_and_the_first_backup_stays(desk: Desk) -> None:
    desk.write(PLAIN)
    desk.adopt()
    value = json.loads(desk.file.read_text())
    value["mcpServers"]["two"] = {"command": "/usr/bin/tac"}
    desk.write(json.dumps(value, indent=2))
    assert desk.adopt() == 0
    assert set(desk.servers()) == {"one", "two"}
    assert desk.backup.read_text() == PLAIN
    desk.release()
    assert json.loads(desk.file.read_text()) == {
        "mcpServers": {"one": CAT, "two": {"command": "/usr/bin/tac"}},
        "other": [1.0, "é"],
    }
    assert desk.servers() == {}


def test_a_second_gateway_adoption_adds_no_second_entry(desk: Desk) -> None:
    desk.write(PLAIN)
    desk.adopt(gateway=True)
    value = json.loads(desk.file.read_text())
    value["mcpServers"]["two"] = {"command": "/usr/bin/tac"}
    desk.write(json.dumps(value, indent=2))
    desk.adopt(gateway=True)
    assert set(json.loads(desk.file.read_text())["mcpServers"]) == {"supervisor"}
    desk.release()
    assert set(json.loads(desk.file.read_text())["mcpServers"]) == {"one", "two"}


def test_an_earlier_copy_is_never_overwritten(desk: Desk) -> None:
    desk.write(PLAIN)
    desk.backup.write_text("mine")
    desk.adopt()
    assert desk.backup.read_text() == "mine"
    assert Path(f"{desk.backup}-2").read_text() == PLAIN


def test_what_was_edited_meanwhile_stays_and_so_does_the_copy(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.write(PLAIN)
    desk.adopt()
    desk.write(desk.file.read_text().replace('"other"', '"another"'))
    capsys.readouterr()
    desk.release()
    assert desk.file.read_text() == PLAIN.replace('"other"', '"another"')
    assert desk.backup.read_text() == PLAIN
    assert str(desk.backup) in json.loads(capsys.readouterr().out)["said"][-1]


def test_a_dry_run_changes_nothing(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    desk.write(PLAIN)
    assert desk.adopt(dry_run=True) == 0
    (told,) = json.loads(capsys.readouterr().out)["servers"]
    assert (told["path"], told["state"], told["name"]) == (["mcpServers", "one"], "adopted", "one")
    assert told["entry"]["profile"] == "none"
    assert desk.left() == {"client.json"}
    assert desk.file.read_text() == PLAIN


def test_without_a_terminal_nobody_is_asked(desk: Desk) -> None:
    desk.write(PLAIN)
    with pytest.raises(ConfigError, match="--yes"):
        desk.adopt(yes=False)
    assert desk.left() == {"client.json"}


def test_values_of_variables_are_moved_and_never_shown(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    desk.write(json.dumps({"mcpServers": {"one": CAT | {"env": {"TOKEN": "s3cret"}}}}))
    desk.adopt(json=False)
    assert "s3cret" not in capsys.readouterr().out
    assert "s3cret" not in desk.file.read_text()
    assert "s3cret" in desk.registry.read_text()
    assert desk.registry.stat().st_mode & 0o777 == 0o600


def test_servers_that_cannot_be_adopted_stay_and_are_told(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    broken = {"command": "/no/such/program"}
    desk.write(json.dumps({"mcpServers": {"one": CAT, "two": broken, "far": {"url": "https://example.com"}}}))
    assert desk.adopt() == 1
    told = {each["path"][-1]: each for each in json.loads(capsys.readouterr().out)["servers"]}
    assert set(told) == {"one", "two"}
    assert (told["two"]["state"], told["one"]["state"]) == ("not adopted", "adopted")
    assert "/no/such/program" in told["two"]["reason"]
    value = json.loads(desk.file.read_text())["mcpServers"]
    assert (value["two"], value["far"]) == (broken, {"url": "https://example.com"})
    assert set(desk.servers()) == {"one"}


def test_two_files_with_the_same_server_share_it_until_the_last_is_released(
    desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    desk.write(PLAIN)
    other = desk.write(json.dumps({"servers": {"one": CAT | {"type": "stdio"}}}), "other.json")
    desk.adopt()
    desk.adopt(other)
    assert set(desk.servers()) == {"one"}
    capsys.readouterr()
    desk.release()
    assert f"one stays registered: {other} uses it" in json.loads(capsys.readouterr().out)["said"]
    assert set(desk.servers()) == {"one"}
    desk.release(other)
    assert desk.servers() == {}


def test_a_name_that_is_somebody_elses_gets_a_number(desk: Desk) -> None:
    desk.write(PLAIN)
    other = desk.write(json.dumps({"mcpServers": {"one": {"command": "/usr/bin/tac"}}}), "other.json")
    desk.adopt()
    desk.adopt(other)
    assert set(desk.servers()) == {"one", "one-2"}
    assert json.loads(other.read_text())["mcpServers"]["one"]["args"] == ["run", "one-2"]


def test_a_server_that_was_there_before_or_was_edited_stays_registered(desk: Desk) -> None:
    desk.registry.parent.mkdir(parents=True)
    mine = written.add("# mine\n", "one", {"profile": "none", "command": ["/usr/bin/cat"]})
    desk.registry.write_text(mine)
    desk.registry.chmod(0o600)
    desk.write(json.dumps({"mcpServers": {"one": CAT, "two": {"command": "/usr/bin/tac"}}}))
    desk.adopt(accept_missing=[]) if not desk.missing else pytest.skip("this user's entries accept missing layers")
    desk.registry.write_text(desk.registry.read_text().replace("/usr/bin/tac", "/usr/bin/rev"))
    desk.release()
    assert set(desk.servers()) == {"one", "two"}


def test_projects_keep_an_entry_each_even_with_a_gateway(desk: Desk) -> None:
    project = desk.home / "p"
    project.mkdir()
    value = {"mcpServers": {"one": CAT}, "projects": {str(project): {"mcpServers": {"two": CAT}, "history": ["x"]}}}
    desk.write(json.dumps(value, indent=2))
    desk.adopt(gateway=True)
    made = json.loads(desk.file.read_text())
    assert made["mcpServers"]["supervisor"]["args"] == ["serve"]
    assert made["projects"][str(project)]["mcpServers"]["two"]["args"] == ["run", "two"]
    assert made["projects"][str(project)]["history"] == ["x"]
    desk.release()
    assert json.loads(desk.file.read_text()) == value


def test_a_server_that_is_switched_off_is_not_switched_on_by_a_gateway(desk: Desk) -> None:
    desk.write(json.dumps({"mcpServers": {"one": CAT | {"disabled": True}}}))
    desk.adopt(gateway=True)
    table = desk.servers()["one"]
    assert isinstance(table, dict)
    assert table["enabled"] is False


def test_a_link_is_followed_and_stays_a_link(desk: Desk) -> None:
    real = desk.write(PLAIN, "dotfiles/client.json")
    desk.file.symlink_to(real)
    desk.adopt()
    assert desk.file.is_symlink()
    assert "run" in real.read_text()
    desk.release()
    assert real.read_text() == PLAIN


@pytest.mark.parametrize(
    ("data", "name", "says"),
    [
        (b"", "client.json", "it is empty"),
        (b" \n", "client.json", "it is empty"),
        (b"\xef\xbb\xbf", "client.json", "it is empty"),
        (b"hello", "client.json", ":1:1: a value is expected here"),
        (b'{"mcpServers": {\n  "a": }}', "client.json", ":2:8: a value is expected here"),
        (b'{"mcpServers": {}, // x\n}', "claude_desktop_config.json", ":1:20: a comment, which the program"),
        (b'{"mcpServers": {},}', ".mcp.json", ":1:18: a comma behind the last element"),
        (b'{"mcpServers": {},\n"mcpServers": {}}', "client.json", ':2:1: "mcpServers" is written twice'),
        (b'{"mcpServers": {"a": {"command": "x"},\n "a": {}}}', "client.json", ':2:2: "a" is written twice'),
        (b'{"mcpServers": {"a": {"command": "x",\n "command": "y"}}}', "client.json", ':2:2: "command" is written'),
        (b'{"a": 1}', "client.json", "no table of servers"),
        ("{}".encode("utf-16"), "client.json", "not UTF-8"),
        (b"[" * 10_000, "client.json", "nested too deeply"),
    ],
)
def test_a_file_that_cannot_be_edited_is_told_with_its_line(data: bytes, name: str, says: str, desk: Desk) -> None:
    path = desk.write(data, name)
    with pytest.raises(ConfigError) as raised:
        desk.adopt(path)
    assert str(raised.value).startswith(str(path))
    assert says in str(raised.value)
    assert path.read_bytes() == data
    assert desk.left() == {name}


def test_a_file_without_end_is_refused(desk: Desk) -> None:
    path = desk.write(b" " * (client_file.LIMIT + 1))
    with pytest.raises(SupervisorError, match="larger than 16 MiB"):
        desk.adopt(path)
    path.unlink()


def test_a_file_that_is_to_be_left_alone_is_left_alone(desk: Desk) -> None:
    desk.write(PLAIN)
    desk.file.chmod(0o444)
    with pytest.raises(ConfigError, match="it is read-only"):
        desk.adopt()
    desk.file.chmod(0o644)
    with pytest.raises(ConfigError, match="not a regular file"):
        desk.adopt(desk.home)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has files of two users")
def test_a_file_of_somebody_else_s_is_refused(desk: Desk) -> None:
    desk.write(PLAIN)
    os.chown(desk.file, 12345, -1)
    with pytest.raises(Refused, match="it belongs to uid 12345"):
        desk.adopt()


def test_a_file_that_changes_meanwhile_is_not_overwritten(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.write(PLAIN)
    real = files.replace

    def replace(path: str, data: bytes, *, before: bytes | None) -> None:
        if path == str(desk.file):
            desk.write(PLAIN.replace("other", "changed"))
        real(path, data, before=before)

    monkeypatch.setattr(files, "replace", replace)
    with pytest.raises(SupervisorError, match="another program has changed it meanwhile"):
        desk.adopt()
    assert desk.file.read_text() == PLAIN.replace("other", "changed")
    # what came before has been undone
    assert desk.left() == {"client.json", "config"}
    assert list((desk.home / "config").iterdir()) == []


def test_a_release_that_was_interrupted_is_repeated(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    desk.write(PLAIN)
    desk.adopt()
    record = Path(adopted.record_path(str(desk.registry), str(desk.file)))
    text = record.read_text()
    desk.release()
    # as if it had ended before the record went
    record.parent.mkdir()
    record.write_text(text)
    record.chmod(0o600)
    capsys.readouterr()
    assert desk.release() == 0
    assert json.loads(capsys.readouterr().out)["said"] == []
    assert desk.file.read_text() == PLAIN
    assert not record.parent.exists()


def test_a_path_that_no_client_could_name_is_refused(desk: Desk) -> None:
    desk.write(PLAIN)
    with pytest.raises(ConfigError, match="not UTF-8"):
        desk.adopt(desk.write(PLAIN, "\udcff.json"))
    with pytest.raises(ConfigError, match="not UTF-8"):
        desk.adopt(config=f"{desk.home}/\udcff/servers.toml")


def test_what_was_never_adopted_cannot_be_released(desk: Desk) -> None:
    desk.write(PLAIN)
    with pytest.raises(ConfigError, match="nothing of it is adopted"):
        desk.release()
    desk.adopt()
    Path(adopted.record_path(str(desk.registry), str(desk.file))).unlink()
    with pytest.raises(ConfigError, match=f"a copy of it is {desk.backup}"):
        desk.release()
