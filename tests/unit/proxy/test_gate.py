"""Lines in which somebody else could read another message than we do."""

from __future__ import annotations

import pytest

from supervisor.proxy.gate import objection

CALL = b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"x","arguments":{}}}'


@pytest.mark.parametrize(
    "line",
    [
        CALL,
        CALL + b"\r\n",
        b"[" + CALL + b"]",
        CALL.replace(b",", b",\r ").replace(b'"name":', b'"name"\r:\r'),
        CALL.replace(b'"arguments"', b'"x-call":1,"arguments"'),
        b'{"jsonrpc":"2.0","method":"notifications/x","x-odd":"\xe2\x80\xa8"}',
        b'{"jsonrpc":"2.0","id":1,"result":{"Method":"tools/call"}}',
        b'{"jsonrpc":"2.0","method":"vendor/told","params":{"Name":1}}',
        CALL.replace(b":", b" : ").replace(b'"name"', b'"n\\u0061me"'),
        b'{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"x","arguments":{"a":1,"a":2}}}',
    ],
)
def test_what_is_one_thing_to_everybody_passes(line: bytes) -> None:
    assert objection(line) == ""


@pytest.mark.parametrize(
    "line",
    [
        CALL.replace(b'"id":7,', b""),
        CALL.replace(b'"id"', b'"ID"'),
        CALL.replace(b'"method":"tools/call"', b'"method":"ping","Method":"tools/call"'),
        CALL.replace(b'"name":"x"', b'"name":"x","Name":"y"'),
        CALL.replace(b'"name":"x"', b'"name":"\xff"'),
        CALL.replace(b'"method":"tools/call"', b'"method":"tools/call","method":"ping"'),
        CALL.replace(b'"method":"tools/call"', b'"method":"ping" , "m\\u0065thod":"tools/call"'),
        CALL.replace(b'"name":"x"', b'"name":"x","name":"y"'),
        CALL.replace(b'{"name":"x","arguments":{}}', b'["x",{}]'),
        CALL.replace(b'"tools/call"', b'["tools/call"]'),
        CALL.replace(b'"id":7,', b"").replace(b'"tools/call"', b'[["tools/call"]]'),
        CALL.replace(b'"tools/call"', b'"tools/\\ud800"'),
        CALL.replace(b'"x"', b'["x"]'),
        CALL.replace(b'"x"', b'"\\udc00"'),
        b'{"jsonrpc":"2.0","method":"tasks/result","params":{"taskId":"1"}}',
        b"[" + CALL + b"," + CALL.replace(b'"id"', b'"Id"') + b"]",
        b'  [{"jsonrpc":"2.0","method":"prompts/get","params":{"name":"x"}}]',
    ],
)
def test_what_is_not_is_refused_with_the_reason(line: bytes) -> None:
    assert objection(line)
