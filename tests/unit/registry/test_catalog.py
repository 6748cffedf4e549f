"""The registry: servers.toml and servers.d, all or nothing, each error with file and line."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from supervisor.errors import ConfigError, Refused, SupervisorError
from supervisor.profile import host
from supervisor.registry import catalog
from supervisor.registry.planner import answer

TABLE = '[server.{}]\nprofile = "none"\ncommand = ["/usr/bin/cat"]\n'


class Registry:
    """A folder with a servers.toml."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = str(folder / "servers.toml")

    def write(self, text: str, name: str = "servers.toml", mode: int = 0o600) -> Path:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(mode)
        return path

    def load(self) -> catalog.Catalog:
        return catalog.load_catalog(self.path)

    def gateway(self, name: str) -> dict[str, object]:
        """What is passed on to the gateway about one server."""
        found: dict[str, object] = json.loads(self.load().servers[name].gateway)
        return found


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path)


def test_an_entry_is_what_is_written(registry: Registry) -> None:
    registry.write(
        '[server.files]\nprofile = "fs-readonly"\nparams = { root = "/srv" }\nro = ["/a"]\nrw = ["/b"]\n'
        'env = { KEY = "value" }\nallow = ["example.com:443"]\nusers = ["@staff"]\ncommand = ["x", "y"]\n'
        'accept_missing = ["limits.memory"]\n'
    )
    entry = registry.load().servers["files"].entry
    assert (entry.name, entry.profile, entry.params) == ("files", "fs-readonly", {"root": "/srv"})
    assert (entry.ro, entry.rw, entry.env) == (("/a",), ("/b",), {"KEY": "value"})
    assert (entry.allow, entry.users, entry.command) == (("example.com:443",), ("@staff",), ("x", "y"))
    assert entry.accept_missing == ("limits.memory",)
    assert (entry.origin, entry.cwd, entry.personal) == (f"{registry.path}:1", str(registry.folder), False)


def test_what_concerns_the_gateway_is_one_text_with_the_line_of_each_pattern(registry: Registry) -> None:
    registry.write(
        TABLE.format("a") + 'summary = "first"\n'
        'tools = { allow = ["read_*"], deny = ["write_*"] }\nsession = { idle = "10m", share = "call" }\n'
        'health = { interval = "30s", failures = 3 }\nrestart = { limit = 2 }\nquota = { calls = 4 }\n'
    )
    told = registry.gateway("a")
    assert told["origin"] == f"{registry.path}:1"
    assert told["summary"] == "first"
    assert told["tools"] == {
        "allow": [["read_*", f"{registry.path}:5"]],
        "deny": [["write_*", f"{registry.path}:5"]],
    }
    assert told["session"] == {"idle": 600.0, "share": "call"}
    assert told["health"] == {"interval": 30.0, "failures": 3}
    assert (told["restart"], told["quota"]) == ({"limit": 2}, {"calls": 4})


def test_files_of_the_folder_beside_are_read_in_the_order_of_their_names(registry: Registry) -> None:
    registry.write(TABLE.format("z"))
    registry.write(TABLE.format("b"), "servers.d/20.toml")
    registry.write(TABLE.format("a"), "servers.d/10.toml")
    registry.write("not read", "servers.d/.hidden.toml")
    registry.write("not read", "servers.d/notes.txt")
    assert list(registry.load().servers) == ["z", "a", "b"]


def test_a_name_that_is_defined_twice_is_told_with_both_places(registry: Registry) -> None:
    first = registry.write("# one\n" + TABLE.format("a"))
    second = registry.write("\n\n" + TABLE.format("a"), "servers.d/more.toml")
    with pytest.raises(ConfigError) as raised:
        registry.load()
    assert f"{second}:3: " in str(raised.value)
    assert f"{first}:2" in str(raised.value)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ('colour = "red"\n', 1, 'unknown key "colour"'),
        (TABLE.format("a") + 'colour = "red"\n', 4, 'unknown key "server.a.colour"'),
        (TABLE.format("a") + 'secret = ["x"]\n', 4, 'unknown key "server.a.secret"'),
        (TABLE.format("a") + 'session = { nap = "1m" }\n', 4, 'unknown key "server.a.session.nap"'),
        (TABLE.format("a") + 'session = { idle = "soon" }\n', 4, "a time is written like"),
        (TABLE.format("a") + 'session = { share = "all" }\n', 4, "share"),
        (TABLE.format("a") + "quota = { calls = 0 }\n", 4, "a number >= 1, not 0"),
        (TABLE.format("a") + 'tools = { allow = [""] }\n', 4, "tools.allow"),
        (TABLE.format("a") + "enabled = 1\n", 4, "enabled"),
        ('[server.a]\ncommand = ["x"]\n', 1, 'key "server.a.profile" is missing'),
        ("\n" + TABLE.format("a__b"), 2, '"a__b" holds "__"'),
        ("\n" + TABLE.format("a_"), 2, "ends in"),
        ("\n" + TABLE.format("a-"), 2, "ends in"),
        ("\n" + TABLE.format('"a."'), 2, "ends in"),
        ("\n" + TABLE.format("Ada"), 2, "a-z, 0-9"),
        ("\n" + TABLE.format('"a b"'), 2, "a-z, 0-9"),
        ("nonsense = [", 1, ""),
    ],
)
def test_an_error_is_told_with_file_and_line(text: str, line: int, says: str, registry: Registry) -> None:
    registry.write(text)
    with pytest.raises(ConfigError) as raised:
        registry.load()
    assert str(raised.value).startswith(f"{registry.path}:{line}: ")
    assert says in str(raised.value)


def test_a_server_that_is_not_enabled_is_known_and_not_offered(registry: Registry) -> None:
    registry.write(TABLE.format("a") + "enabled = false\n" + TABLE.format("b"))
    found = registry.load()
    assert (list(found.servers), list(found.disabled)) == (["b"], ["a"])


def test_more_servers_than_fit_into_one_answer_are_refused(registry: Registry) -> None:
    registry.write("".join(TABLE.format(f"s{number}") for number in range(catalog.SERVERS)))
    assert len(registry.load().servers) == catalog.SERVERS
    registry.write(TABLE.format("one-more"), "servers.d/more.toml")
    with pytest.raises(ConfigError, match="more than 200 servers"):
        registry.load()


def test_patterns_that_would_not_fit_into_a_message_are_refused(registry: Registry) -> None:
    many = ", ".join(f'"{number:0200}"' for number in range(30))
    rows = "".join(f"{kind}.{way} = [{many}]\n" for kind in ("tools", "prompts") for way in ("allow", "deny"))
    registry.write(TABLE.format("a") + rows)
    with pytest.raises(ConfigError, match="32 KiB"):
        registry.load()


def test_a_manifest_is_hashed_and_watched_and_not_parsed(registry: Registry) -> None:
    registry.write(TABLE.format("a") + TABLE.format("b"))
    pin = registry.write("{ no JSON at all", "pins/a.json", 0o644)
    found = registry.load()
    assert found.servers["a"].digest == hashlib.sha256(pin.read_bytes()).hexdigest()
    assert found.servers["a"].manifest == str(pin)
    assert (found.servers["b"].digest, found.servers["b"].manifest) == ("", "")
    watched = {os.path.relpath(each, registry.folder) for each in found.files}
    assert watched == {"servers.toml", "servers.d", "policies", "pins", "pins/a.json"}


@pytest.mark.parametrize("name", ["servers.toml", "servers.d/more.toml", "pins/a.json"])
def test_a_file_that_others_can_write_is_not_believed(name: str, registry: Registry) -> None:
    registry.write(TABLE.format("a"))
    text = "{}" if name.endswith("json") else TABLE.format("b") if "more" in name else TABLE.format("a")
    registry.write(text, name, 0o666)
    with pytest.raises(Refused, match=f"{name}: others can write it"):
        registry.load()


def test_a_manifest_behind_a_link_is_refused(registry: Registry) -> None:
    registry.write(TABLE.format("a"))
    registry.write("{}", "elsewhere.json")
    (registry.folder / "pins").mkdir()
    (registry.folder / "pins/a.json").symlink_to(registry.folder / "elsewhere.json")
    with pytest.raises(SupervisorError, match=r"pins/a\.json"):
        registry.load()


def test_a_registry_that_is_not_there_is_named(registry: Registry) -> None:
    with pytest.raises(ConfigError, match=f"{registry.path}: there is no registry yet"):
        registry.load()


def test_the_planner_tries_a_text_out_that_is_not_written_yet(registry: Registry) -> None:
    registry.write('[server.broken]\nprofile = "no-such"\n')
    text = TABLE.format("a") + '[server.broken]\nprofile = "no-such"\n'
    question: dict[str, object] = {"catalog": registry.path, "text": text}
    told = answer(question | {"only": "a"})
    assert [each.entry.name for each in told.servers] == ["a"]
    assert answer(question).error.startswith(f"{registry.path}:4: ")


def test_the_planner_lists_what_it_read_with_its_time(registry: Registry) -> None:
    profile = 'profile = 1\nname = "mine"\nextends = "none"\nsummary = "x"\n'
    mine = registry.write(profile, "mine.toml")
    registry.write(TABLE.format("a").replace('"none"', '"mine"'))
    watched = dict(answer({"catalog": registry.path}).watched)
    assert next(iter(watched)) == registry.path
    for each in (Path(registry.path), mine):
        assert watched[str(each)] == host.changed(str(each)) > 0
    assert watched[f"{registry.folder}/servers.d"] == -1
