"""A server that spells its answers so that its client takes them and nothing of them is written down.

One call each; what its client got is compared with what the audit log says of it.
"""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.escape.arena import PYTHON, Arena, end

CALL = {"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": {"name": "told", "arguments": {}}}
# argv: how the answer is written, ID standing for the call's own id
SERVER = """
import json, sys
for line in sys.stdin:
    written = str(json.loads(line)["id"]).join(sys.argv[1].split("ID"))
    print(written, flush=True)
    print('{"jsonrpc":"2.0","method":"notifications/end"}', flush=True)
"""


def called(arena: Arena, mode: str, answer: str) -> tuple[list[bytes], str]:
    """The lines that the client got before the last, and the status in the log of the call."""
    command = [*arena.commands[mode], "run", "-q", "--profile", "none", *arena.accept(mode)]
    process = arena.start([*command, "--", *PYTHON, "-c", SERVER, answer], mode, stdin=subprocess.PIPE)
    got: list[bytes] = []
    try:
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps(CALL).encode() + b"\n")
        process.stdin.flush()
        while b"notifications/end" not in (line := process.stdout.readline()):
            assert line
            got.append(line)
        process.stdin.close()
        process.wait(20)
    finally:
        end(process)
    query = [*arena.commands[mode], "audit", "query", "--json", "--limit", "1"]
    found = json.loads(arena.finish(arena.start(query, mode)).stdout)
    return got, str(found["status"])


@pytest.mark.parametrize("name", ["ID", "ID.0", '"ID"', '"ID.0"', "ID0e-1", '"0xID"', '"\\u00a0ID"'])
def test_an_answer_is_written_down_however_its_number_is_spelled(arena: Arena, mode: str, name: str) -> None:
    got, status = called(arena, mode, f'{{"jsonrpc":"2.0","id":{name},"result":{{"content":[]}}}}')
    assert (len(got), status) == (1, "ok")


@pytest.mark.parametrize("name", ["Id", "iD", "\\u0049d"])
def test_an_answer_whose_id_is_one_to_some_clients_only_is_kept_from_all(
    arena: Arena, mode: str, name: str
) -> None:
    got, _ = called(arena, mode, f'{{"jsonrpc":"2.0","{name}":ID,"result":{{"content":[]}}}}')
    assert got == []


@pytest.mark.parametrize("said", ['"method":"ping","result":{}', '"error":{"code":1,"message":""},"method":"x"'])
def test_an_answer_that_is_a_request_too_is_kept_from_the_client(arena: Arena, mode: str, said: str) -> None:
    got, status = called(arena, mode, f'{{"jsonrpc":"2.0","id":ID,{said}}}')
    assert (got, status) == ([], "lost")


@pytest.mark.parametrize("name", ["1ID", '"1ID"', '""', "[ID]", "null"])
def test_an_answer_to_what_was_not_asked_is_kept_from_the_client(arena: Arena, mode: str, name: str) -> None:
    # a client that asks under that id a moment later would take it for the answer
    got, status = called(arena, mode, f'{{"jsonrpc":"2.0","id":{name},"result":{{"content":[]}}}}')
    assert (got, status) == ([], "lost")
