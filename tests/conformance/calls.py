"""What a tool or prompt of the conformance server gets, and how it asks the client in either era of the protocol.

Up to 2025-11-25 a question is a request of the server's own. From 2026-07-28 on it is a result that says what is
missing, and the client calls again with the answers: whoever asks here is started anew then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import anyio
from mcp.server.context import ServerRequestContext
from mcp.server.subscriptions import InMemorySubscriptionBus
from mcp.shared.message import ServerMessageMetadata
from mcp_types import (
    ClientCapabilities,
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequiredResult,
    ListRootsRequest,
    ListRootsResult,
    SamplingMessage,
    TextContent,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

Context = ServerRequestContext[dict[str, object]]
Question = CreateMessageRequest | ElicitRequest | ListRootsRequest
Answer = TypeVar("Answer", CreateMessageResult, ElicitResult, ListRootsResult)


class InputNeeded(Exception):
    """The client has to answer first."""

    def __init__(self, result: InputRequiredResult) -> None:
        super().__init__("input required")
        self.result = result


@dataclass(frozen=True)
class Call:
    """One tools/call or prompts/get."""

    context: Context
    bus: InMemorySubscriptionBus
    name: str
    arguments: Mapping[str, object]
    answers: Mapping[str, object] = field(default_factory=dict)
    state: str | None = None

    @property
    def modern(self) -> bool:
        """Whether the call is of the era without requests of the server's own."""
        return self.context.protocol_version in MODERN_PROTOCOL_VERSIONS

    @property
    def capabilities(self) -> ClientCapabilities:
        """What the client says it can do."""
        return self.context.session.client_capabilities or ClientCapabilities()

    def text(self, name: str, default: str = "") -> str:
        """A string argument."""
        value = self.arguments.get(name, default)
        return value if isinstance(value, str) else default

    async def ask(self, questions: Mapping[str, Question], state: str | None = None) -> dict[str, object]:
        """The answers by key, all asked for at once.

        InputNeeded where some are missing: the client calls again, and `state` comes back with that call.
        """
        if self.modern:
            if all(isinstance(self.answers.get(key), kind(each)) for key, each in questions.items()):
                return {key: self.answers[key] for key in questions}
            raise InputNeeded(InputRequiredResult(input_requests=dict(questions), request_state=state))
        answers: dict[str, object] = {}
        async with anyio.create_task_group() as group:
            for key, each in questions.items():
                group.start_soon(self._send, key, each, answers)
        return answers

    async def _send(self, key: str, question: Question, answers: dict[str, object]) -> None:
        related = ServerMessageMetadata(related_request_id=self.context.request_id)
        answers[key] = await self.context.session.send_request(question, kind(question), metadata=related)

    async def fill_in(self, key: str, question: ElicitRequest, state: str | None = None) -> ElicitResult:
        """The answer to one form."""
        answer = (await self.ask({key: question}, state))[key]
        assert isinstance(answer, ElicitResult)
        return answer


def kind(question: Question) -> type[CreateMessageResult] | type[ElicitResult] | type[ListRootsResult]:
    """The type of the answer."""
    if isinstance(question, CreateMessageRequest):
        return CreateMessageResult
    return ElicitResult if isinstance(question, ElicitRequest) else ListRootsResult


def form(message: str, properties: dict[str, object], required: list[str]) -> ElicitRequest:
    """A question to the user."""
    schema: dict[str, object] = {"type": "object", "properties": properties, "required": required}
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def sample(prompt: str, limit: int = 100) -> CreateMessageRequest:
    """A question to the client's model."""
    message = SamplingMessage(role="user", content=TextContent(type="text", text=prompt))
    return CreateMessageRequest(params=CreateMessageRequestParams(messages=[message], max_tokens=limit))


def said(answer: object) -> str:
    """The text of a model's answer."""
    content = answer.content if isinstance(answer, CreateMessageResult) else None
    return content.text if isinstance(content, TextContent) else ""
