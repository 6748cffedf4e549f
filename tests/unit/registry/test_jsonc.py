"""JSON with places: everything that is JSON is taken, and every value is where it says it is."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.registry import jsonc
from supervisor.registry.jsonc import Array, Node, NotJson, Object, Text, Word

relaxed = settings(deadline=None, database=None)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
gaps = st.lists(st.sampled_from([" ", "\n", "\t", "\r\n", "// note\n", '/* a * / " */', "//\n"]), max_size=3).map(
    "".join
)


def meant(node: Node) -> object:
    """What the json module would have made of it."""
    if isinstance(node, Object):
        return {each.key: meant(each.value) for each in node.members}
    if isinstance(node, Array):
        return [meant(each) for each in node.items]
    if isinstance(node, Text):
        return node.value
    assert isinstance(node, Word)
    return json.loads(node.raw)


def parsed_string(text: str, start: int) -> object:
    """The text in quotes that begins there."""
    return json.JSONDecoder().raw_decode(text, start)[0]


def check_places(text: str, node: Node) -> None:
    """Each value's text, taken alone, is that value; each key and comma is where it is said to be."""
    assert meant(jsonc.parse(text[node.start : node.end], loose=True)) == meant(node)
    for each in node.items if isinstance(node, Array) else ():
        check_places(text, each)
    for member in node.members if isinstance(node, Object) else ():
        assert parsed_string(text, member.start) == member.key
        assert member.comma < 0 or text[member.comma] == ","
        check_places(text, member.value)


@st.composite
def spelled(draw: st.DrawFn) -> tuple[str, object]:
    """(a text with comments and last commas, what it means)."""

    def gap() -> str:
        return str(draw(gaps))

    def last(value: object) -> str:
        return "," if value and bool(draw(st.integers(0, 1))) else gap()

    def spell(value: object) -> str:
        if isinstance(value, list):
            inner = ",".join(f"{gap()}{spell(each)}{gap()}" for each in value)
            return f"[{inner}{last(value)}]"
        if isinstance(value, dict):
            pairs = (f"{gap()}{json.dumps(key)}{gap()}:{gap()}{spell(each)}{gap()}" for key, each in value.items())
            return f"{{{','.join(pairs)}{last(value)}}}"
        return json.dumps(value)

    value: object = draw(values)
    return f"{gap()}{spell(value)}{gap()}", value


@relaxed
@given(values, st.sampled_from([None, 1, "\t"]), st.booleans())
def test_whatever_json_writes_is_read_as_it_is_meant(
    value: object, indent: int | str | None, ascii_only: bool
) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    node = jsonc.parse(text, loose=False)
    assert meant(node) == value
    check_places(text, node)


@relaxed
@given(spelled())
def test_comments_and_last_commas_change_nothing(written: tuple[str, object]) -> None:
    text, value = written
    node = jsonc.parse(text, loose=True)
    assert meant(node) == value
    check_places(text, node)


@relaxed
@given(st.text(st.sampled_from('{}[]:,"\\/* \n\tabtrue1.e-+'), max_size=30))
def test_what_json_refuses_is_refused(text: str) -> None:
    try:
        wanted, ok = json.loads(text), True
    except ValueError:
        wanted, ok = None, False
    try:
        found: Node | None = jsonc.parse(text, loose=False)
    except NotJson as error:
        found, place = None, error.position
    else:
        place = -1
    assert (found is not None) == ok
    assert meant(found) == wanted if found else 0 <= place <= len(text)


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        ("", "1:1", "the end of the file"),
        ('{"a": 1,}', "1:8", "a comma behind the last element"),
        ('{"a": 1 // one\n}', "1:9", "a comment, which the program"),
        ('{\n  "a" 1}', "2:7", '":" is expected here, not "1"'),
        ("{a: 1}", "1:2", "a key in quotes"),
        ('{"a": tru}', "1:7", "a value is expected here"),
        ('{"a": truely}', "1:7", "a value is expected here"),
        ('{"a": 01}', "1:7", "a value is expected here"),
        ('{"a": "b\nc"}', "1:7", "does not end on its line"),
        ('{"a": "\\x"}', "1:7", "a backslash"),
        ('{"a": 1} x', "1:10", "the end of the file"),
        ('{"a": [1, 2}', "1:12", '"," or "]"'),
        ('{"a": 1', "1:8", "not the end of the file"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text: str, place: str, says: str) -> None:
    with pytest.raises(NotJson) as raised:
        jsonc.parse(text, loose=False)
    assert jsonc.place(text, raised.value.position) == place
    assert says in str(raised.value)


def test_a_comment_that_does_not_end_is_told() -> None:
    with pytest.raises(NotJson, match="a comment that does not end"):
        jsonc.parse('{ /* "a": 1}', loose=True)


def test_a_text_that_is_nested_without_end_is_refused() -> None:
    assert jsonc.parse("[" * jsonc.DEPTH + "]" * jsonc.DEPTH, loose=False)
    for text in ("[" * 100_000, '{"a":' * 100_000):
        with pytest.raises(NotJson, match="nested too deeply"):
            jsonc.parse(text, loose=False)


def test_numbers_keep_their_spelling() -> None:
    digits = "9" * 5000
    node = jsonc.parse(f"[1.0, 1, -0, 1E5, {digits}]", loose=False)
    assert node.plain() == [("1.0",), ("1",), ("-0",), ("1E5",), (digits,)]


def test_a_key_that_is_written_twice_is_no_answer() -> None:
    node = jsonc.parse('{"a": 1,\n "a": 2, "b": 3}', loose=False)
    assert jsonc.find(node, ["b"]) == Word(23, 24, "3")
    assert jsonc.find(node, ["b", "c"]) is jsonc.find(node, ["c"]) is None
    with pytest.raises(NotJson, match='"a" is written twice') as raised:
        jsonc.find(node, ["a"])
    assert raised.value.position == 10


@relaxed
@given(st.text(max_size=30), st.data())
def test_what_lies_between_splices_stays(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pairs = list(zip(cuts[::2], cuts[1::2], strict=False))
    splices = [(start, end, f"<{start}>") for start, end in pairs]
    done, wanted = 0, ""
    for start, end in pairs:
        wanted += text[done:start] + f"<{start}>"
        done = end
    assert jsonc.splice(text, reversed(splices)) == wanted + text[done:] or len(set(pairs)) != len(pairs)


def test_splices_that_overlap_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="overlap"):
        jsonc.splice("abcdef", [(0, 3, ""), (2, 4, "")])


@pytest.mark.parametrize("around", [("/*", "*/ 1"), ("//", "\n 1"), ("/*", "**/ 1"), ('"', '"')])
def test_a_long_comment_takes_no_more_memory_than_its_text(around: tuple[str, str]) -> None:
    code = f"""
import resource
from supervisor.registry import jsonc
before, after = {around!r}
text = before + "*xx" * (3 << 20) + chr(92) * (3 << 20) + after
resource.setrlimit(resource.RLIMIT_AS, (300 << 20, 300 << 20))
jsonc.parse(text, loose=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
