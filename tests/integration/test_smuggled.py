"""Calls that a client hides in a message from whoever writes them down: nothing is done that is not recorded."""

from __future__ import annotations

import json

import pytest

from tests.integration.adversary import program, receive, send, started

# as the official Python SDK reads its lines, with the cases of keys folded, as Go's decoder does, and with methods
# looked up as JavaScript does, to which a list of one text is that text
SERVER = """
import io, json, sys
for line in io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8"):
    try: message = {key.lower(): value for key, value in json.loads(line).items()}
    except ValueError: continue
    done = {"jsonrpc": "2.0", "method": "notifications/DONE"}
    if message.get("method") in ("tools/call", ["tools/call"]): print(json.dumps(done), flush=True)
    print(json.dumps({"jsonrpc": "2.0", "id": message.get("id"), "result": {}}), flush=True)
"""
CALL = b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"x","arguments":{}}}'
HIDDEN = {
    "between carriage returns": b'{"jsonrpc":"2.0","method":"notifications/x","params":{"x":\r' + CALL + b"\r}}",
    "without an id": CALL.replace(b'"id":7,', b""),
    "with an ID": CALL.replace(b'"id"', b'"ID"'),
    "with a Method": CALL.replace(b'"method":"tools/call"', b'"method":"ping","Method":"tools/call"'),
    "by a list": CALL.replace(b'"tools/call"', b'["tools/call"]'),
    "in a batch": b"[" + CALL.replace(b'"id"', b'"Id"') + b"]",
}


@pytest.mark.parametrize("way", HIDDEN)
def test_a_hidden_call_is_not_made_and_the_connection_lives(way: str) -> None:
    with started("run", "-q", "--profile", "none", "--", *program(SERVER)) as process:
        send(process, CALL)
        assert b"DONE" in receive(process), "the control"
        assert json.loads(receive(process))["id"] == 7
        send(process, HIDDEN[way], b'{"jsonrpc":"2.0","id":8,"method":"ping"}')
        answers = [receive(process)]
        while json.loads(answers[-1]).get("id") != 8:
            answers.append(receive(process))
        assert not any(b"DONE" in each for each in answers), answers


@pytest.mark.parametrize(
    ("way", "said"), [("by a list", 7), ("with a Method", 7), ("with an ID", None), ("without an id", None)]
)
def test_whoever_is_refused_hears_it_under_the_id_of_his_request(way: str, said: int | None) -> None:
    with started("run", "-q", "--profile", "none", "--", *program(SERVER)) as process:
        send(process, HIDDEN[way])
        answer = json.loads(receive(process))
        assert (answer["id"], "error" in answer) == (said, True)
