"""The official clients against the conformance server itself: the control for what they see through the gateway."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance import contents, server
from tests.escape.arena import CHECKOUT, Arena, end
from tests.integration.caller import Caller
from tests.integration.clients import OFFICIAL, Call, Official, Target, inspect

ALL = pytest.mark.parametrize("client", OFFICIAL, ids=str)
START = CHECKOUT / "tests" / "conformance" / "start.py"
CALLS: tuple[Call, ...] = (
    ("test_simple_text", {}),
    ("test_elicitation", {"message": "who are you?"}),
    ("test_sampling", {"prompt": "say something"}),
    ("test_input_required_result_list_roots", {}),
)
RESULTS = [
    "This is a simple text response for testing.",
    "User response: action=accept, content={'username': 'ada', 'email': 'ada@example.com'}",
    "LLM response: sampled",
    "Roots: file:///project",
]
ASKED = ["elicitation/create", "sampling/createMessage", "roots/list"]


@pytest.fixture(scope="module")
def targets() -> Iterator[dict[str, Target]]:
    """The server on both transports."""
    command = [sys.executable, str(START), "--http", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        assert process.stdout
        url = process.stdout.readline().decode().strip()
        yield {"stdio": Target((sys.executable, str(START), "--stdio")), "http": Target(url=url)}
    finally:
        end(process)


@pytest.fixture
def root(arena: Arena) -> Caller:
    made = Caller(arena, "root")
    made.reset()
    return made


@ALL
@pytest.mark.parametrize("transport", ["stdio", "http"])
def test_a_client_lists_calls_and_answers_questions(
    client: Official, transport: str, targets: dict[str, Target], root: Caller, servers: Path, tmp_path: Path
) -> None:
    seen = client.visit(root, servers, targets[transport], CALLS, tmp_path / "log")
    assert seen.version == ("2025-11-25" if client.mode == "legacy" else "2026-07-28")
    assert seen.tools == list(server.TOOLS)
    assert (seen.results, seen.asked) == (RESULTS, ASKED)
    assert seen.resources == [resource.uri for resource in contents.RESOURCES]
    assert seen.prompts == list(server.PROMPTS)


@pytest.mark.parametrize("era", ["legacy", "modern"])
@pytest.mark.parametrize("transport", ["stdio", "http"])
def test_the_inspector_lists_and_calls(
    era: str, transport: str, targets: dict[str, Target], root: Caller, servers: Path
) -> None:
    listed = inspect(root, servers, targets[transport], "tools/list", era=era, options={})
    assert [tool["name"] for tool in listed["tools"]] == list(server.TOOLS)
    options = {"tool-name": "test_simple_text", "tool-args-json": "{}"}
    called = inspect(root, servers, targets[transport], "tools/call", era=era, options=options)
    assert called["content"] == [{"type": "text", "text": RESULTS[0]}]
