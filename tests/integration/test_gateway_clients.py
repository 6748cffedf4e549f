"""The official clients through the gateway: on both transports, of both eras, onto servers of both eras."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from mcp import Client

from tests.conformance import contents, server
from tests.escape.arena import Arena
from tests.integration.caller import Caller
from tests.integration.clients import OFFICIAL, Official, Target, inspect
from tests.integration.fidelity import PYTHON
from tests.integration.gateway import Entry, Gateway, conformance_entries, copied, processes, serving
from tests.integration.test_clients import ASKED, CALLS, RESULTS

ALL = pytest.mark.parametrize("client", OFFICIAL, ids=str)
TRANSPORTS = pytest.mark.parametrize("transport", ["stdio", "http"])
SERVERS = ("conformance", "new", "old")
AS_ROOT = pytest.mark.parametrize("caller", ["root"], indirect=True)


@pytest.fixture(scope="module")
def gateway(arena: Arena, servers: Path) -> Iterator[Gateway]:
    """The conformance server behind root's gateway: of both eras, and of one only."""
    caller = Caller(arena, "root")
    caller.reset()
    with serving(caller, conformance_entries(caller, servers)) as made:
        yield made


def everything(gateway: Gateway, transport: str) -> Target:
    """All servers at once."""
    return Target(url=gateway.url) if transport == "http" else Target(tuple(gateway.command()))


def single(gateway: Gateway, transport: str, name: str) -> Target:
    """One server, its names unchanged."""
    return Target(url=gateway.only(name)) if transport == "http" else Target(tuple(gateway.run(name)))


def as_directly(client: Official, transport: str, gateway: Gateway, servers: Path, tmp_path: Path) -> None:
    target = single(gateway, transport, "conformance")
    seen = client.visit(gateway.caller, servers, target, CALLS, tmp_path / "log")
    assert seen.version == ("2025-11-25" if client.mode == "legacy" else "2026-07-28")
    assert seen.tools == list(server.TOOLS)
    assert (seen.results, seen.asked) == (RESULTS, ASKED)
    assert seen.resources == [resource.uri for resource in contents.RESOURCES]
    assert seen.prompts == list(server.PROMPTS)


@ALL
@TRANSPORTS
def test_one_server_looks_as_it_does_directly(
    client: Official, transport: str, gateway: Gateway, servers: Path, tmp_path: Path
) -> None:
    as_directly(client, transport, gateway, servers, tmp_path)


def test_an_ordinary_user_s_gateway_serves_a_client_of_each_era(
    arena: Arena, servers: Path, tmp_path: Path
) -> None:
    """Not all of them once more: who started it does not show in what a client sees."""
    caller = Caller(arena, "user")
    caller.reset()
    with serving(caller, conformance_entries(caller, servers)) as made:
        for transport in ("stdio", "http"):
            for client in (OFFICIAL[0], OFFICIAL[-2]):
                as_directly(client, transport, made, servers, tmp_path)


@ALL
@TRANSPORTS
def test_one_endpoint_has_the_servers_of_both_eras(
    client: Official, transport: str, gateway: Gateway, servers: Path, tmp_path: Path
) -> None:
    """Whatever the client's era, each server asks its questions and hears the answers."""
    calls = [(f"{name}__{tool}", arguments) for name in SERVERS for tool, arguments in CALLS]
    target = everything(gateway, transport)
    seen = client.visit(gateway.caller, servers, target, calls, tmp_path / "log")
    assert seen.version == ("2025-11-25" if client.mode == "legacy" else "2026-07-28")
    assert seen.tools == [f"{name}__{tool}" for name in SERVERS for tool in server.TOOLS]
    assert seen.prompts == [f"{name}__{prompt}" for name in SERVERS for prompt in server.PROMPTS]
    assert seen.results == RESULTS * len(SERVERS)
    assert seen.asked == ASKED * len(SERVERS)
    assert len(set(seen.resources)) == len(seen.resources) == len(SERVERS) * len(contents.RESOURCES)


@AS_ROOT
@TRANSPORTS
def test_lists_start_no_process_and_a_call_starts_one(
    transport: str, caller: Caller, servers: Path, tmp_path: Path
) -> None:
    start = copied(caller, "awkward")
    entry = Entry("awkward", (*PYTHON, str(start)))
    with serving(caller, [entry], "lists") as gateway:
        target = everything(gateway, transport)
        for client in (OFFICIAL[0], OFFICIAL[-2]):
            seen = client.visit(caller, servers, target, [], tmp_path / "log")
            assert {"awkward__echo", "awkward__other__echo"} <= set(seen.tools)
        assert processes(start) == []
        running: list[int] = []

        async def called(client: Client) -> None:
            await client.call_tool("awkward__tiny", {})
            running.extend(processes(start))

        async def visit() -> None:
            async with Client(gateway.url, mode="legacy") as client:
                await called(client)

        if transport == "http":
            anyio.run(visit)
        else:
            log = tmp_path / "log"
            caller.talk(gateway.command(), called, cwd=gateway.folder, log=log, mode="legacy")
        assert len(running) == 1
    assert processes(start) == []


@pytest.mark.parametrize("era", ["legacy", "modern"])
@TRANSPORTS
def test_the_inspector_lists_and_calls(era: str, transport: str, gateway: Gateway, servers: Path) -> None:
    target = everything(gateway, transport)
    listed = inspect(gateway.caller, servers, target, "tools/list", era=era, options={})
    assert [tool["name"] for tool in listed["tools"]] == [f"{n}__{t}" for n in SERVERS for t in server.TOOLS]
    for name in SERVERS:
        options = {"tool-name": f"{name}__test_simple_text", "tool-args-json": "{}"}
        called = inspect(gateway.caller, servers, target, "tools/call", era=era, options=options)
        assert called["content"] == [{"type": "text", "text": RESULTS[0]}]
