"""A peer: the official SDK's client and server glued together, as most Python gateways are made."""

from __future__ import annotations

import sys
from typing import Any

import anyio
from mcp import Client, StdioServerParameters, stdio_client
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server


async def main() -> None:
    """Forward tools/list and tools/call."""
    async with Client(stdio_client(StdioServerParameters(command=sys.argv[1])), mode="legacy") as upstream:

        async def listed(_context: Any, _params: Any) -> Any:
            return await upstream.list_tools()

        async def called(_context: Any, params: Any) -> Any:
            return await upstream.call_tool(params.name, params.arguments or {})

        server = Server("glue", on_list_tools=listed, on_call_tool=called)
        async with stdio_server() as (read, write):
            await server.run(read, write, server.create_initialization_options())


anyio.run(main)
