"""The protocol side of the filesystem server: which tools there are, and one call from request to answer.

Runs as the session's unprivileged uid. The table is the policy: a tool that is not in it does not
exist, and arguments reach a function only after its input schema allowed them.
"""

import base64
import sys
from functools import partial

import anyio
import anyio.to_thread
from mcp.server.caching import CacheHint
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    AudioContent,
    BlobResourceContents,
    CallToolRequestParams,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
    ToolAnnotations,
)

from .answer import Answer, Budget, Media, ToolError
from .roots import Roots, printable
from .tools import TOOLS, ToolEntry, checked

VERSION = "1.0.0"
LIST_FRESH = 3_600_000  # milliseconds; the tools are the same for the life of the program

INSTRUCTIONS = """Reads files in these folders: {roots}. Nothing can be changed.
Relative paths start at the first folder; absolute paths must lie in one of the folders.
Start with list_directory or directory_tree, find things with search_files (by name, by content, or both), \
then read_text_file. Long answers are cut and say how to continue."""

Context = ServerRequestContext[dict[str, object]]


def build(roots: Roots) -> Server[dict[str, object]]:
    """The server, ready to run over a pair of streams."""
    tools = ListToolsResult(tools=[_listed(tool) for tool in TOOLS.values()])

    async def list_tools(context: Context, params: PaginatedRequestParams | None) -> ListToolsResult:  # noqa: ARG001
        return tools

    async def call_tool(context: Context, params: CallToolRequestParams) -> CallToolResult:  # noqa: ARG001
        tool = TOOLS.get(params.name)
        if tool is None:
            raise MCPError(INVALID_PARAMS, f"unknown tool {params.name!r}; there are {', '.join(TOOLS)}")
        return await _call(roots, tool, params.arguments or {})

    fresh = CacheHint(ttl_ms=LIST_FRESH, scope="public")
    return Server(
        "filesystem",
        version=VERSION,
        title="Files, read-only",
        instructions=INSTRUCTIONS.format(roots=roots),
        cache_hints={"tools/list": fresh, "server/discover": fresh},
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


async def _call(roots: Roots, tool: ToolEntry, arguments: dict[str, object]) -> CallToolResult:
    """Run the tool in a thread, so that a slow disk does not keep `ping` and other calls waiting."""
    budget = Budget.of()
    try:
        work = partial(tool.run, roots, budget, **checked(tool, arguments))
        return _result(await anyio.to_thread.run_sync(work, abandon_on_cancel=True))
    except ToolError as error:
        return _refusal(str(error))
    except OSError as error:
        return _refusal(
            f"{tool.name}: the file system answered {error.strerror or error}. Try again, or another path."
        )
    finally:
        budget.stop()


def _listed(tool: ToolEntry) -> Tool:
    return Tool(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=tool.takes,
        output_schema=tool.gives,
        annotations=ToolAnnotations(
            title=tool.title,
            read_only_hint=True,
            destructive_hint=False,
            idempotent_hint=True,
            open_world_hint=False,
        ),
    )


def _result(answer: Answer) -> CallToolResult:
    content: list[ContentBlock] = []
    if answer.text or not answer.notes:
        content.append(TextContent(text=answer.text))
    if answer.notes:
        content.append(TextContent(text=f"[{' '.join(answer.notes)}]"))
    if answer.media:
        content.append(_block(answer.media))
    return CallToolResult(content=content, structured_content=answer.structured())


def _refusal(message: str) -> CallToolResult:
    # An OSError may quote a file name as the kernel gave it.
    return CallToolResult(content=[TextContent(text=printable(message))], is_error=True)


def _block(media: Media) -> ContentBlock:
    data = base64.b64encode(media.data).decode("ascii")
    if media.kind == "image":
        return ImageContent(data=data, mime_type=media.mime_type)
    if media.kind == "audio":
        return AudioContent(data=data, mime_type=media.mime_type)
    return EmbeddedResource(resource=BlobResourceContents(uri=media.uri, mime_type=media.mime_type, blob=data))


async def _serve(roots: Roots) -> None:
    server = build(roots)
    async with stdio_server() as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())


def main(folders: list[str]) -> int:
    """Serve until stdin ends; 0 then, 2 if a folder is missing from the command line or cannot be opened."""
    if not folders:
        sys.stderr.write("usage: server.py FOLDER...\n")
        return 2
    try:
        roots = Roots(folders)
    except OSError as error:
        sys.stderr.write(
            f"filesystem: {error.filename}: {error.strerror}. Name folders that exist and may be read.\n"
        )
        return 2
    try:
        anyio.run(_serve, roots)
    except* BrokenPipeError:  # the client has gone with an answer on its way: an end like that of stdin
        pass
    return 0
