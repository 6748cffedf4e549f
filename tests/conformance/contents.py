"""The resources and prompts of the conformance server."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from mcp import MCPError
from mcp_types import (
    INVALID_PARAMS,
    BlobResourceContents,
    Completion,
    ContentBlock,
    GetPromptResult,
    Prompt,
    PromptArgument,
    PromptMessage,
    ReadResourceResult,
    Resource,
    ResourceTemplate,
    TextContent,
    TextResourceContents,
)

from tests.conformance import questions
from tests.conformance.calls import Call
from tests.conformance.tools import PNG, image, resource

RESOURCES = (
    Resource(uri="test://static-text", name="static-text", description="A text.", mime_type="text/plain"),
    Resource(uri="test://static-binary", name="static-binary", description="An image.", mime_type="image/png"),
    Resource(
        uri="test://watched-resource", name="watched-resource", description="Changes.", mime_type="text/plain"
    ),
)
TEMPLATES = (
    ResourceTemplate(
        uri_template="test://template/{id}/data",
        name="template",
        description="Data by number.",
        mime_type="application/json",
    ),
)
TEXTS = {
    "test://static-text": "This is the content of the static text resource.",
    "test://watched-resource": "Watched resource content.",
}
WORDS = ("paris", "park", "party", "test", "tester")
GetPrompt = Callable[[Call], Awaitable[GetPromptResult]]


def read(uri: str) -> ReadResourceResult:
    """The contents; MCPError for what there is not."""
    if uri in TEXTS:
        return _text(uri, "text/plain", TEXTS[uri])
    if uri == "test://static-binary":
        blob = BlobResourceContents(uri=uri, mime_type="image/png", blob=PNG)
        return ReadResourceResult(contents=[blob])
    if found := re.fullmatch(r"test://template/([^/]+)/data", uri):
        words = f'{{"id":"{found[1]}","templateTest":true,"data":"Data for ID: {found[1]}"}}'
        return _text(uri, "application/json", words)
    raise MCPError(INVALID_PARAMS, "Resource not found", {"uri": uri})


def _text(uri: str, mime_type: str, words: str) -> ReadResourceResult:
    return ReadResourceResult(contents=[TextResourceContents(uri=uri, mime_type=mime_type, text=words)])


def complete(value: str) -> Completion:
    """The words that begin like `value`."""
    found = [word for word in WORDS if word.startswith(value)]
    return Completion(values=found, total=len(found), has_more=False)


def prompted(*blocks: ContentBlock | str) -> GetPromptResult:
    """One message of the user's for each block."""
    contents = [TextContent(type="text", text=each) if isinstance(each, str) else each for each in blocks]
    return GetPromptResult(messages=[PromptMessage(role="user", content=each) for each in contents])


async def _simple(call: Call) -> GetPromptResult:
    return prompted("This is a simple prompt for testing.")


async def _arguments(call: Call) -> GetPromptResult:
    return prompted(f"Prompt with arguments: arg1='{call.text('arg1')}', arg2='{call.text('arg2')}'")


async def _embedded(call: Call) -> GetPromptResult:
    held = resource(call.text("resourceUri"), "text/plain", "Embedded resource content for testing.")
    return prompted(held, "Please process the embedded resource above.")


async def _image(call: Call) -> GetPromptResult:
    return prompted(image(), "Please analyze the image above.")


@dataclass(frozen=True)
class PromptOffer:
    """A prompt: how it is listed, and how it is made."""

    name: str
    description: str
    work: GetPrompt
    arguments: tuple[str, ...] = ()

    def listed(self) -> Prompt:
        each = [PromptArgument(name=name, description=f"the {name}", required=True) for name in self.arguments]
        return Prompt(name=self.name, description=self.description, arguments=each or None)


PROMPTS = (
    PromptOffer("test_simple_prompt", "A prompt.", _simple),
    PromptOffer("test_prompt_with_arguments", "A prompt with arguments.", _arguments, ("arg1", "arg2")),
    PromptOffer("test_prompt_with_embedded_resource", "With a resource.", _embedded, ("resourceUri",)),
    PromptOffer("test_prompt_with_image", "A prompt with an image.", _image),
    PromptOffer("test_input_required_result_prompt", "Asks before it answers.", questions.prompt),
)
