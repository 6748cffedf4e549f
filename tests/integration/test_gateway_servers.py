"""Eight real servers behind one endpoint, all of them called at once, each in its own sandbox."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from mcp import Client
from mcp.client.client import ConnectMode

from tests.integration.caller import SECONDS, Caller
from tests.integration.gateway import Entry, Gateway, serving
from tests.integration.real_servers import OWN, SERVERS, Call, Scene, Server
from tests.integration.remains import nothing_left

# It has no network here: what it answers is that it could not fetch.
UNREACHED = Call("fetch", {"url": "{url}"}, "Failed to fetch")
FETCH = Server(
    "fetch",
    ("--profile", "none"),
    ("python/bin/mcp-server-fetch", "--allow-private-ips", "--ignore-robots-txt"),
    ("fetch",),
    UNREACHED,
    UNREACHED,
)
EIGHT = (*SERVERS, OWN, FETCH)
# which era a client is of, and whose it is, do not depend on each other
ERAS: dict[str, ConnectMode] = {"root": "legacy", "user": "auto"}


def name_of(server: Server) -> str:
    """Its name in the registry."""
    return server.name.replace(" ", "-")


def entry(scene: Scene, server: Server) -> Entry:
    """The server's table, from the options of its command line."""
    options = list(map(scene.fill, server.options))
    pairs = list(zip(options[::2], options[1::2], strict=True))
    params = dict(value.split("=", 1) for key, value in pairs if key == "--param")
    profile = next(value for key, value in pairs if key == "--profile")
    if profile == "fs-readonly":
        # its default is the folder of who types the command, and a registry has none
        params.setdefault("root", scene.fill("{folder}"))
    program, *rest = map(scene.fill, server.command or ("",))
    return Entry(
        name_of(server),
        (str(scene.servers / program), *rest) if program else (),
        profile=profile,
        params=params,
        env={key: scene.fill(value) for key, value in server.env.items()},
        ro=tuple(value for key, value in pairs if key == "--ro"),
    )


@pytest.fixture
def scene(caller: Caller, servers: Path, url: str) -> Scene:
    made = Scene(caller, servers, url)
    made.prepare()
    return made


@pytest.fixture
def gateway(scene: Scene) -> Iterator[Gateway]:
    """All eight, pinned."""
    caller = scene.caller
    entries = [entry(scene, server) for server in EIGHT]
    with nothing_left(caller, writes=caller.project, patience=10), serving(caller, entries) as made:
        yield made


async def answer(scene: Scene, client: Client, server: Server, call: Call) -> tuple[bool, str]:
    """The call, by the name that it has behind the endpoint."""
    return await scene.answer(client, replace(call, tool=f"{name_of(server)}__{call.tool}"))


def test_eight_real_servers_are_used_through_one_endpoint_at_once(scene: Scene, gateway: Gateway) -> None:
    """Everything that each server does for its caller, and what it must not, all at the same time."""
    mode = ERAS[scene.caller.mode]
    said: dict[str, tuple[bool, str]] = {}
    refused: dict[str, tuple[bool, str]] = {}

    async def reads(client: Client, server: Server) -> None:
        said[server.name] = await answer(scene, client, server, server.reads)

    async def forbidden(client: Client, server: Server) -> None:
        refused[server.name] = await answer(scene, client, server, server.forbidden)

    async def play() -> None:
        async with Client(gateway.url, mode=mode, read_timeout_seconds=SECONDS) as client:
            listed = {tool.name for tool in (await client.list_tools()).tools}
            assert listed >= {f"{name_of(server)}__{tool}" for server in EIGHT for tool in server.tools}
            for work in (reads, forbidden, reads):
                async with anyio.create_task_group() as group:
                    for server in EIGHT:
                        group.start_soon(work, client, server)

    anyio.run(play)
    for server in EIGHT:
        failed, text = said[server.name]
        assert server.reads.expect in text, f"{server}: {text}"
        assert failed == (server is FETCH), f"{server}: {text}"
        failed, text = refused[server.name]
        assert failed, f"{server}: not forbidden: {text}"
        assert server.forbidden.expect in text, f"{server}: {text}"
