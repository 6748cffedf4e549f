"""The awkward server's answers to everything that is not a plain tools/call."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.awkward import texts, wire
from tests.awkward.tools import QUESTIONS, TOOLS, content
from tests.awkward.wire import Message

if TYPE_CHECKING:
    from tests.awkward.server import Server

LEGACY = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
MODERN = "2026-07-28"
LISTS = {
    "tools/list": "tools",
    "prompts/list": "prompts",
    "resources/list": "resources",
    "resources/templates/list": "resourceTemplates",
}
CACHED = {*LISTS, "server/discover", "resources/read"}
TASK = (
    '"taskId":"task \\u0031","status":"working","x-task":{"n":1.0},"createdAt":"2026-01-01T00:00:00Z",'
    '"lastUpdatedAt":"2026-01-01T00:00:00Z","ttl":null,"pollInterval":1e1'
)
# a state that says something to nobody, in every kind of character
STATE = '"st\\u0061te/\\u00e9+=\\ud83d\\ude00 \u00e9"'


def items(server: Server, kind: str) -> tuple[str, ...]:
    """The whole list of a kind."""
    if kind == "tools":
        first, *rest = TOOLS
        described = json.dumps(server.options.describe)[1:-1]
        listed = [texts.tool(first, described, texts.SCHEMA)]
        listed += [texts.tool(name, f"Does {name}.") for name in (*rest, "input", "other__echo")]
        return tuple(listed)
    return {"prompts": texts.PROMPTS, "resources": texts.RESOURCES, "resourceTemplates": texts.TEMPLATES}[kind]


def answer(server: Server, message: Message) -> None:
    """Answer a request; an unknown method is answered with an error."""
    method, body = message.method, ""
    if method in LISTS:
        kind = LISTS[method]
        body = texts.page(kind, items(server, kind), message.text("cursor"), server.options.pages)
    elif method == "subscriptions/listen":
        server.listen(message)
        server.wait(message, 3600)
        return
    elif method in PLAIN:
        body = PLAIN[method]
    elif method in SPECIAL:
        body = SPECIAL[method](server, message)
    if body:
        server.wire.send(wire.result(message.id, server.finish(message, body)))
    else:
        data = f'{{"m":1.0,"method":{json.dumps(method)}}}'
        server.wire.send(wire.error(message.id, "-32601", "Method not found", data))


def initialize(server: Server, message: Message) -> str:
    """The revision that was asked for, if it is one of the old ones."""
    wanted = message.text("protocolVersion")
    version = wanted if wanted in LEGACY else LEGACY[-1]
    return (
        f'"x-initialize":1.0,"capabilities":{texts.CAPABILITIES},"protocolVersion":"{version}",'
        f'"instructions":{texts.INSTRUCTIONS},"serverInfo":{texts.INFO},{texts.META}'
    )


def discover(server: Server, message: Message) -> str:
    versions = f'["{MODERN}"]'
    return (
        f'"x-discover":1.0,"supportedVersions":{versions},"capabilities":{texts.CAPABILITIES},'
        f'"instructions":{texts.INSTRUCTIONS},{texts.META}'
    )


def read(server: Server, message: Message) -> str:
    """Two contents for every URI, unless it is one that there is not."""
    uri = message.at("uri")
    if message.text("uri").startswith("missing:"):
        return ""
    texts_of_it = f'{{"uri":{uri},"text":"\\u00e9\u00e9","x-contents":1.0,"mimeType":"text/plain",{texts.META}}}'
    blob = f'{{"blob":"AAECAw==","uri":{uri},"mimeType":"application/octet-stream"}}'
    return f'"contents":[{texts_of_it},{blob}],"x-read":[]'


def subscribe(server: Server, message: Message) -> str:
    server.subscribe(message.text("uri"), wanted=message.method == "resources/subscribe")
    return '"x-subscribed":1.0'


def prompt(server: Server, message: Message) -> str:
    """The prompt, with the arguments as they were written."""
    arguments = message.at("arguments") or "{}"
    return f'"description":"\\u0070","messages":[{texts.MESSAGE}],"x-arguments":{arguments},{texts.META}'


def complete(server: Server, message: Message) -> str:
    what = message.at("ref") or "null"
    return f'"completion":{{"values":["a","\\u00e9"],"total":2.0,"hasMore":false,"x":[]}},"x-ref":{what}'


def echo(server: Server, message: Message) -> str:
    """A method of the vendor's own: the params, as they were written."""
    return f'"x-echo":{message.params}'


def task_made(message: Message) -> str:
    """A task instead of an answer, in the shape of the era."""
    if message.modern:
        return f'"resultType":"task",{TASK},{texts.META}'
    return f'"task":{{{TASK}}},{texts.META}'


def task_result(server: Server, message: Message) -> str:
    return content("done", ',"_meta2":{"io.modelcontextprotocol/related-task":{"taskId":"task 1"}}')


def asking(server: Server, message: Message) -> str:
    """What the new era has instead of requests of the server's: the answers come with the next call."""
    answers = message.at("inputResponses")
    if answers:
        state = message.at("requestState") or "null"
        return content("answered", f',"structuredContent":{{"answers":{answers},"state":{state}}}')
    wanted = {"who": "form", "model \\u00e9": "sampling", "roots": "roots"}
    pairs = ",".join(
        f'"{key}":{{"method":"{QUESTIONS[name][0]}","params":{QUESTIONS[name][1]}}}' for key, name in wanted.items()
    )
    return f'"resultType":"input_required","requestState":{STATE},"inputRequests":{{{pairs}}},"x-input":1.0'


PLAIN = {
    "ping": '"x-pong":1.0',
    "logging/setLevel": '"x-level":[]',
    "tasks/get": f"{TASK}",
    "tasks/list": f'"tasks":[{{{TASK}}}],"x-tasks":1.0',
    "tasks/cancel": TASK.replace("working", "cancelled"),
    "tasks/update": '"x-update":1.0',
}
SPECIAL = {
    "initialize": initialize,
    "resources/read": read,
    "resources/subscribe": subscribe,
    "resources/unsubscribe": subscribe,
    "prompts/get": prompt,
    "completion/complete": complete,
    "vendor/echo": echo,
    "tasks/result": task_result,
    "server/discover": discover,
}
