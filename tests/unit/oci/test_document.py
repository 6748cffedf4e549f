"""JSON from strangers: read in the one way that every reader reads it, or refused."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.errors import Refused
from supervisor.oci.document import Reader, parse

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abcdef", max_size=4), inner, max_size=4),
    max_leaves=20,
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a":1,"a":2}', 'the key "a" appears twice'),
        ('{"x":{"a":1,"a":1}}', 'the key "a" appears twice'),
        ('{"digest":1,"Digest":2}', "differ only in case"),
        ('{"straße":1,"STRASSE":2}', "differ only in case"),
        ('{"\\u0061":1,"a":2}', "appears twice"),
        ('{"a":1.0}', "not a plain integer"),
        ('{"a":1e3}', "not a plain integer"),
        ('{"a":-0}', "not written in the one way"),
        ('{"a":12345678901234567890}', "not written in the one way"),
        ('{"a":NaN}', "not a plain integer"),
        ('{"a":Infinity}', "not a plain integer"),
        ('{"a":01}', "not JSON"),
        ('{"a":"\\ud800"}', "a lone surrogate"),
        ('{"a":1} {"b":2}', "not JSON, or not all of it"),
        ('{"a":1}\x00', "not JSON, or not all of it"),
        ("\ufeff{}", "not JSON"),
        ("[1]", "not a JSON object"),
        ("", "not JSON"),
        ('{"a":' * 40 + "1" + "}" * 40, "nested more than"),
        ('{"a":' + "[" * 100_000, "nested more than"),
        ("{'a':1}", "not JSON"),
    ],
)
def test_what_two_readers_could_understand_differently_is_refused(text: str, said: str) -> None:
    with pytest.raises(Refused, match=said):
        parse(text.encode("utf-8"), "a document")


def test_bytes_that_are_not_utf_8_or_too_many_are_refused() -> None:
    with pytest.raises(Refused, match="not UTF-8"):
        parse(b'{"a":"\xff"}', "a document")
    with pytest.raises(Refused, match="larger than 10"):
        parse(b'{"a":"0123456789"}', "a document", limit=10)


@given(st.dictionaries(st.text("abcdef", max_size=4), values, max_size=4))
def test_plain_documents_are_read_as_they_were_written(value: dict[str, object]) -> None:
    assert parse(json.dumps(value).encode(), "a document") == value


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_refusal(data: bytes) -> None:
    with contextlib.suppress(Refused):
        assert isinstance(parse(data, "a document"), dict)


@given(st.text('{}[]":,\\0123456789abtrue \n.-e', max_size=60))
def test_texts_that_almost_are_json_are_read_as_the_standard_reader_does_or_refused(text: str) -> None:
    try:
        found = parse(text.encode(), "a document")
    except Refused:
        return
    assert found == json.loads(text)


def test_a_reader_names_the_key_that_is_wrong() -> None:
    reader = Reader(parse(b'{"n":true,"t":3,"o":[],"l":[1],"x":null,"s":[1]}', "a document"), "a document")
    for read, said in (
        (lambda: reader.number("n"), '"n" must be an integer'),
        (lambda: reader.text("t"), '"t" must be a string'),
        (lambda: reader.one("o"), '"o" must be an object'),
        (lambda: reader.each("l", most=9), '"l" must be a list of objects'),
        (lambda: reader.texts("s"), '"s" must be a list'),
        (lambda: reader.text("missing"), '"missing" is missing'),
        (lambda: reader.only("n"), 'unknown key "t"'),
    ):
        with pytest.raises(Refused, match=said):
            read()
    assert reader.maybe("x") is None
    assert reader.map("x") == {}
