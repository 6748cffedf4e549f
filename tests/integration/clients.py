"""The official clients, as a table: the Python SDK, both lines of the TypeScript SDK, and the Inspector.

Each visits a server by a command or a URL, lists everything, makes its calls, answers what the server asks, and
reports what it saw. A program that needs an identity is started as the caller.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio
from mcp import Client, StdioServerParameters, stdio_client
from mcp.client.client import ConnectMode
from mcp.client.context import ClientRequestContext
from mcp_types import (
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequestParams,
    ElicitResult,
    ListRootsResult,
    Root,
    TextContent,
)
from pydantic import FileUrl

from tests.integration.caller import SECONDS, Caller
from tests.integration.install_servers import node

TYPESCRIPT = Path(__file__).with_name("typescript_client.cjs")
Call = tuple[str, dict[str, object]]


@dataclass(frozen=True)
class Target:
    """Where the server is: a command to start, or a URL."""

    command: tuple[str, ...] = ()
    url: str = ""


@dataclass(frozen=True)
class Seen:
    """What a client reports of its visit."""

    version: str
    tools: list[str]
    results: list[str]
    resources: list[str]
    prompts: list[str]
    asked: list[str]


@dataclass(frozen=True)
class Official:
    """One of the clients; `sdk` is the line of the TypeScript SDK, or nothing for Python."""

    name: str
    mode: ConnectMode
    sdk: int = 0

    def __str__(self) -> str:
        return self.name

    def visit(self, caller: Caller, servers: Path, target: Target, calls: Sequence[Call], log: Path) -> Seen:
        """Start the client as the caller, and hear its report."""
        if self.sdk:
            return self._typescript(caller, servers, target, calls)
        return Python(caller, self.mode, target, log).visit(calls)

    def _typescript(self, caller: Caller, servers: Path, target: Target, calls: Sequence[Call]) -> Seen:
        wanted: dict[str, object] = {"sdk": self.sdk, "mode": self.mode}
        wanted["calls"] = [{"name": name, "arguments": arguments} for name, arguments in calls]
        wanted |= {"url": target.url} if target.url else {"command": list(target.command)}
        program = caller.project / TYPESCRIPT.name
        program.write_bytes(TYPESCRIPT.read_bytes())
        done = caller.finish([node(servers), program, servers / "clients", json.dumps(wanted)])
        assert done.returncode == 0, done.stderr
        return Seen(**json.loads(done.stdout))


OFFICIAL = (
    Official("python-legacy", "legacy"),
    Official("python-auto", "auto"),
    Official("python-modern", "2026-07-28"),
    Official("typescript-1", "legacy", 1),
    Official("typescript-2-legacy", "legacy", 2),
    Official("typescript-2-auto", "auto", 2),
    Official("typescript-2-modern", "2026-07-28", 2),
)


@dataclass
class Python:
    """The Python SDK's client, in this process; a server that it starts is started as the caller."""

    caller: Caller
    mode: ConnectMode
    target: Target
    log: Path
    asked: list[str] = field(default_factory=list)

    def visit(self, calls: Sequence[Call]) -> Seen:
        async def play() -> Seen:
            connect = functools.partial(
                Client,
                mode=self.mode,
                read_timeout_seconds=SECONDS,
                elicitation_callback=self._elicited,
                sampling_callback=self._sampled,
                list_roots_callback=self._rooted,
            )
            if self.target.url:
                async with connect(self.target.url) as client:
                    return await self._talk(client, calls)
            first, *rest = self.caller.become(self.target.command)
            environment = self.caller.environment
            server = StdioServerParameters(command=first, args=rest, cwd=self.caller.project, env=environment)
            with self.log.open("w", encoding="utf-8") as errors:
                async with connect(stdio_client(server, errlog=errors)) as client:
                    return await self._talk(client, calls)

        return anyio.run(play)

    async def _elicited(self, context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        self.asked.append("elicitation/create")
        return ElicitResult(action="accept", content={"username": "ada", "email": "ada@example.com"})

    async def _sampled(
        self, context: ClientRequestContext, params: CreateMessageRequestParams
    ) -> CreateMessageResult:
        self.asked.append("sampling/createMessage")
        content = TextContent(type="text", text="sampled")
        return CreateMessageResult(role="assistant", model="m", content=content)

    async def _rooted(self, context: ClientRequestContext) -> ListRootsResult:
        self.asked.append("roots/list")
        return ListRootsResult(roots=[Root(uri=FileUrl("file:///project"), name="project")])

    async def _talk(self, client: Client, calls: Sequence[Call]) -> Seen:
        tools: list[str] = []
        cursor = None
        while True:
            page = await client.list_tools(cursor=cursor)
            tools += [tool.name for tool in page.tools]
            cursor = page.next_cursor
            if not cursor:
                break
        results = []
        for name, arguments in calls:
            result = await client.call_tool(name, arguments)
            blocks = [each.text if isinstance(each, TextContent) else each.type for each in result.content]
            results.append("\n".join(blocks))
        resources = [str(each.uri) for each in (await client.list_resources()).resources]
        prompts = [each.name for each in (await client.list_prompts()).prompts]
        return Seen(client.protocol_version, tools, results, resources, prompts, self.asked)


def inspect(
    caller: Caller, servers: Path, target: Target, method: str, *, era: str, options: Mapping[str, str]
) -> dict[str, list[dict[str, object]]]:
    """The result of one request of the Inspector's command line."""
    words = [str(servers / "node_modules/.bin/mcp-inspector"), "--cli", "--format", "json", "--method", method]
    words += ["--protocol-era", era]
    for key, value in options.items():
        words += [f"--{key}", value]
    where = ["--server-url", target.url, "--transport", "http"] if target.url else ["--", *target.command]
    done = caller.finish([*words, *where])
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)["result"]
    assert isinstance(result, dict)
    return result
