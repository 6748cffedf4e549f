"""Envelopes: what is looked at, and that nothing else is."""

from __future__ import annotations

import json

import pytest

from supervisor.proxy import envelope


@pytest.mark.parametrize(
    ("line", "asks", "answers"),
    [
        (b'{"jsonrpc":"2.0","id":1,"method":"ping"}', True, False),
        (b'{"id":"a","result":{}}', False, True),
        (b'{"id":null,"error":{}}', False, True),
        (b'{"method":"notifications/x"}', False, False),
        (b'[{"id":1,"method":"x"}]', False, False),
    ],
)
def test_requests_and_responses_are_told_apart(line: bytes, *, asks: bool, answers: bool) -> None:
    head = envelope.parse(line)
    assert head
    assert (head.is_request, head.is_response) == (asks, answers)


@pytest.mark.parametrize("line", [b"", b"x", b"1", b'"a"', b"[]", b"null", b"\xff", b'{"id":1', b"[" * 100_000])
def test_what_is_no_message_is_none(line: bytes) -> None:
    assert envelope.parse(line) is None


def test_an_id_keeps_its_spelling() -> None:
    numbers = [envelope.parse(line) for line in (b'{"id":1,"method":"x"}', b'{"id":"1","method":"x"}')]
    assert [envelope.key(each) for each in numbers if each] == [b"1", b'"1"']


def test_an_error_of_ours_is_one_line_of_json() -> None:
    line = envelope.error(b'"a"', envelope.SERVER_ENDED, 'said "no"\n')
    assert line.count(b"\n") == 1
    assert json.loads(line) == {
        "jsonrpc": "2.0",
        "id": "a",
        "error": {"code": envelope.SERVER_ENDED, "message": 'said "no"\n'},
    }
