"""An MCP server that is awkward on purpose, over stdio, of the old era, the new one, or both.

It speaks the protocol's letter in ways that no library does, and breaks it where it is told to: by its options for
the whole of its life, by a tool for one call. Standard library only.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Sequence

from tests.awkward import methods, raw, texts, wire
from tests.awkward.tools import TOOLS
from tests.awkward.wire import SUBSCRIPTION_KEY, Message, Wire


class Server:
    """The server: one thread reads and answers what it can at once, each call has one of its own."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.wire = Wire(options.record)
        self.cancelled: list[str] = []
        self.deaf = False
        self._lock = threading.Lock()
        self._numbers = itertools.cycle(texts.IDS)
        self._asked: dict[str, queue.Queue[str]] = {}
        self._stopped: dict[str, threading.Event] = {}
        self._gathered: list[Message] = []
        self._listening: dict[str, Message] = {}
        self._subscribed: set[str] = set()
        self._modern = options.era == "modern"

    def run(self) -> None:
        """Serve until the end of the input, and beyond it where that is asked for."""
        for line in self.options.early:
            self.wire.send(line)
        for message in self.wire.lines():
            self.take(message)
            if self.deaf:
                threading.Event().wait(3600)
        if self.options.ignore_eof:
            threading.Event().wait(3600)

    def take(self, message: Message) -> None:
        """One line of the client's: a response, a notification, or a request."""
        if not message.method:
            with self._lock:
                waiting = self._asked.get(json.dumps(json.loads(message.id or "null")))
            if waiting:
                waiting.put(message.line)
        elif not message.id:
            self._hear(message)
        elif not self.options.silent:
            self._stopped[message.id] = threading.Event()
            if message.method in ("tools/call", "subscriptions/listen"):
                threading.Thread(target=self._answer, args=[message], daemon=True).start()
            else:
                self._answer(message)

    def _hear(self, message: Message) -> None:
        if message.method == "notifications/cancelled":
            self.cancelled.append(message.params)
            identity = message.at("requestId")
            if identity in self._stopped:
                self._stopped[identity].set()
            with self._lock:
                self._listening.pop(identity, None)

    def _answer(self, message: Message) -> None:
        if self.options.era == "legacy" and message.method == "server/discover":
            self.wire.send(wire.error(message.id, "-32601", "Method not found", '{"m":1.0}'))
        elif self.options.era == "modern" and not message.modern:
            data = f'{{"supported":["{methods.MODERN}"],"requested":"unknown","x":1.0}}'
            self.wire.send(wire.error(message.id, "-32022", "Unsupported protocol version", data))
        elif message.method == "tools/call":
            self._call(message)
        else:
            methods.answer(self, message)

    def _call(self, message: Message) -> None:
        name = message.text("name")
        if name == "input":
            body = methods.asking(self, message)
        elif name not in TOOLS:
            data = f'{{"name":{json.dumps(name)},"n":1.0}}'
            self.wire.send(wire.error(message.id, "-32602", "Unknown tool", data))
            return
        elif message.at("task") or message.text("arguments", "as") == "task":
            body = methods.task_made(message)
        else:
            body = TOOLS[name](self, message)
        if body and not self._stopped[message.id].is_set():
            self.wire.send(wire.result(message.id, self.finish(message, body)))

    def finish(self, message: Message, body: str) -> str:
        """The result with what the message's era demands of it."""
        if not self.is_modern(message):
            return f"{{{body}}}"
        server = f'"io.modelcontextprotocol/serverInfo":{texts.INFO}'
        kind = "" if '"resultType":' in body else '"resultType":"complete",'
        cached = '"ttlMs":1.0e3,"cacheScope":"private",' if message.method in methods.CACHED else ""
        text = f"{{{kind}{cached}{body}}}"
        found = raw.find(text, "_meta")
        if found is None:
            return f'{{"_meta":{{{server}}},{text[1:]}'
        return f"{text[: found[0] + 1]}{server},{text[found[0] + 1 :]}"

    def is_modern(self, message: Message) -> bool:
        """Whether the message is of the new era, for a server that knows it."""
        return self.options.era != "legacy" and message.modern

    def ask(self, questions: list[tuple[str, str]], seconds: float) -> list[str]:
        """The answers to these questions, in the order of the questions; nothing for those that never came."""
        waiting = []
        for method, params in questions:
            with self._lock:
                identity = next(each for each in self._numbers if json.dumps(json.loads(each)) not in self._asked)
                key = json.dumps(json.loads(identity))
                self._asked[key] = queue.Queue()
            waiting.append(key)
            self.wire.send(wire.request(identity, method, params))
        answers = []
        for key in waiting:
            try:
                answers.append(self._asked[key].get(timeout=seconds))
            except queue.Empty:
                answers.append("")
            with self._lock:
                del self._asked[key]
        return answers

    def gather(self, message: Message, count: int) -> list[Message]:
        """Nothing, until this is the last of `count`: then all of them, in the order in which they came."""
        with self._lock:
            self._gathered.append(message)
            if len(self._gathered) < count:
                return []
            gathered, self._gathered = self._gathered, []
            arrived = list(self._stopped)
            return sorted(gathered, key=lambda each: arrived.index(each.id))

    def wait(self, message: Message, seconds: float) -> bool:
        """Whether the call was cancelled within that time."""
        return self._stopped[message.id].wait(seconds)

    def listen(self, message: Message) -> None:
        """Tell whoever asks of changes, until the request is cancelled."""
        with self._lock:
            self._listening[message.id] = message
        self._tell(
            message, "notifications/subscriptions/acknowledged", f'"notifications":{message.at("notifications")}'
        )

    def subscribe(self, uri: str, *, wanted: bool) -> None:
        with self._lock:
            self._subscribed = self._subscribed | {uri} if wanted else self._subscribed - {uri}

    def changed(self, uri: str) -> None:
        """A change of a resource and of the tools, told in the way of each era."""
        updated = f'"x-updated":1.0,"uri":{json.dumps(uri)}'
        with self._lock:
            listening, subscribed = list(self._listening.values()), set(self._subscribed)
        if uri in subscribed:
            self.wire.send(wire.notification("notifications/resources/updated", f"{{{updated}}}"))
        for message in listening:
            if uri in json.loads(message.at("notifications", "resourceSubscriptions") or "[]"):
                self._tell(message, "notifications/resources/updated", updated)
            if message.at("notifications", "toolsListChanged") == "true":
                self._tell(message, "notifications/tools/list_changed", '"x":1.0')

    def _tell(self, message: Message, method: str, body: str) -> None:
        meta = f'"_meta":{{"x":1.0,"{SUBSCRIPTION_KEY}":{message.id}}}'
        self.wire.send(wire.notification(method, f"{{{body},{meta}}}"))


def main(argv: Sequence[str]) -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--era", choices=("both", "legacy", "modern"), default="both")
    parser.add_argument("--early", action="append", default=[], metavar="LINE", help="said before anything is read")
    parser.add_argument("--record", default="", metavar="FILE", help="every line in (<) and out (>) is added to it")
    parser.add_argument("--pages", type=int, default=0, metavar="N", help="items in one page of a list")
    parser.add_argument(
        "--describe", default="Says what it got.", metavar="TEXT", help="the first tool's description"
    )
    parser.add_argument("--silent", action="store_true", help="never answer anything")
    parser.add_argument("--exit", type=int, metavar="STATUS", help="end at once")
    parser.add_argument("--noise", type=int, default=0, metavar="BYTES", help="on standard error, at the beginning")
    parser.add_argument("--ignore-eof", action="store_true")
    parser.add_argument("--ignore-term", action="store_true")
    options = parser.parse_args(argv)
    sys.stderr.write("n" * options.noise)
    if options.exit is not None:
        os._exit(options.exit)
    if options.ignore_term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Server(options).run()
