"""An MCP server on the official SDK with everything that the official conformance suites ask for, of both eras.

`--stdio` serves one client on standard input and output, `--http PORT` many on loopback; what it does is the same.
`--era` (only on stdio) makes it a server that knows one era of the protocol and nothing of the other.
"""

from __future__ import annotations

import argparse
import functools
import socket
import warnings
from collections.abc import Sequence
from itertools import count

import anyio
import uvicorn
from mcp import MCPError
from mcp.server.caching import CacheHint
from mcp.server.context import CallNext, HandlerResult
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.models import InitializationOptions
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.server.runner import serve_loop
from mcp.server.stdio import stdio_server
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler
from mcp.shared.exceptions import MCPDeprecationWarning
from mcp_types import (
    INVALID_PARAMS,
    UNSUPPORTED_PROTOCOL_VERSION,
    CallToolRequestParams,
    CallToolResult,
    CompleteRequestParams,
    CompleteResult,
    EmptyResult,
    GetPromptRequestParams,
    GetPromptResult,
    InputRequiredResult,
    JSONRPCMessage,
    ListPromptsResult,
    ListResourcesResult,
    ListResourceTemplatesResult,
    ListToolsResult,
    PaginatedRequestParams,
    ReadResourceRequestParams,
    ReadResourceResult,
    RequestParams,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from tests.conformance import contents
from tests.conformance.calls import Call, Context, InputNeeded
from tests.conformance.questions import ASKING
from tests.conformance.tools import PLAIN

NAME = "conformance"
RETRY = 50  # milliseconds after which a client whose stream was closed comes back
TOOLS = {offer.name: offer for offer in (*PLAIN, *ASKING)}
PROMPTS = {offer.name: offer for offer in contents.PROMPTS}
FRESH = CacheHint(ttl_ms=1000, scope="public")


class Everything(Server[dict[str, object]]):
    """The server; what it announces is the same on every transport."""

    def create_initialization_options(
        self,
        notification_options: NotificationOptions | None = None,
        experimental_capabilities: dict[str, dict[str, object]] | None = None,
        extensions: dict[str, dict[str, object]] | None = None,
    ) -> InitializationOptions:
        changes = NotificationOptions(prompts_changed=True, resources_changed=True, tools_changed=True)
        return super().create_initialization_options(changes, experimental_capabilities, extensions)


class Events(EventStore):
    """What was sent on each stream, for clients that come back."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._sent: dict[str, tuple[str, JSONRPCMessage | None]] = {}

    async def store_event(self, stream_id: str, message: JSONRPCMessage | None) -> str:
        number = str(next(self._numbers))
        self._sent[number] = (stream_id, message)
        return number

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str | None:
        if last_event_id not in self._sent:
            return None
        stream, _ = self._sent[last_event_id]
        for number, (name, message) in list(self._sent.items()):
            if name == stream and int(number) > int(last_event_id) and message is not None:
                await send_callback(EventMessage(message, number))
        return stream


async def list_tools(_: Context, params: PaginatedRequestParams | None) -> ListToolsResult:
    return ListToolsResult(tools=[offer.listed() for offer in TOOLS.values()])


async def list_prompts(_: Context, params: PaginatedRequestParams | None) -> ListPromptsResult:
    return ListPromptsResult(prompts=[offer.listed() for offer in PROMPTS.values()])


async def list_resources(_: Context, params: PaginatedRequestParams | None) -> ListResourcesResult:
    return ListResourcesResult(resources=list(contents.RESOURCES))


async def list_templates(_: Context, params: PaginatedRequestParams | None) -> ListResourceTemplatesResult:
    return ListResourceTemplatesResult(resource_templates=list(contents.TEMPLATES))


async def read_resource(_: Context, params: ReadResourceRequestParams) -> ReadResourceResult:
    return contents.read(params.uri)


async def complete(_: Context, params: CompleteRequestParams) -> CompleteResult:
    return CompleteResult(completion=contents.complete(params.argument.value))


async def accept(_: Context, params: RequestParams) -> EmptyResult:
    """Subscriptions and levels are accepted; who subscribed is not told of changes, since there are none."""
    return EmptyResult()


async def call_tool(
    bus: InMemorySubscriptionBus, context: Context, params: CallToolRequestParams
) -> CallToolResult | InputRequiredResult:
    offer = TOOLS.get(params.name)
    if offer is None:
        raise MCPError(INVALID_PARAMS, f"Unknown tool: {params.name}")
    answers = params.input_responses or {}
    call = Call(context, bus, params.name, params.arguments or {}, answers, params.request_state)
    try:
        return await offer.work(call)
    except InputNeeded as needed:
        return needed.result


async def get_prompt(
    bus: InMemorySubscriptionBus, context: Context, params: GetPromptRequestParams
) -> GetPromptResult | InputRequiredResult:
    offer = PROMPTS.get(params.name)
    if offer is None:
        raise MCPError(INVALID_PARAMS, f"Unknown prompt: {params.name}")
    answers = params.input_responses or {}
    call = Call(context, bus, params.name, params.arguments or {}, answers, params.request_state)
    try:
        return await offer.work(call)
    except InputNeeded as needed:
        return needed.result


def schema(name: str) -> dict[str, object] | None:
    """The schema by which the SDK checks the headers of a call."""
    return TOOLS[name].schema if name in TOOLS else None


def build() -> Everything:
    """The server, with its handlers."""
    bus = InMemorySubscriptionBus()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MCPDeprecationWarning)
        made = Everything(
            NAME,
            version="1.0.0",
            title="Conformance server",
            instructions="For tests only.",
            cache_hints={
                "tools/list": FRESH,
                "prompts/list": FRESH,
                "resources/list": FRESH,
                "resources/templates/list": FRESH,
                "resources/read": FRESH,
            },
            get_tool_input_schema=schema,
            on_list_tools=list_tools,
            on_call_tool=functools.partial(call_tool, bus),
            on_list_resources=list_resources,
            on_list_resource_templates=list_templates,
            on_read_resource=read_resource,
            on_subscribe_resource=accept,
            on_unsubscribe_resource=accept,
            on_subscriptions_listen=ListenHandler(bus),
            on_list_prompts=list_prompts,
            on_get_prompt=functools.partial(get_prompt, bus),
            on_completion=complete,
            on_set_logging_level=accept,
        )
    made.middleware.append(RequestStateBoundary(RequestStateSecurity.ephemeral(), default_audience=NAME))
    return made


async def no_handshake(ctx: Context, call_next: CallNext) -> HandlerResult:
    """What a server without the old era answers."""
    if ctx.method == "initialize":
        raise MCPError(UNSUPPORTED_PROTOCOL_VERSION, "no handshake", {"supported": list(MODERN_PROTOCOL_VERSIONS)})
    return await call_next(ctx)


async def on_stdio(server: Everything, *, legacy: bool) -> None:
    """Serve one client; the era of its first request is the connection's, unless there is only one."""
    options = server.create_initialization_options()
    async with stdio_server() as (read, write):
        if legacy:
            await serve_loop(server, read, write, lifespan_state={}, init_options=options)
        else:
            await server.run(read, write, options)


def on_http(server: Everything, port: int) -> None:
    """Serve on loopback, and say where in one line; port 0 takes any."""
    app = server.streamable_http_app(event_store=Events(), retry_interval=RETRY)
    listener = socket.create_server(("127.0.0.1", port))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}/mcp", flush=True)
    # httptools leaves white space at the end of a header, h11 does not; the specification wants it gone
    config = uvicorn.Config(app, http="h11", log_level="warning", timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[listener])


def main(argv: Sequence[str]) -> None:
    """Serve until the end of the input, or of the process."""
    parser = argparse.ArgumentParser(description=__doc__)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--stdio", action="store_true")
    where.add_argument("--http", type=int, metavar="PORT")
    parser.add_argument("--era", choices=("both", "legacy", "modern"), default="both")
    chosen = parser.parse_args(argv)
    server = build()
    if chosen.era == "modern":
        server.middleware.append(no_handshake)
    if chosen.http is not None:
        on_http(server, chosen.http)
    else:
        anyio.run(functools.partial(on_stdio, server, legacy=chosen.era == "legacy"))
