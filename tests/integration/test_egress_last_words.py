"""What a session reached in its last moment is on record: it was told of before the session's end was."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.escape.arena import MODES, Arena
from tests.integration.audited import AuditLog, Json, Pipe
from tests.integration.caller import Caller
from tests.integration.outside import World, make_world

pytestmark = pytest.mark.network_namespace
SIZE = 50_000
SERVER = f"""
import json, os, socket, sys
PAGE = b"POST /x HTTP/1.1\\r\\nHost: example.test\\r\\nContent-Length: {SIZE}\\r\\n\\r\\n" + b"x" * {SIZE}
for line in sys.stdin:
    asked = json.loads(line)
    result = {{"content": []}}
    if asked.get("method") == "initialize":
        about = {{"name": "leaver", "version": "1"}}
        result = {{"protocolVersion": "2025-11-25", "capabilities": {{"tools": {{}}}}, "serverInfo": about}}
    elif asked.get("method") == "tools/call":
        for _ in range(asked["params"]["arguments"]["times"]):
            outside = socket.create_connection(("example.test", 80))
            outside.sendall(PAGE)
            outside.recv(10)
            if asked["params"]["name"] == "tidy":
                outside.close()
        if asked["params"]["name"] != "stay":
            os._exit(0)
    elif "id" not in asked:
        continue
    print(json.dumps({{"jsonrpc": "2.0", "id": asked["id"], "result": result}}), flush=True)
"""


@pytest.fixture(scope="module")
def world(arena: Arena) -> Iterator[World]:
    with ExitStack() as stack:
        yield make_world(arena, stack)


def reached(world: World, mode: str, tool: str, times: int) -> list[Json]:
    """The hosts in the outcome of one call of a server that ends with it."""
    log = AuditLog(Caller(world.arena, mode), "last-words")
    program = ["/usr/bin/python3", "-I", "-c", SERVER]
    command = world.command(mode, ["example.test:80"], program, profile="net-allowlist")
    command[command.index("exec")] = "run"
    with world.popen(command, mode, stdin=subprocess.PIPE, env=log.env) as process:
        pipe = Pipe(process)
        pipe.hello()
        assert ("error" in pipe.call(tool, times=times)) is (tool != "stay")
        assert process.stdin
        process.stdin.close()
        process.wait(30)
    lines = [
        json.loads(line) for path in sorted(log.root.rglob("0*.jsonl")) for line in path.read_text().splitlines()
    ]
    (outcome,) = (each["body"] for each in lines if each["kind"] == "outcome" and "tools/call" in json.dumps(each))
    return [each for each in outcome["resources"] if each["type"] == "host"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tool", ["leave", "tidy", "stay"])
def test_the_bytes_of_a_call_are_on_record_though_its_server_ends_at_once(
    world: World, mode: str, tool: str
) -> None:
    (host,) = reached(world, mode, tool, 1)
    assert (host["hostname"], host["data"]["port"]) == ("example.test", 80)
    assert host["data"]["sent"] > SIZE
    assert host["data"]["received"] > 10


def test_what_several_connections_of_a_call_moved_is_added_up(world: World) -> None:
    (host,) = reached(world, "root", "leave", 3)
    assert host["data"]["sent"] > 3 * SIZE
