"""What need not be looked at closely, because nothing in it could be a secret."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.audit.redact import KEYS, RULES, Redactor, Withheld
from supervisor.secrets.marks import Marks, make

SECRET = "hunter2-and-more"
anchors = [each.strip("*") for each in KEYS] + [each for rule in RULES for each in rule.anchors]
texts = st.text(max_size=6) | st.lists(
    st.sampled_from([*anchors, *map(str.upper, anchors), "a", "x" * 30, "A1" * 10, "@", "/", ".", " "]), max_size=4
).map("".join)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(values, st.booleans())
def test_what_is_harmless_is_left_as_it_is(value: object, ascii_only: bool) -> None:
    redactor, written = Redactor(), json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    if redactor.harmless(written):
        assert redactor.clean(json.loads(written)) == json.loads(written)


def test_ordinary_arguments_are_harmless() -> None:
    assert Redactor().harmless(b'{"path": "/srv/data/file.txt", "lines": [1, 2]}')


@pytest.mark.parametrize(
    "written",
    [
        b'{"api_key":"x"}',
        b'{"PIN":1}',
        b'{"a":"Bearer abcdefgh"}',
        b'{"a":"\\u0042earer abcdefgh"}',
        b'{"a":"\xc3\xa9"}',
        b"[" * 100 + b"]" * 100,
    ],
)
def test_what_may_have_a_secret_in_it_is_looked_at(written: bytes) -> None:
    assert not Redactor().harmless(written)


def test_with_secrets_that_nobody_knows_nothing_is_harmless() -> None:
    assert not Redactor(secrets=Marks(make({"API": SECRET}, b"key"))).harmless(b"{}")
    assert not Withheld().harmless(b"{}")
