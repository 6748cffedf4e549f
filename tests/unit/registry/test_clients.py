"""Clients' files: servers are found where each client keeps them, and edits touch nothing else."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.registry import clients, jsonc
from supervisor.registry.jsonc import Object

relaxed = settings(deadline=None, database=None)
SERVER = {"command": "one", "args": ["-x"], "env": {"A": "b"}}


def tables(value: object, project: str = "") -> list[clients.Table]:
    return clients.tables(jsonc.parse(json.dumps(value), loose=True), project)


def entries(text: str) -> list[clients.Entry]:
    found = clients.tables(jsonc.parse(text, loose=True), "")
    return [each for table in found for each in clients.entries(table)]


FILES: list[tuple[object, list[clients.Path]]] = [
    ({"mcpServers": {"a": SERVER}}, [("mcpServers",)]),
    ({"servers": {"a": SERVER}, "inputs": []}, [("servers",)]),
    ({"mcp": {"servers": {"a": SERVER}}, "editor.fontSize": 12}, [("mcp", "servers")]),
    ({"mcp.servers": {"a": SERVER}}, [("mcp.servers",)]),
    ({"mcpServers": {}, "servers": {"not": "ours"}}, [("mcpServers",)]),
    ({"mcpServers": "none"}, []),
    ({"projects": {"/p": {"history": []}}}, []),
    ([1, 2], []),
    (
        {"projects": {"/p": {"mcpServers": {"a": SERVER}}}, "mcpServers": {}},
        [("mcpServers",), ("projects", "/p", "mcpServers")],
    ),
]


@pytest.mark.parametrize(("value", "paths"), FILES)
def test_servers_are_found_where_each_client_keeps_them(value: object, paths: list[clients.Path]) -> None:
    assert [each.path for each in tables(value)] == paths


def test_a_table_knows_the_folder_that_it_is_for() -> None:
    value: object = {"mcpServers": {}, "projects": {"/p": {"mcpServers": {}}}}
    assert [each.project for each in tables(value, "/own")] == ["/own", "/p"]


@pytest.mark.parametrize(
    ("path", "project", "loose"),
    [
        ("/home/u/code/.mcp.json", "/home/u/code", False),
        ("/home/u/code/.vscode/mcp.json", "/home/u/code", True),
        ("/home/u/code/.cursor/mcp.json", "/home/u/code", True),
        ("/home/u/.cursor/mcp.json", "", True),
        ("/home/u/.claude.json", "", False),
        ("/home/u/.config/Claude/claude_desktop_config.json", "", False),
        ("/home/u/.config/Code/User/settings.json", "", True),
    ],
)
def test_a_path_tells_the_project_and_the_dialect(path: str, project: str, loose: bool) -> None:
    assert clients.project(path, "/home/u") == project
    assert clients.loose(path) == loose


@pytest.mark.parametrize(
    "server",
    [
        {"url": "https://example.com/mcp"},
        {"type": "http", "url": "https://example.com/mcp", "command": "x"},
        {"serverUrl": "https://example.com/mcp"},
        {"type": "sse", "command": "x"},
        {"command": ["x"]},
        {"command": ""},
        "x",
        {},
    ],
)
def test_what_a_client_does_not_start_itself_is_no_entry(server: object) -> None:
    assert entries(json.dumps({"mcpServers": {"a": server}})) == []


def test_an_entry_is_what_a_client_would_start() -> None:
    server = {"type": "stdio", "command": "x", "args": ["a", 1], "env": {"N": 2, "B": True}, "cwd": "/c"}
    (found,) = entries(json.dumps({"mcpServers": {"a": server | {"disabled": True}}}))
    assert (found.name, found.path) == ("a", ("mcpServers", "a"))
    assert found.command == ("x", "a", "1")
    assert found.env == {"N": "2", "B": "true"}
    assert (found.cwd, found.off, found.problem) == ("/c", True, "")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"args": "x"}, '"args" is no list'),
        ({"env": ["x"]}, '"env" is no table'),
        ({"args": [["x"]]}, "no text"),
        ({"env": {"A": {}}}, "no text"),
        ({"envFile": "/x/.env"}, "envFile"),
    ],
)
def test_an_entry_that_cannot_be_taken_says_why(more: dict[str, object], says: str) -> None:
    (found,) = entries(json.dumps({"mcpServers": {"a": {"command": "x"} | more}}))
    assert says in found.problem


def test_a_name_that_is_no_text_is_told() -> None:
    (found,) = entries('{"mcpServers": {"\\ud800": {"command": "x"}}}')
    assert "UTF-8" in found.problem


@pytest.mark.parametrize(
    ("command", "ours"),
    [
        (["/usr/bin/supervisor", "run", "a"], True),
        (["supervisor", "serve"], True),
        (["/usr/bin/python3", "-m", "supervisor", "run", "a"], True),
        (["supervisor"], False),
        (["supervisor", "check"], False),
        (["supervisord", "run"], False),
        (["npx", "supervisor", "run"], False),
    ],
)
def test_an_entry_that_starts_supervisor_is_known(command: list[str], ours: bool) -> None:
    server = {"command": command[0], "args": command[1:]}
    (found,) = entries(json.dumps({"mcpServers": {"a": server}}))
    assert found.ours == ours


TEXT = """{
  // the servers
  "mcpServers": {
    "one": { // first
      "args": ["-x", /* why */ "y"], "timeout": 5,
      "command": "npx", // slow
      "env": {"TOKEN": "s"},
    },
    "two": {"command":"uvx"},
    "far": {"url": "https://example.com"},
  },
}
"""


def replaced(text: str, name: str, words: list[str]) -> str:
    (entry,) = [each for each in entries(text) if each.name == name]
    return jsonc.splice(text, clients.replace(entry, words))


def test_an_entry_is_replaced_and_nothing_around_it() -> None:
    made = replaced(TEXT, "one", ["/s", "run", "one"])
    assert made == TEXT.replace('["-x", /* why */ "y"]', '["run", "one"]').replace('"npx"', '"/s"').replace(
        '{"TOKEN": "s"}', "{}"
    )
    made = replaced(TEXT, "two", ["/s", "run", "two"])
    assert made == TEXT.replace('"uvx"', '"/s", "args": ["run", "two"]')


def gathered(text: str, names: set[str], member: str) -> str:
    (table,) = clients.tables(jsonc.parse(text, loose=True), "")
    return jsonc.splice(text, clients.gather(table.node, names, text, member))


def test_one_entry_takes_the_place_of_several_and_the_others_stay() -> None:
    made = gathered(TEXT, {"one", "two"}, '"supervisor": {}')
    assert made == TEXT[: TEXT.index('"one"')] + '"supervisor": {}' + TEXT[TEXT.index(',\n    "two"') :].replace(
        '    "two": {"command":"uvx"},\n', ""
    )


pieces = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 9)), max_size=6, unique_by=lambda each: each[0]
)
spaces = st.sampled_from(["", " ", "\n", "\n    ", "\r\n  "])


@st.composite
def objects(draw: st.DrawFn, *, loose: bool) -> tuple[str, dict[str, int]]:
    """(the text of a table with numbers for servers, those)."""
    found: dict[str, int] = dict(draw(pieces))
    text, comment = "{", " /* c */" if loose else ""
    for index, (key, value) in enumerate(found.items()):
        last = index == len(found) - 1
        comma = "" if last and not (loose and draw(st.integers(0, 1))) else ","
        text += f'{draw(spaces)}"{key}":{draw(spaces)}{value}{draw(spaces)}{comma}{comment}'
    return text + draw(spaces) + "}", found


@relaxed
@given(st.booleans().flatmap(lambda loose: st.tuples(st.just(loose), objects(loose=loose))), st.data())
def test_members_come_and_go_and_the_others_keep_their_order(
    written: tuple[bool, tuple[str, dict[str, int]]], data: st.DataObject
) -> None:
    loose, (text, values) = written
    gone = set(data.draw(st.lists(st.sampled_from(sorted(values)), max_size=6))) if values else set()
    node = jsonc.parse(text, loose=loose)
    assert isinstance(node, Object)
    left = jsonc.splice(text, clients.gather(node, gone, text, ""))
    assert numbers(left, loose=loose) == [(key, value) for key, value in values.items() if key not in gone]
    if gone:
        one = jsonc.splice(text, clients.gather(node, gone, text, '"z": 1'))
        first = next(index for index, key in enumerate(values) if key in gone)
        wanted = [(key, value) for key, value in values.items() if key not in gone]
        assert numbers(one, loose=loose) == [*wanted[:first], ("z", 1), *wanted[first:]]
    more = jsonc.splice(text, clients.insert(node, text, ['"y": 1', '"z": 2']))
    assert numbers(more, loose=loose) == [*values.items(), ("y", 1), ("z", 2)]
    assert clients.insert(node, text, []) == []


def numbers(text: str, *, loose: bool) -> list[tuple[str, int]]:
    """The members of an object of numbers, in their order."""
    node = jsonc.parse(text, loose=loose)
    assert isinstance(node, Object)
    return [(each.key, json.loads(text[each.value.start : each.value.end])) for each in node.members]
