"""Whatever strangers write into files and labels: a look ends, and what is proposed can be told and written."""

from __future__ import annotations

import json
import time
import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from supervisor.cli import requested
from supervisor.profile import toml
from supervisor.registry import written
from supervisor.registry.catalog import parsed
from supervisor.registry.discover import denied, files, labels, state
from supervisor.registry.discover.proposal import Proposal, found
from supervisor.registry.installed import Machine
from supervisor.shown import printable

IMAGE = f"localhost/a@sha256:{'a' * 64}"
WORDS = (
    "\ud800",
    "\x1b]0;x\x07",
    "a\nb",
    "../../etc/x",
    "${HOME}",
    "}",
    '"]\n[x',
    "\u202e",
    "\0",
    "all",
    "x" * 300,
    "",
)
TEXT = st.one_of(st.sampled_from(WORDS), st.text(max_size=12))
VALUE = st.recursive(
    st.one_of(TEXT, st.integers(), st.booleans(), st.none(), st.floats()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXT, inner, max_size=4)),
    max_leaves=8,
)
COMMAND = st.one_of(
    TEXT, st.sampled_from(["/usr/bin/true", "/usr/bin/python3", "npx", "uvx", "docker", "env", "sh"])
)
ENTRY = st.one_of(
    VALUE,
    st.fixed_dictionaries(
        {"command": COMMAND},
        optional={
            "args": st.one_of(VALUE, st.lists(TEXT, max_size=4)),
            "env": st.one_of(VALUE, st.dictionaries(TEXT, TEXT, max_size=3)),
            "cwd": TEXT,
            "type": TEXT,
            "url": TEXT,
        },
    ),
)
CLIENT = st.one_of(
    st.fixed_dictionaries({"mcpServers": st.one_of(VALUE, st.dictionaries(TEXT, ENTRY, max_size=3))}),
    st.fixed_dictionaries({"servers": st.dictionaries(TEXT, ENTRY, max_size=3)}),
    st.fixed_dictionaries({"projects": st.dictionaries(TEXT, VALUE, max_size=3)}),
)
PACKAGE = st.fixed_dictionaries(
    {"registryType": st.sampled_from(["npm", "pypi", "oci", "x"]), "identifier": st.one_of(TEXT, st.just(IMAGE))},
    optional={
        "version": st.one_of(TEXT, st.just("1.2.3")),
        "fileSha256": st.one_of(TEXT, st.just("a" * 64)),
        "transport": st.one_of(VALUE, st.just({"type": "stdio"})),
        "packageArguments": st.one_of(VALUE, st.lists(st.fixed_dictionaries({"value": TEXT}), max_size=3)),
        "environmentVariables": st.lists(st.fixed_dictionaries({"name": TEXT, "value": TEXT}), max_size=3),
    },
)
DOCUMENT = st.fixed_dictionaries(
    {"name": TEXT, "packages": st.one_of(VALUE, st.lists(PACKAGE, max_size=3))}, optional={"description": TEXT}
)
OURS = [f"supervisor.{each}" for each in ("server", "profile", "summary", "tools.allow", "mount")]
LABELS = st.dictionaries(
    st.one_of(
        TEXT,
        st.sampled_from(
            ["supervisor.server", "supervisor.profile", "supervisor.summary", "supervisor.tools.allow"]
        ),
    ),
    st.one_of(TEXT, VALUE),
    max_size=5,
)
CONTAINER = st.fixed_dictionaries(
    {},
    optional={
        "Id": st.one_of(VALUE, st.just("a" * 64)),
        "Names": st.one_of(VALUE, st.lists(TEXT, max_size=2)),
        "Image": st.one_of(VALUE, st.just("localhost/a")),
        "ImageID": st.just("a" * 64),
        "Labels": st.one_of(VALUE, LABELS),
    },
)
GRANTS_NOTHING = {"profile", "command", "image", "env", "summary", "tools", "prompts", "resources"}
MANY = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))


def usable(proposals: list[Proposal]) -> None:
    """Remembered, told and filed without an error, and the same when it is read again."""
    looked = [found("source", proposals)]
    rows, memory = state.compare(state.Memory(), looked)
    state.parse("memory", memory.model_dump_json().encode())
    for each in (row.proposal for row in rows):
        json.dumps([each.name, each.fields, each.why, each.refused])
        assert "\x1b" not in printable("".join([each.name, each.place, each.refused, *each.why]))
        if each.refused:
            assert each.fields == {}
            continue
        text = denied.head(each.fields) + written.render("name", each.fields)
        assert tomllib.loads(text)["server"]["name"] == each.fields
        parsed(toml.parse("request", text.encode()))
        assert each.fields.keys() <= GRANTS_NOTHING


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(str(tmp_path), str(tmp_path), {"PATH": "/usr/bin:/bin"})


@MANY
@given(document=st.one_of(CLIENT, DOCUMENT, VALUE))
@example(document={"servers": {"x": {"command": "\0"}}})
@example(document={"servers": {"\ud800": {"command": "x", "args": {}}}})
def test_whatever_a_json_file_says(tmp_path: Path, machine: Machine, document: object) -> None:
    path = tmp_path / "mcp.json"
    path.write_text(json.dumps(document))
    usable(list(files.one_file(str(path), machine).proposals))


@MANY
@given(container=CONTAINER, bound=st.sampled_from(["none", "net-allowlist", "fs-readonly"]))
def test_whatever_an_engine_says_of_a_container(container: dict[str, object], bound: str) -> None:
    usable([labels.propose("source", container, lambda _: [IMAGE], bound)])


NUMBER = 50_000
LARGE = {
    "servers.json": '{"mcpServers":{'
    + ",".join(f'"a{each}":{{"command":"x"}}' for each in range(NUMBER // 2))
    + "}}",
    "others.json": '{"mcpServers":{' + ",".join(f'"a{each}":{{}}' for each in range(NUMBER)) + "}}",
    "servers.toml": "\n".join(
        f'[server.a{each}]\nprofile = "none"\ncommand = ["x"]' for each in range(NUMBER // 5)
    ),
    "holes.json": json.dumps({"mcpServers": {"a": {"command": "x", "args": ["${" * NUMBER * 5]}}}),
    "name.json": json.dumps({"mcpServers": {"n" * (files.LIMIT - 60): {"command": "x"}}}),
}


@pytest.mark.parametrize("name", LARGE)
def test_a_look_at_one_file_ends_soon_and_what_it_says_is_short(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(LARGE[name])
    began = time.process_time()
    looked = files.in_folder(str(tmp_path), Machine("/root", "/", {"PATH": "/usr/bin"}))
    assert time.process_time() - began < 15
    _, memory = state.compare(state.Memory(), [looked])
    assert len(memory.model_dump_json()) < 1 << 20


def test_a_long_name_is_refused_and_two_of_them_stay_two(tmp_path: Path) -> None:
    long = {"n" * 5000 + each: {"command": "/usr/bin/true"} for each in "ab"}
    (tmp_path / "a.json").write_text(json.dumps({"mcpServers": long}))
    looked = files.in_folder(str(tmp_path), Machine("/root", "/", {"PATH": "/usr/bin"}))
    assert [bool(each.refused) for each in looked.proposals] == [True, True]
    assert len({each.key for each in looked.proposals}) == 2


def test_a_folder_has_its_time_and_what_was_not_looked_at_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "SECONDS", -1)
    (tmp_path / "a.json").write_text("{}")
    looked = files.in_folder(str(tmp_path), Machine("/root", "/", {"PATH": "/usr/bin"}))
    assert "a.json and those after it" in looked.problem


@pytest.mark.parametrize("end", ["\u2028", "\u2029", "\x85"])
def test_where_a_request_was_found_is_not_for_its_server_to_say(end: str) -> None:
    fields: written.Fields = {"command": ["x", f"a{end}# found by you in /etc{end}"], "profile": "none"}
    text = denied.head(fields) + "# found by files in /w\n" + written.render("a", fields) + "# its owner's\n"
    assert requested.Request("a", "/x", text.encode()).said == ["found by files in /w"]
    line = toml.line_of(text, ("server", "a", "profile"))
    assert text.split("\n")[line - 1].startswith("profile")
