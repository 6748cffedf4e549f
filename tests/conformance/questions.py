"""The tools and the prompt of the conformance server that ask the client something before they answer."""

from __future__ import annotations

from mcp import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CallToolResult,
    ElicitRequest,
    ElicitResult,
    GetPromptResult,
    ListRootsRequest,
    ListRootsResult,
    PromptMessage,
    TextContent,
)

from tests.conformance.calls import Call, Question, form, said, sample
from tests.conformance.tools import Offer, strings, text

NAME = {"type": "string", "description": "User's response"}
EMAIL = {"type": "string", "description": "User's email address"}
OPTIONS = ["option1", "option2", "option3"]
DEFAULTS: dict[str, object] = {
    "name": {"type": "string", "description": "User name", "default": "John Doe"},
    "age": {"type": "integer", "description": "User age", "default": 30},
    "score": {"type": "number", "description": "User score", "default": 95.5},
    "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
    "verified": {"type": "boolean", "description": "Verification status", "default": True},
}


def titled(word: str) -> list[dict[str, str]]:
    """Three values with a title each."""
    names = ("First", "Second", "Third")
    return [{"const": f"value{number}", "title": f"{name} {word}"} for number, name in enumerate(names, 1)]


CHOICES: dict[str, object] = {
    "untitledSingle": {"type": "string", "enum": OPTIONS},
    "titledSingle": {"type": "string", "oneOf": titled("Option")},
    "legacyEnum": {
        "type": "string",
        "enum": ["opt1", "opt2", "opt3"],
        "enumNames": ["Option One", "Option Two", "Option Three"],
    },
    "untitledMulti": {"type": "array", "items": {"type": "string", "enum": OPTIONS}},
    "titledMulti": {"type": "array", "items": {"anyOf": titled("Choice")}},
}


def one(message: str, name: str, kind: str = "string") -> ElicitRequest:
    """A form with one field."""
    return form(message, {name: {"type": kind}}, [name])


def field(answer: object, name: str) -> str:
    """What the user wrote in a field, or that nothing was."""
    content = answer.content if isinstance(answer, ElicitResult) else None
    return str((content or {}).get(name, "nobody"))


def roots(answer: object) -> str:
    """The roots in one line."""
    return ", ".join(str(root.uri) for root in answer.roots) if isinstance(answer, ListRootsResult) else "none"


def reported(words: str, answer: ElicitResult) -> CallToolResult:
    return text(f"{words}: action={answer.action}, content={answer.content}")


async def sampling(call: Call) -> CallToolResult:
    answers = await call.ask({"sample": sample(call.text("prompt"))})
    return text(f"LLM response: {said(answers['sample'])}")


async def elicitation(call: Call) -> CallToolResult:
    question = form(call.text("message"), {"username": NAME, "email": EMAIL}, ["username", "email"])
    return reported("User response", await call.fill_in("user", question))


async def defaults(call: Call) -> CallToolResult:
    question = form("Please review and update the form fields with defaults", DEFAULTS, [])
    return reported("Elicitation completed", await call.fill_in("form", question))


async def choices(call: Call) -> CallToolResult:
    question = form("Please select options from the enum fields", CHOICES, [])
    return reported("Elicitation completed", await call.fill_in("form", question))


async def name(call: Call) -> CallToolResult:
    answer = await call.fill_in("user_name", one("What is your name?", "name"))
    return text(f"Hello, {field(answer, 'name')}!")


async def capital(call: Call) -> CallToolResult:
    answers = await call.ask({"capital_question": sample("What is the capital of France?")})
    return text(said(answers["capital_question"]))


async def client_roots(call: Call) -> CallToolResult:
    answers = await call.ask({"client_roots": ListRootsRequest()})
    return text(f"Roots: {roots(answers['client_roots'])}")


async def confirmed(call: Call) -> CallToolResult:
    """Only the state that this server gave is believed; the SDK seals it and checks the seal."""
    await call.fill_in("confirm", one("Please confirm", "ok", "boolean"), state="waiting")
    if call.modern and call.state != "waiting":
        raise MCPError(INVALID_PARAMS, "the request state is not the one that was given")
    return text("state-ok")


async def several(call: Call) -> CallToolResult:
    questions: dict[str, Question] = {
        "user_name": one("What is your name?", "name"),
        "greeting": sample("Generate a greeting", 50),
        "client_roots": ListRootsRequest(),
    }
    answers = await call.ask(questions, state="several")
    greeting, place = said(answers["greeting"]), roots(answers["client_roots"])
    return text(f"{greeting} {field(answers['user_name'], 'name')}, in {place}")


async def rounds(call: Call) -> CallToolResult:
    """Two questions, one after the other; what was answered first travels in the state."""
    seen, _, who = (call.state or "").partition(":")
    if seen != "second":
        who = field(await call.fill_in("step1", one("Step 1: What is your name?", "name"), "first"), "name")
    question = one("Step 2: What is your favorite color?", "color")
    color = field(await call.fill_in("step2", question, f"second:{who}"), "color")
    return text(f"{who} likes {color}.")


async def able(call: Call) -> CallToolResult:
    """Ask for no more than what the client can do."""
    questions: dict[str, Question] = {}
    if call.capabilities.elicitation is not None:
        questions["user_name"] = one("What is your name?", "name")
    if call.capabilities.sampling is not None:
        questions["greeting"] = sample("Generate a greeting")
    if not questions:
        return text("The client can answer nothing.")
    return text(f"Answered: {', '.join(await call.ask(questions))}")


async def prompt(call: Call) -> GetPromptResult:
    answer = await call.fill_in("user_context", one("What context should the prompt use?", "context"))
    content = TextContent(type="text", text=f"Use this context: {field(answer, 'context')}")
    return GetPromptResult(messages=[PromptMessage(role="user", content=content)])


ASKING = (
    Offer("test_sampling", "Asks the client's model.", sampling, strings("prompt")),
    Offer("test_elicitation", "Asks the user.", elicitation, strings("message")),
    Offer("test_elicitation_sep1034_defaults", "Asks with defaults for every kind of field.", defaults),
    Offer("test_elicitation_sep1330_enums", "Asks with every kind of choice.", choices),
    Offer("test_streaming_elicitation", "Asks the user in a stream.", name),
    Offer("test_input_required_result_elicitation", "Asks for a name.", name),
    Offer("test_input_required_result_sampling", "Asks for a capital.", capital),
    Offer("test_input_required_result_list_roots", "Asks for the roots.", client_roots),
    Offer("test_input_required_result_request_state", "Asks to confirm, with a state.", confirmed),
    Offer("test_input_required_result_tampered_state", "Asks to confirm, with a sealed state.", confirmed),
    Offer("test_input_required_result_multiple_inputs", "Asks three things at once.", several),
    Offer("test_input_required_result_multi_round", "Asks twice.", rounds),
    Offer("test_input_required_result_capabilities", "Asks what the client can answer.", able),
)
