"""The awkward server's tools: what each does is what a server should not do, or may do and nobody expects.

A tool gets its call and gives the text of its result, or nothing if it has answered by itself, or never will.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import threading
from collections.abc import Callable
from typing import Protocol

from tests.awkward import raw, texts, wire
from tests.awkward.wire import Message, Wire, quote


class Host(Protocol):
    """What a tool can use of the server."""

    wire: Wire
    cancelled: list[str]
    deaf: bool

    def ask(self, questions: list[tuple[str, str]], seconds: float) -> list[str]: ...
    def gather(self, message: Message, count: int) -> list[Message]: ...
    def wait(self, message: Message, seconds: float) -> bool: ...
    def changed(self, uri: str) -> None: ...
    def finish(self, message: Message, body: str) -> str: ...


Tool = Callable[[Host, Message], str]
QUESTIONS = {
    "sampling": (
        "sampling/createMessage",
        '{"maxTokens":1e2,"messages":[{"role":"user","content":{"type":"text","text":"\\u00bfqu\u00e9?","x":1.0}}],'
        '"x-sampling":{"k":[]},"_meta":{"com.example/q":2.0},"toolChoice":{"mode":"auto"}}',
    ),
    "form": (
        "elicitation/create",
        '{"message":"name?","requestedSchema":{"type":"object","properties":{"n":{"type":"number","default":1.0,'
        '"x-p":null}},"x-schema":1},"x-form":[],"mode":"form"}',
    ),
    "url": (
        "elicitation/create",
        '{"mode":"url","message":"go there","url":"https://example.com/\\u0061?b=c","elicitationId":"e \\u0031"}',
    ),
    "roots": ("roots/list", '{"_meta":{"x":1.0}}'),
    "ping": ("ping", '{"x-ping":0.0}'),
    "unknown": ("vendor/question", '{"any":[1.0,{"thing":null}]}'),
}
KINDS = (
    ("notifications/message", '{"level":"info","logger":"l","data":{"n":1.0,"x":["\\u00e9"]},"x-message":1e0}'),
    ("notifications/tools/list_changed", '{"x-changed":[]}'),
    ("notifications/prompts/list_changed", "{}"),
    ("notifications/resources/list_changed", '{"_meta":{"x":1}}'),
    ("notifications/resources/updated", '{"uri":"awkward://one","title":"x","x-updated":1.0}'),
    ("notifications/elicitation/complete", '{"elicitationId":"e 1","x":{}}'),
    ("notifications/tasks/status", '{"taskId":"task \\u0031","status":"working","pollInterval":1.0,"x":[]}'),
    ("notifications/vendor/\\u00e9vent", '{"n":[1.0,1e3],"x":"\\u0000"}'),
)


def content(text: str, more: str = "") -> str:
    """The members of a result with one text."""
    block = f'{{"x-block":{{"n":1.0}},"type":"text","text":{quote(text)},"annotations":{{"priority":1.0,"x":[]}}}}'
    return f'"content":[{block}],"x-result":{{"deep":[{{"n":1.50}}]}},{texts.META}{more}'


def echo(host: Host, message: Message) -> str:
    """The arguments, as they were written."""
    return content("echo", f',"structuredContent":{message.at("arguments") or "{}"},"isError":false')


def received(host: Host, message: Message) -> str:
    """The whole line as it arrived, in a form that no decoder changes."""
    line = base64.b64encode(message.line.encode("utf-8", "surrogateescape")).decode()
    return content(line)


def numbers(host: Host, message: Message) -> str:
    return content("numbers", f',"structuredContent":{texts.NUMBERS}')


def escapes(host: Host, message: Message) -> str:
    return content("escapes", f',"structuredContent":{texts.ESCAPES}')


def surrogates(host: Host, message: Message) -> str:
    """Half a pair, as JavaScript writes a text that was cut in the middle of a character."""
    return content("half", ',"structuredContent":{"cut":"\\ud83d","\\ude00":["\\ud800\\ud800 \\udc00"]}')


def tiny(host: Host, message: Message) -> str:
    return '"content":[]'


def huge(host: Host, message: Message) -> str:
    """As many bytes as asked for, 4 MiB if nothing is said; long strings and many small values."""
    size = int(message.number("arguments", "bytes", default=4 << 20))
    values = ",".join(["1.0"] * min(size // 8, 100_000))
    return content("y" * (size // 2), f',"structuredContent":{{"s":"{"z" * (size // 2)}","v":[{values}]}}')


def ask(host: Host, message: Message) -> str:
    """Questions to the client, several at once, with ids of every kind; the answers without them, as written."""
    wanted = json.loads(message.at("arguments", "what") or "[]") or list(QUESTIONS)
    lines = host.ask([QUESTIONS[name] for name in wanted], message.number("arguments", "seconds", default=30))
    answers = [{key: text for key, text in raw.members(line or "{}").items() if key != "id"} for line in lines]
    return content(f"{len(lines)} answers", f',"structuredContent":{{"answers":{json.dumps(answers)}}}')


def notify(host: Host, message: Message) -> str:
    """Notifications of every kind that the era has unasked, progress in every spelling, as often as asked for."""
    token = message.at("_meta", "progressToken")
    kinds = [each for each in KINDS if not (message.modern and each[0].endswith(("list_changed", "updated")))]
    for _ in range(int(message.number("arguments", "times", default=1))):
        for method, params in kinds:
            text = wire.notification("@", params).replace('"@"', f'"{method}"')
            host.wire.send(text)
        for step in ("0", "0.5", "1e0", "2.50") if token else ():
            params = f'{{"total":1e1,"progress":{step},"progressToken":{token},"message":"\\u2026","x-p":[1.0]}}'
            host.wire.send(wire.notification("notifications/progress", params))
    return content("notified")


def failed(host: Host, message: Message) -> str:
    host.wire.send(
        wire.error(message.id, "-32000", "it \u2014 failed", '{"n":1.0,"deep":{"x":[null,1e3]},"s":"\\u00e9"}')
    )
    return ""


def erroneous(host: Host, message: Message) -> str:
    return content("wrong", ',"isError":true')


def slow(host: Host, message: Message) -> str:
    """An answer after some seconds, or none if it was cancelled meanwhile."""
    return "" if host.wait(message, message.number("arguments", "seconds", default=1)) else content("slow")


def never(host: Host, message: Message) -> str:
    host.wait(message, 3600)
    return ""


def cancelled(host: Host, message: Message) -> str:
    """Why calls were cancelled so far, as it was written."""
    reasons = [raw.value(params, "reason") for params in host.cancelled]
    return content("cancelled", f',"structuredContent":{{"cancelled":{json.dumps(reasons)}}}')


def die(host: Host, message: Message) -> str:
    """The end: with a status, or by a signal."""
    if number := int(message.number("arguments", "signal")):
        os.kill(os.getpid(), number)
        threading.Event().wait(3600)  # another thread may be the one that gets it
    os._exit(int(message.number("arguments", "status", default=3)))


def close(host: Host, message: Message) -> str:
    """Close standard output and live on."""
    os.close(1)
    threading.Event().wait(3600)
    return ""


def twice(host: Host, message: Message) -> str:
    host.wire.send(wire.result(message.id, host.finish(message, content("first"))))
    return content("second")


def stranger(host: Host, message: Message) -> str:
    """Answers to requests that nobody made, then its own."""
    for identity in ('"nobody \\u0069s this"', "424242", "null", "1.5"):
        host.wire.send(wire.result(identity, host.finish(message, content("for nobody"))))
        host.wire.send(wire.error(identity, "-1", "for nobody", "null"))
    return content("own")


def garbage(host: Host, message: Message) -> str:
    """Lines that are no message, then its answer."""
    for line in ("Listening on port 3000", "", "   ", "[]", "42", '"text"', "{}", '{"jsonrpc":"1.0","id":1}', "{"):
        host.wire.send(line)
    host.wire.send("\udcff\udcfe not UTF-8")
    host.wire.send('[{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"batch"}}]')
    return content("after garbage")


def flood(host: Host, message: Message) -> str:
    """Much on standard error, then its answer."""
    size = int(message.number("arguments", "bytes", default=1 << 20))
    for start in range(0, size, 1 << 12):
        sys.stderr.write("e" * (min(1 << 12, size - start) - 1) + "\n")
    sys.stderr.flush()
    return content("flooded")


def backwards(host: Host, message: Message) -> str:
    """Wait until so many of these calls are here, then answer the last one first."""
    for each in reversed(host.gather(message, int(message.number("arguments", "of", default=3)))):
        host.wire.send(wire.result(each.id, host.finish(each, content(f"call {each.text('arguments', 'name')}"))))
    return ""


def pieces(host: Host, message: Message) -> str:
    body = wire.result(message.id, host.finish(message, content("in \u00e9 pieces")))
    host.wire.send_slowly(body, int(message.number("arguments", "pieces", default=40)))
    return ""


def pid(host: Host, message: Message) -> str:
    return content(str(os.getpid()))


def touch(host: Host, message: Message) -> str:
    """A change: whoever subscribed is told."""
    host.changed(message.text("arguments", "uri", default="awkward://one"))
    return content("touched")


def deafen(host: Host, message: Message) -> str:
    """Answer, and read nothing any more."""
    host.deaf = True
    return content("deaf")


TOOLS: dict[str, Tool] = {
    each.__name__: each
    for each in (
        echo,
        received,
        numbers,
        escapes,
        surrogates,
        tiny,
        huge,
        ask,
        notify,
        failed,
        erroneous,
        slow,
        never,
        cancelled,
        die,
        close,
        twice,
        stranger,
        garbage,
        flood,
        backwards,
        pieces,
        pid,
        touch,
        deafen,
    )
}
