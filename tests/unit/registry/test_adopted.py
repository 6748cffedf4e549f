"""What was adopted comes back byte for byte, and what was edited meanwhile stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.errors import ConfigError, Refused
from supervisor.registry import adopted, clients, jsonc
from supervisor.registry.adopted import Place, Record

relaxed = settings(deadline=None, database=None)
WORDS = ["/usr/bin/supervisor", "run", "x"]
SERVE = '"supervisor": {"command": "/usr/bin/supervisor", "args": ["serve"]}'
TEXT = """{
  "mcpServers": {
    "one": {
      "command": "npx", // slow
      "args": ["-y", "one"],
      "env": {"TOKEN": "s"}
    },
    "far": {"url": "https://example.com"}, // far away
    "two": {"command": "uvx"}
  },
  "other": 1
}
"""


def run(text: str) -> tuple[str, list[Place]]:
    """Every entry replaced."""
    splices, places = [], []
    for table in clients.tables(jsonc.parse(text, loose=True), ""):
        for each in clients.entries(table):
            found = clients.replace(each, WORDS)
            was = text[each.node.start : each.node.end]
            inside = [(start - each.node.start, end - each.node.start, new) for start, end, new in found]
            places.append(Place(path=each.path, was=was, now=jsonc.splice(was, inside), servers=(each.name,)))
            splices += found
    return jsonc.splice(text, splices), places


def gather(text: str) -> tuple[str, list[Place]]:
    """One entry for all of a table."""
    splices, places = [], []
    for table in clients.tables(jsonc.parse(text, loose=True), ""):
        names = [each.name for each in clients.entries(table)]
        node = table.node
        if names:
            found = clients.gather(node, set(names), text, SERVE)
            was = text[node.start : node.end]
            inside = [(start - node.start, end - node.start, new) for start, end, new in found]
            now = jsonc.splice(was, inside)
            places.append(Place(path=table.path, was=was, now=now, servers=tuple(names), gateway=True))
            splices += found
    return jsonc.splice(text, splices), places


def back(text: str, places: list[Place]) -> tuple[str, list[str]]:
    said = []
    for each in reversed(places):
        text, problem = adopted.put_back(text, each, loose=True)
        said += [problem] if problem else []
    return text, said


def tables_of(text: str) -> list[clients.Table]:
    return clients.tables(jsonc.parse(text, loose=False), "")


plain = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
server = st.fixed_dictionaries(
    {"command": st.text(min_size=1, max_size=8)},
    optional={
        "args": st.lists(st.text(max_size=5), max_size=3),
        "env": st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2),
        "disabled": st.booleans(),
        "x": plain,
    },
)
table = st.dictionaries(
    st.text(max_size=5), server | st.fixed_dictionaries({"url": st.text(min_size=1)}), max_size=4
)
files = st.fixed_dictionaries(
    {"mcpServers": table},
    optional={
        "other": plain,
        "projects": st.dictionaries(st.text(max_size=5), st.fixed_dictionaries({"mcpServers": table}), max_size=2),
    },
)
spellings = st.tuples(st.sampled_from([None, 1, 4, "\t"]), st.booleans(), st.sampled_from(["\n", "\r\n"]))


@relaxed
@given(files, spellings, st.sampled_from([run, gather]))
def test_adopt_and_release_are_the_identity_on_bytes(
    value: object, spelling: tuple[int | str | None, bool, str], adopt: object
) -> None:
    indent, ascii_only, newline = spelling
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only).replace("\n", newline)
    made, places = run(text) if adopt is run else gather(text)
    assert back(made, places) == (text, [])


@relaxed
@given(files, spellings, st.sampled_from([run, gather]))
def test_nothing_outside_the_tables_changes(
    value: dict[str, object], spelling: tuple[int | str | None, bool, str], adopt: object
) -> None:
    indent, ascii_only, newline = spelling
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only).replace("\n", newline)
    made, places = run(text) if adopt is run else gather(text)
    for each in places:
        was, now = (jsonc.find(jsonc.parse(every, loose=False), each.path) for every in (text, made))
        assert was
        assert now
        assert made[now.start : now.end] == each.now
    inside = [[(each.node.start, each.node.end, "") for each in tables_of(every)] for every in (text, made)]
    assert jsonc.splice(text, inside[0]) == jsonc.splice(made, inside[1])


@relaxed
@given(files)
def test_of_an_entry_only_command_arguments_and_variables_change(value: dict[str, object]) -> None:
    made, _ = run(json.dumps(value))
    for before, after in zip(tables_of(json.dumps(value)), tables_of(made), strict=True):
        for old, new in zip(before.node.members, after.node.members, strict=True):
            was, now = json.loads(json.dumps(value)), json.loads(made)
            for key in before.path:
                was, now = was[key], now[key]
            entry, wanted = now[old.key], was[old.key]
            if "url" not in wanted:
                wanted |= {"command": WORDS[0], "args": WORDS[1:]} | ({"env": {}} if "env" in wanted else {})
            assert (new.key, entry) == (old.key, wanted)


@relaxed
@given(files)
def test_a_client_that_rewrites_its_file_changes_nothing_about_the_servers(value: object) -> None:
    made, places = run(json.dumps(value))
    rewritten = json.dumps(json.loads(made), indent=3)
    text, said = back(rewritten, places)
    assert (json.loads(text), said) == (value, [])


@pytest.mark.parametrize("adopt", [run, gather])
def test_comments_come_back_with_the_rest(adopt: object) -> None:
    made, places = run(TEXT) if adopt is run else gather(TEXT)
    assert "npx" not in made
    assert "// far away" in made
    assert back(made, places) == (TEXT, [])


def test_an_entry_that_was_edited_gets_back_what_was_taken_from_it() -> None:
    made, places = run(TEXT)
    edited = made.replace('"env": {}', '"env": {"MINE": "1"}, "disabled": true').replace(
        '"two": {', '"two": {"timeout": 3, '
    )
    text, said = back(edited, places)
    wanted = TEXT.replace('"env": {"TOKEN": "s"}', '"env": {"TOKEN": "s"}, "disabled": true')
    assert text == wanted.replace('"two": {', '"two": {"timeout": 3, ')
    assert len(said) == 2
    assert all("was edited since" in each for each in said)


def test_a_variable_that_the_client_threw_away_comes_back() -> None:
    made, places = run(TEXT)
    text, _ = back(made.replace(',\n      "env": {}', ', "x": 1'), places)
    value = jsonc.find(jsonc.parse(text, loose=True), ("mcpServers", "one", "env"))
    assert value
    assert value.plain() == {"TOKEN": "s"}


def test_an_entry_that_is_somebody_elses_now_stays() -> None:
    made, places = run(TEXT)
    edited = made.replace('["run", "x"]', '["run", "another"]', 1)
    text, said = back(edited, places)
    assert '["run", "another"]' in text
    assert '"two": {"command": "uvx"}' in text
    assert said == ["is no longer what adopt left: it stays as it is"]


def test_an_entry_that_is_gone_stays_gone() -> None:
    made, places = run(TEXT)
    start, end = made.index('    "one"'), made.index('    "far"')
    text, said = back(made[:start] + made[end:], places)
    assert '"one"' not in text
    assert said == ["is no longer there"]


def test_a_table_that_was_edited_gets_its_servers_back() -> None:
    made, places = gather(TEXT)
    edited = made.replace('"far"', '"further"').replace(
        '"supervisor": {', '"new": {"command": "n"},\n    "supervisor": {'
    )
    text, said = back(edited, places)
    value = json.loads(text.replace("// far away", "").replace("// slow", ""))["mcpServers"]
    assert list(value) == ["new", "one", "two", "further"]
    assert value["one"]["env"] == {"TOKEN": "s"}
    assert len(said) == 1


def test_a_table_without_our_entry_gets_its_servers_back_too() -> None:
    made, places = gather(TEXT)
    text, _ = back(made.replace(SERVE + ",", ""), places)
    node = jsonc.find(jsonc.parse(text, loose=True), ("mcpServers",))
    assert node
    assert set(node.plain()) == {"one", "far", "two"}


def test_putting_back_twice_is_the_same_as_once() -> None:
    for made, places in (run(TEXT), gather(TEXT)):
        assert back(back(made, places)[0], places) == (TEXT, [])


def record(file: str) -> Record:
    return Record(file=file, backup=f"{file}.b", places=(), servers={"a": {"profile": "none", "command": ["x"]}})


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    assert adopted.read(str(path)) is None
    path.write_text(record("/f").model_dump_json())
    path.chmod(0o600)
    assert adopted.read(str(path)) == record("/f")


@pytest.mark.parametrize("text", ["", "[]", '{"version": 2}', '{"colour": 1}'])
def test_a_record_that_is_none_is_told(text: str, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=r"r\.json: "):
        adopted.read(str(path))


def test_a_record_that_others_can_write_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(record("/f").model_dump_json())
    path.chmod(0o666)
    with pytest.raises(Refused, match="others can write it"):
        adopted.read(str(path))


def test_the_records_of_other_files_are_found(tmp_path: Path) -> None:
    registry = str(tmp_path / "servers.toml")
    assert adopted.others(registry, "/f") == []
    (tmp_path / adopted.FOLDER).mkdir()
    for file in ("/f", "/g"):
        path = Path(adopted.record_path(registry, file))
        path.write_text(record(file).model_dump_json())
        path.chmod(0o600)
    assert [each.file for each in adopted.others(registry, "/f")] == ["/g"]
