"""Arguments of `supervisor call`, typed by the tool's schema."""

from __future__ import annotations

import pytest

from supervisor.errors import ConfigError
from supervisor.proxy import client

SCHEMA = {
    "properties": {
        "path": {"type": "string"},
        "limit": {"type": "integer"},
        "deep": {"type": "boolean"},
        "either": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "list": {"type": ["array", "null"]},
    }
}


def test_text_stays_text_and_the_rest_is_json() -> None:
    pairs = ["path=1", "limit=3", "deep=true", "either=null", "list=[1]", "other=x=y"]
    assert client.arguments(pairs, SCHEMA) == {
        "path": "1",
        "limit": 3,
        "deep": True,
        "either": None,
        "list": [1],
        "other": "x=y",
    }


def test_json_can_be_given_for_anything() -> None:
    assert client.arguments(['path:={"a": 1}'], SCHEMA) == {"path": {"a": 1}}


@pytest.mark.parametrize("pair", ["path", "=x", "limit=three", "a:={"])
def test_what_is_no_argument_is_named(pair: str) -> None:
    with pytest.raises(ConfigError):
        client.arguments([pair], SCHEMA)


def test_a_missing_tool_is_answered_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r'no tool "c"; it has: a, b'):
        client.find_tool([{"name": "b"}, {"name": "a"}], "c")
