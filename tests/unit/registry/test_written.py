"""servers.toml as text: what is added or taken out is exactly that, and every other byte stays."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.errors import ConfigError
from supervisor.registry import written

FILE = """# my servers

# about a
[server.a]
profile = "none"  # the floor

# about b
[server.b]
profile = "fs-readonly"
[server.b.session]
idle = "1m"

# loose

# about c
[server.c]
profile = "none"
"""
relaxed = settings(deadline=None, database=None)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
fields = st.fixed_dictionaries(
    {"profile": texts},
    optional={
        "command": st.lists(texts, max_size=6),
        "env": st.dictionaries(texts, texts, max_size=3),
        "enabled": st.booleans(),
    },
)
names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,8}", fullmatch=True)


@relaxed
@given(st.dictionaries(names, fields, max_size=4), names, fields)
def test_a_server_is_added_behind_what_is_there(
    there: dict[str, written.Fields], name: str, table: written.Fields
) -> None:
    before = "# mine\n" + "\n".join(written.render(each, value) for each, value in there.items())
    if name in there:
        with pytest.raises(ConfigError):
            written.add(before, name, table)
        return
    made = written.add(before, name, table)
    assert made.startswith(before)
    assert written.servers(made) == there | {name: table}


@relaxed
@given(st.dictionaries(names, fields, min_size=1, max_size=4))
def test_what_was_added_last_is_taken_out_without_a_trace(tables: dict[str, written.Fields]) -> None:
    text = "# mine\n"
    states = [text]
    for name, table in tables.items():
        text = written.add(text, name, table, comment="from somewhere")
        states.append(text)
    for name in reversed(tables):
        assert states.pop() == text
        text = written.remove(text, name)
    assert text == "# mine\n"


@relaxed
@given(st.dictionaries(names, fields, min_size=2, max_size=4), st.data())
def test_the_others_stay_byte_for_byte(tables: dict[str, written.Fields], data: st.DataObject) -> None:
    blocks = {name: f"# about {name}\n{written.render(name, table)}\n" for name, table in tables.items()}
    gone = data.draw(st.sampled_from(sorted(blocks)))
    made = written.remove("# mine\n\n" + "".join(blocks.values()), gone)
    for name, block in blocks.items():
        assert (block.rstrip() in made) == (name != gone)
    assert made.startswith("# mine\n")


def test_a_comment_goes_with_the_table_below_it() -> None:
    about_b = FILE[FILE.index("# about b") : FILE.index("\n# loose")]
    assert written.remove(FILE, "b") == FILE.replace(about_b, "")
    about_c = FILE[FILE.index("\n# about c") :]
    assert written.remove(FILE, "c") == FILE.replace(about_c, "")


def test_what_a_file_begins_with_is_about_the_file() -> None:
    text = '# my servers\n[server.a]\nprofile = "none"\n'
    assert written.remove(text, "a") == "# my servers\n"


@pytest.mark.parametrize(
    "text",
    [
        '[server]\na = { profile = "x" }\nb = { profile = "y" } # kept\n',
        'server.a.profile = "x"\nserver.b.profile = "y"\n',
        '[server.b]\nprofile = """\n[server.a]\n"""\n[server.a]\nprofile = "x"\n',
        '[server.a.session]\nidle = "1m"\n[server.b]\nprofile = "y"\n[server.a]\nprofile = "x"\n',
        "[ server . 'a' ]\nprofile = 'x'\n[server.b]\nprofile = 'y'\n",
        '[server.a]\nprofile = "x"\ncommand = [\n["x"],\n]\n[server.b]\nprofile = "y"\n',
    ],
)
def test_a_server_is_taken_out_however_it_is_written(text: str) -> None:
    made = written.remove(text, "a")
    assert written.servers(made) == {"b": written.servers(text)["b"]}
    assert ("# kept" in made) == ("# kept" in text)


def test_the_ends_of_lines_stay_as_they_are() -> None:
    text = '[server.a]\r\nprofile = "none"\r\n'
    made = written.add(text, "b", {"profile": "none", "command": ["x"]})
    assert made.count("\n") == made.count("\r\n") == 6
    assert written.remove(made, "b") == text


def test_a_file_without_a_last_newline_gets_one_before_the_next_table() -> None:
    made = written.add('[server.a]\nprofile = "x"', "b", {"profile": "y"})
    assert made == '[server.a]\nprofile = "x"\n\n[server.b]\nprofile = "y"\n'


def test_where_no_table_can_be_added_the_text_is_refused() -> None:
    with pytest.raises(ConfigError, match='server "b" cannot be added'):
        written.add('server = { a = { profile = "x" } }\n', "b", {"profile": "y"})


def test_a_long_command_is_written_over_several_lines() -> None:
    made = written.render("a", {"command": ["x" * 60, "y" * 60]})
    assert max(map(len, made.splitlines())) < 80
    assert tomllib.loads(made)["server"]["a"]["command"] == ["x" * 60, "y" * 60]
