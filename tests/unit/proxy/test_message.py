"""Messages as tables of raw values: every value passes as it was written, and no bytes at all raise."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.proxy import message

# half a character is legal in an escape, and text of Python's own cannot be written otherwise
texts = st.text(st.characters(exclude_categories=["Co"]))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=10,
)
names = st.text(st.characters(exclude_categories=("Cs", "Co")))
bounded = settings(max_examples=40, deadline=None)
NEST = 100_000


@bounded
@given(st.dictionaries(names, values))
def test_every_value_of_a_message_passes_as_it_was_written(table: dict[str, object]) -> None:
    parts = {name: json.dumps(value).encode() for name, value in table.items()}
    line = b"{" + b",".join(json.dumps(name).encode() + b" : " + part for name, part in parts.items()) + b"}\n"
    found = message.incoming(line)
    assert found is not None
    assert {name: bytes(value) for name, value in found.items()} == parts
    assert json.loads(message.line(found)) == table
    assert message.line(found).count(b"\n") == 1


@bounded
@given(st.lists(values))
def test_every_element_of_a_list_passes_as_it_was_written(elements: list[object]) -> None:
    parts = [json.dumps(each).encode() for each in elements]
    assert [bytes(each) for each in message.items(msgspec.Raw(b"[" + b" , ".join(parts) + b"]"))] == parts


words = st.sampled_from(
    ["id", "ID", "method", "params", "Params", "jsonrpc", "name", "Name", "arguments", "_meta", "x"]
)
members = st.lists(
    st.tuples(
        words, st.sampled_from(["7", '"a"', '"tools/call"', '"2.0"', '{"name":"t","arguments":{"a":"b"}}', "null"])
    ),
    max_size=2,
)


@bounded
@given(members, members, st.booleans(), st.sampled_from(["", " ", "\n", "\r", "\u00e9"]))
def test_the_short_way_to_a_call_says_what_the_long_one_says(
    more: list[tuple[str, str]], within: list[tuple[str, str]], last: bool, between: str
) -> None:
    def written(own: list[tuple[str, str]], others: list[tuple[str, str]]) -> str:
        both = own + others if last else others + own
        return "{" + ("," + between).join(f'"{name}":{value}' for name, value in both) + "}"

    params = written([("name", '"echo"'), ("arguments", '{"text": "x"}')], within)
    own = [("jsonrpc", '"2.0"'), ("id", "7"), ("method", '"tools/call"'), ("params", params)]
    line = written(own, more).encode() + b"\n"
    short, long = message.usual(line), message.incoming(line)
    if short is None:
        assert more or within or between not in ("", " ")
        return
    assert long is not None
    assert long.keys() == {"jsonrpc", "id", "method", "params"}
    assert (long["jsonrpc"], long["method"], long["id"]) == (message.TWO, message.CALL, short.id)
    found = message.fields(long["params"])
    assert found is not None
    assert found.keys() == {"name", "arguments"}
    assert not message.ambiguous(found)
    assert (message.text(found["name"]), found["arguments"]) == (short.params.name, short.params.arguments)


@bounded
@given(st.binary() | st.builds(lambda a, b: b'{"a":' + a + b"}" + b, st.binary(), st.binary()))
def test_no_bytes_raise(data: bytes) -> None:
    raw = msgspec.Raw(data)
    table = message.incoming(data)
    assert table is None or isinstance(json.loads(message.line(table)), dict)
    message.fields(raw)
    message.text(raw)
    message.items(raw)
    message.identifier(raw)
    message.repaired(data)
    message.wrong(data)


@pytest.mark.parametrize(
    "line",
    [
        rb'{"a":"\ud800","b":1.50,"c":{"d":"\uDC00x\ud83d\ude00"}}',
        rb'{"a":"\\ud800 is no escape","b":"\uD800"}',
        b'{"a":1e999,"b":-0,"c":1E+5,"d":12345678901234567890123,"e":0.10}',
        '{"a":"\u2028\u0085é","é":"\\u00e9"}'.encode(),
    ],
)
def test_values_are_not_looked_into(line: bytes) -> None:
    found = message.incoming(line)
    assert found is not None
    pairs = json.loads(line, parse_float=str, parse_int=str)
    assert list(found) == list(pairs)
    inner = b",".join(b'"%s":%s' % (name.encode(), bytes(value)) for name, value in found.items())
    assert b"{" + inner + b"}" == line


@pytest.mark.parametrize(
    "line",
    [
        b'{"\xff":1}',
        b'{"a":"\xff"}',
        b'{"a":{"b":"\xed\xa0\x80"}}',
        rb'{"\ud800":1}',
        rb'{"a":"\ud800","b":"\ue800"}',
        b'{"a":"x\r"}',
        b'{"a":"x\ny"}',
        b'{"a":01}',
        b'{"a":NaN}',
        b'{"a":1,}',
        b'\xef\xbb\xbf{"a":1}',
        b'{"a":' + b"[" * NEST + b"]" * NEST + b"}",
        b"[" * NEST,
        b"{}{}",
        b"",
    ],
)
def test_what_is_no_object_in_utf_8_is_none(line: bytes) -> None:
    assert message.incoming(line) is None


@pytest.mark.parametrize("end", [b"\r", b"\n", b"\r\n"])
def test_nothing_between_two_tokens_ends_a_line(end: bytes) -> None:
    smuggled = b'{"jsonrpc":"2.0","id":1,"method":"tools/call"}'
    line = b'{"method":"ping","params":{"x":[' + end + smuggled + end + b"]}" + end + b"}" + end
    found = message.incoming(line)
    assert found is not None
    out = message.line(found)
    assert out.splitlines() == [out.rstrip(b"\n")]
    assert json.loads(out) == json.loads(line)


def test_what_is_not_utf_8_can_be_read_as_a_lenient_reader_does() -> None:
    found = message.repaired(b'{"id":7,"a":"caf\xe9"}')
    assert found is not None
    assert message.text(found["a"]) == "caf\ufffd"


@pytest.mark.parametrize("name", ["ID", "Method", "PARAMS", "param\u017f", "re\u017fult", "jSoNrPc"])
def test_what_could_be_read_as_another_message_is_none(name: str) -> None:
    line = json.dumps({"id": 1, "x": 2, name: 3}).encode()
    assert message.incoming(line) is None
    assert message.incoming(line.replace(name.encode("unicode_escape"), b"x-" + name.encode("unicode_escape")))


@pytest.mark.parametrize("name", ["Name", "URI", "ArgumentS", "_META"])
def test_params_that_differ_in_case_only_are_noticed(name: str) -> None:
    assert message.ambiguous({"name": message.TWO, name: message.TWO})
    assert not message.ambiguous({"name": message.TWO, "names": message.TWO})


@pytest.mark.parametrize(
    ("written", "key"),
    [
        (b"1", b"1"),
        (b"-0", b"-0"),
        (b"1" * 400, b"1" * 400),
        (b'"1"', b'"1"'),
        (b'""', b'""'),
        (rb'"\u0061\/"', b'"a/"'),
        (rb'"\u00e9"', '"é"'.encode()),
        (b"1.0", None),
        (b"1e3", None),
        (b"null", None),
        (b"true", None),
        (b"{}", None),
        (rb'"\ud800"', None),
    ],
)
def test_an_id_has_one_spelling(written: bytes, key: bytes | None) -> None:
    assert message.identifier(msgspec.Raw(written)) == key


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        (b"nothing", (None, message.PARSE_ERROR)),
        (b"[]", (None, message.INVALID_REQUEST)),
        (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', (None, message.INVALID_REQUEST)),
        (b'{"id":1,"method":"x","params":[]}', (b"1", message.INVALID_REQUEST)),
        (b'{"id":1,"method":5}', (b"1", message.INVALID_REQUEST)),
        (b'{"method":5}', (None, message.INVALID_REQUEST)),
        (b'{"id":1}', (None, message.INVALID_REQUEST)),
        (b'{"id":1,"method":"caf\xe9"}', (b"1", message.PARSE_ERROR)),
        (b'{"method":"notifications/x","params":[]}', None),
        (b'{"id":1,"result":{}}', None),
        (b'{"id":1,"error":{}}', None),
    ],
)
def test_what_is_no_message_is_answered_once_or_never(line: bytes, answer: tuple[bytes | None, int] | None) -> None:
    found = message.wrong(line)
    assert (found and found[:2]) == answer


def test_an_error_of_ours_is_one_line() -> None:
    line = message.error(b'"a"', -1, 'said "no"\n', {"uri": "x"})
    assert line.count(b"\n") == 1
    assert json.loads(line)["error"] == {"code": -1, "message": 'said "no"\n', "data": {"uri": "x"}}
