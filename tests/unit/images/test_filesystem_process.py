"""The filesystem server as a process: arguments checked, both protocol eras, an end with stdin."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from images.filesystem import answer, tools
else:
    answer, tools = (importlib.import_module(f"filesystem_server.{name}") for name in ("answer", "tools"))

SERVER = Path(__file__).parents[3] / "images" / "filesystem" / "server.py"
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "read_text_file needs the argument 'path'"),
        ({"path": 5}, "path must be a string, not 5"),
        ({"path": "a", "offset": -1}, "offset must be at least 0, not -1"),
        ({"path": "a", "offset": "1"}, "offset must be an integer, not '1'"),
        ({"path": "a", "limit": True}, "limit must be an integer, not True"),
        ({"path": "a", "limit": 10**30}, "limit must be at most"),
        ({"path": "a", "lines": 3}, "no argument 'lines'; it takes path, offset"),
    ],
)
def test_arguments_that_the_schema_forbids_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(answer.ToolError) as caught:
        tools.checked(tools.TOOLS["read_text_file"], arguments)
    assert message in str(caught.value)


def test_null_and_integral_floats_are_taken_as_json_schema_means_them() -> None:
    given: dict[str, object] = {"path": "a", "limit": None, "offset": 2.0}
    assert tools.checked(tools.TOOLS["read_text_file"], given) == {"path": "a", "offset": 2}


def talk(folder: Path, *messages: dict[str, Any]) -> tuple[dict[int, Any], int, str]:
    """Start the server as a profile does, write the messages, wait for their answers, end stdin."""
    process = subprocess.Popen(
        [sys.executable, "-I", str(SERVER), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd="/",
        env={},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    replies: dict[int, Any] = {}
    for message in messages:
        process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        process.stdin.flush()
        if "id" in message:
            reply = json.loads(process.stdout.readline())
            replies[reply["id"]] = reply.get("result", reply.get("error"))
    rest, errors = process.communicate(timeout=20)
    assert rest == ""
    return replies, process.returncode, errors


def initialize(version: str) -> tuple[dict[str, Any], dict[str, Any]]:
    params = {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    return {"id": 1, "method": "initialize", "params": params}, {"method": "notifications/initialized"}


def call(number: int, name: str, **arguments: object) -> dict[str, Any]:
    return {"id": number, "method": "tools/call", "params": {"name": name, "arguments": arguments}}


@pytest.mark.parametrize("version", ["2025-11-25", "2025-06-18"])
def test_the_process_serves_the_handshake_era_and_ends_with_stdin(data: Path, version: str) -> None:
    (data / "a.txt").write_text("hello\n")
    (data / "a.png").write_bytes(PNG)
    replies, status, errors = talk(
        data,
        *initialize(version),
        {"id": 2, "method": "tools/list"},
        call(3, "read_text_file", path="a.txt"),
        call(4, "read_text_file", path="../a.txt"),
        call(5, "read_media_file", path="a.png"),
        call(6, "no_such_tool"),
    )
    assert (status, errors) == (0, "")
    assert replies[1]["protocolVersion"] == version
    assert replies[1]["serverInfo"]["name"] == "filesystem"
    assert str(data) in replies[1]["instructions"]
    assert {tool["name"] for tool in replies[2]["tools"]} == set(tools.TOOLS)
    for tool in replies[2]["tools"]:
        hints = {name: value for name, value in tool["annotations"].items() if name != "title"}
        assert hints == {
            "readOnlyHint": True,
            "idempotentHint": True,
            "openWorldHint": False,
            "destructiveHint": False,
        }
        assert tool["title"]
        assert tool["outputSchema"]["type"] == "object"
    assert replies[3]["content"] == [{"type": "text", "text": "hello\n"}]
    assert replies[3]["structuredContent"]["text"] == "hello\n"
    assert replies[4]["isError"] is True
    assert "outside the allowed folders" in replies[4]["content"][0]["text"]
    assert [block["type"] for block in replies[5]["content"]] == ["text", "image"]
    assert replies[6]["code"] == -32602


def test_the_process_serves_the_modern_era(data: Path) -> None:
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    listing = call(3, "list_directory")
    listing["params"]["_meta"] = meta
    replies, status, errors = talk(
        data,
        {"id": 1, "method": "server/discover", "params": {"_meta": meta}},
        {"id": 2, "method": "tools/list", "params": {"_meta": meta}},
        listing,
    )
    assert (status, errors) == (0, "")
    assert replies[1]["supportedVersions"] == ["2026-07-28"]
    assert (replies[2]["cacheScope"], replies[2]["ttlMs"]) == ("public", 3_600_000)
    assert replies[3]["structuredContent"]["entries"] == []


def test_a_folder_that_is_missing_ends_the_start_with_a_reason(tmp_path: Path) -> None:
    for arguments, message in (([], "usage:"), ([str(tmp_path / "none")], "No such file or directory")):
        command = [sys.executable, "-I", str(SERVER), *arguments]
        ended = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=20)
        assert ended.returncode == 2
        assert message in ended.stderr


def test_a_client_that_goes_away_ends_the_process_without_a_traceback(data: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    asked = json.dumps({"jsonrpc": "2.0", **initialize("2025-11-25")[0]}) + "\n"
    command = [sys.executable, "-I", str(SERVER), str(data)]
    ended = subprocess.run(command, input=asked, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=20)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (0, "")
