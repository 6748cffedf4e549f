"""The tools that the conformance suites call and that ask nothing: contents, errors, logs, progress, changes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio
from mcp import MCPError
from mcp.server.subscriptions import PromptsListChanged, ToolsListChanged
from mcp_types import (
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    AudioContent,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    ImageContent,
    TextContent,
    TextResourceContents,
    Tool,
)

from tests.conformance.calls import Call

# a red pixel, and eight thousand samples a second of nothing
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg=="
WAV = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAEAfAAABAAgAZGF0YQAAAAA="
PAUSE = 0.05
RECONNECTION = 0.1
Work = Callable[[Call], Awaitable[CallToolResult]]
Schema = dict[str, object]
ADDRESS = {
    "$anchor": "addressDef",
    "type": "object",
    "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
}
DIALECT: Schema = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {"address": ADDRESS},
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}, {"required": ["name"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"properties": {"email": {"type": "string"}}},
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Offer:
    """A tool: how it is listed, and what it does."""

    name: str
    description: str
    work: Work
    schema: Schema = field(default_factory=lambda: {"type": "object", "properties": {}})

    def listed(self) -> Tool:
        return Tool(name=self.name, description=self.description, input_schema=self.schema)


def strings(*names: str) -> Schema:
    """The schema of a tool that takes these strings, all of them required."""
    properties = {name: {"type": "string", "description": f"the {name}"} for name in names}
    return {"type": "object", "properties": properties, "required": list(names)}


def answer(*blocks: ContentBlock) -> CallToolResult:
    return CallToolResult(content=list(blocks))


def text(words: str) -> CallToolResult:
    return answer(TextContent(type="text", text=words))


def resource(uri: str, mime_type: str, words: str) -> EmbeddedResource:
    held = TextResourceContents(uri=uri, mime_type=mime_type, text=words)
    return EmbeddedResource(type="resource", resource=held)


def image() -> ImageContent:
    return ImageContent(type="image", data=PNG, mime_type="image/png")


async def simple(call: Call) -> CallToolResult:
    return text("This is a simple text response for testing.")


async def picture(call: Call) -> CallToolResult:
    return answer(image())


async def sound(call: Call) -> CallToolResult:
    return answer(AudioContent(type="audio", data=WAV, mime_type="audio/wav"))


async def embedded(call: Call) -> CallToolResult:
    return answer(resource("test://embedded-resource", "text/plain", "This is an embedded resource content."))


async def mixed(call: Call) -> CallToolResult:
    data = resource("test://mixed-content-resource", "application/json", '{"test":"data","value":123}')
    return answer(TextContent(type="text", text="Multiple content types test:"), image(), data)


async def failing(call: Call) -> CallToolResult:
    block = TextContent(type="text", text="This tool intentionally returns an error for testing")
    return CallToolResult(content=[block], is_error=True)


async def logging(call: Call) -> CallToolResult:
    """Three messages; a modern client that named no level gets none of them."""
    for step in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await call.context.session.send_log_message("info", step, related_request_id=call.context.request_id)
        await anyio.sleep(PAUSE)
    return text("Logged three messages.")


async def progress(call: Call) -> CallToolResult:
    for step in (0, 50, 100):
        await call.context.session.report_progress(step, 100, f"Completed step {step} of 100")
        await anyio.sleep(PAUSE)
    return text(str((call.context.meta or {}).get("progress_token", "no token")))


async def reconnection(call: Call) -> CallToolResult:
    """Close the stream of the answer before there is one, where there is a stream to close.

    Not at once: the SDK may not have written the stream's first event yet.
    """
    await anyio.sleep(PAUSE)
    if call.context.close_sse_stream:
        await call.context.close_sse_stream()
    await anyio.sleep(RECONNECTION)
    return text("Reconnection test completed successfully.")


async def sampling_only(call: Call) -> CallToolResult:
    if call.capabilities.sampling is None:
        needed: dict[str, object] = {"requiredCapabilities": {"sampling": {}}}
        raise MCPError(MISSING_REQUIRED_CLIENT_CAPABILITY, "the client did not declare sampling", needed)
    return text("The client can sample.")


async def change_tools(call: Call) -> CallToolResult:
    """Say that the list changed; it is the same list, so that whoever pinned it keeps it."""
    await call.bus.publish(ToolsListChanged())
    if not call.modern:
        await call.context.session.send_tool_list_changed()
    return text("Said that the tools changed.")


async def change_prompts(call: Call) -> CallToolResult:
    await call.bus.publish(PromptsListChanged())
    if not call.modern:
        await call.context.session.send_prompt_list_changed()
    return text("Said that the prompts changed.")


async def region(call: Call) -> CallToolResult:
    return text(f"In {call.text('region')}.")


REGION: Schema = {
    "type": "object",
    "properties": {"region": {"type": "string", "x-mcp-header": "Region"}},
    "required": ["region"],
}
PLAIN = (
    Offer("test_simple_text", "Answers with text.", simple),
    Offer("test_image_content", "Answers with an image.", picture),
    Offer("test_audio_content", "Answers with a sound.", sound),
    Offer("test_embedded_resource", "Answers with a resource.", embedded),
    Offer("test_multiple_content_types", "Answers with a text, an image and a resource.", mixed),
    Offer("test_error_handling", "Fails.", failing),
    Offer("test_tool_with_logging", "Logs while it works.", logging),
    Offer("test_logging_tool", "Logs while it works, to those who want it.", logging),
    Offer("test_tool_with_progress", "Tells how far it is.", progress),
    Offer("test_reconnection", "Closes the stream of its answer.", reconnection),
    Offer("test_missing_capability", "Works for clients that can sample.", sampling_only),
    Offer("test_trigger_tool_change", "Says that the tools changed.", change_tools),
    Offer("test_trigger_prompt_change", "Says that the prompts changed.", change_prompts),
    Offer("test_x_mcp_header", "Has an argument that is a header as well.", region, REGION),
    Offer("json_schema_2020_12_tool", "Has a schema with all that the dialect offers.", simple, DIALECT),
)
