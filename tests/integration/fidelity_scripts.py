"""The sessions that are played directly and through the product: everything a client may say, spelled oddly.

Each line is written out as it goes over the wire, because another spelling of the same JSON would be another test.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.integration.fidelity import Step

CLIENT = '{"name":"t\\u0065st","version":"1","x-client":{"n":1.0}}'
ABILITIES = (
    '{"sampling":{"tools":{},"x":1.0},"elicitation":{"form":{},"url":{}},"roots":{"listChanged":true},"x-c":[]}'
)
MODERN = (
    f'"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{CLIENT},'
    f'"io.modelcontextprotocol/clientCapabilities":{ABILITIES},"com.example/v":{{"n":1.10}}'
)
ODD = (
    '{"one":1.0,"big":123456789012345678901234567890,"e":1E+2,"z":-0.0,"s":"\\u0041\\ud83d\\ude00\\/",'
    '"nested":{"b":1,"a":[ 1 , 2.50 ]}, "":null,"raw":"\u00e9\u2028"}'
)
LARGE = '{"s":"' + "\\u00e9" * 400_000 + '","v":[' + "1.0," * 60_000 + "1.0]}"
# What the client answers when it is asked; the last is for methods that it does not know.
REPLIES = {
    "sampling/createMessage": '"result":{"role":"assistant","model":"m","content":{"type":"text","text":"\\u00e9",'
    '"x":1.0},"stopReason":"endTurn","x-sampled":[1e0]}',
    "elicitation/create": '"result":{"action":"accept","content":{"n":1.0,"\\u0078":"y"},"x-elicited":{}}',
    "roots/list": '"result":{"roots":[{"uri":"file:///\\u0061","name":"a","x-root":1.0}],"_meta":{"x":1.50}}',
    "ping": '"result":{"x-pong":0.0}',
    "": '"error":{"code":-32601,"message":"Method not f\\u006fund","data":{"n":1.0},"x-error":[]}',
}
LISTS = ("tools/list", "prompts/list", "resources/list", "resources/templates/list")
# Of each kind that an id may have, at once.
IDS = ("0", "-7", "9007199254740993", '""', '"17"', "17", '"\\u00e9\\"\\/"', '"\u00fc"')
MORE = ("9223372036854775807", "-9007199254740992", f'"{"long" * 60}"', '"\\n\\t\\u0000"', "1000", '" "')
TOKENS = ("0", '"0"', '"t \\u00e9"', "9007199254740993")


class Script:
    """Lines with ids of its own; `prefix` stands before the names of tools and prompts.

    `several`: for an endpoint with several servers; then nothing is said that names none of them.
    """

    def __init__(self, *, modern: bool, prefix: str = "", several: bool = False) -> None:
        self.modern = modern
        self.prefix = prefix
        self.several = several
        self._number = 100

    def identity(self) -> str:
        """A new id; every third one is a string."""
        self._number += 1
        return f'"n{self._number}"' if self._number % 3 == 0 else str(self._number)

    def line(self, identity: str, method: str, params: str = "", meta: str = "") -> str:
        """A request: `params` and `meta` are members without their braces."""
        meta = ",".join(filter(None, (meta, MODERN if self.modern else "")))
        body = ",".join(filter(None, (params, f'"_meta":{{{meta}}}' if meta else "")))
        inner = f'"params":{{{body}}},' if body else ""
        return f'{{"method":"{method}","x-asked":[1.0],{inner}"id":{identity},"jsonrpc":"2.0"}}'

    def ask(self, method: str, params: str = "", meta: str = "", others: int = 0) -> Step:
        identity = self.identity()
        return Step((self.line(identity, method, params, meta),), (identity,), others)

    def tool(self, name: str, arguments: str = "{}", more: str = "") -> str:
        """The params of a tools/call."""
        return f'"arguments":{arguments},"x-call":{{"n":1.0}},"name":"{self.prefix}{name}"{more}'

    def call(self, name: str, arguments: str = "{}", more: str = "", meta: str = "") -> Step:
        return self.ask("tools/call", self.tool(name, arguments, more), meta)

    def tell(self, method: str, params: str) -> Step:
        return Step((f'{{"params":{{{params}}},"jsonrpc":"2.0","x-told":1.0,"method":"{method}"}}',))

    def lists(self) -> Iterator[Step]:
        for method in LISTS:
            yield self.ask(method, '"x-list":1.0')

    def calls(self) -> Iterator[Step]:
        """Tools that answer at once, in every size and spelling."""
        yield self.call("echo", ODD)
        for name in ("numbers", "escapes", "tiny", "pieces", "failed", "erroneous"):
            yield self.call(name)
        yield self.call("huge", '{"bytes":4194304}')
        yield self.call("echo", LARGE)
        yield self.call("echo", '{"as":"task"}') if self.modern else self.call("echo", more=',"task":{"ttl":1.0}')
        for token in TOKENS:
            level = '"io.modelcontextprotocol/logLevel":"debug",' if self.modern else ""
            meta = f'"progressToken":{token},{level}"x-meta":{{"n":1.0}}'
            yield self.call("notify", '{"times":2.0}', meta=meta)

    def crowd(self) -> Iterator[Step]:
        """Many at once, answered out of order, with ids of every kind."""
        params = self.tool("backwards", f'{{"of":{len(IDS)},"name":"c"}}')
        yield Step(tuple(self.line(each, "tools/call", params) for each in IDS), IDS)
        params = f'"arguments":{{"who":1.0}},"name":"{self.prefix}greet"'
        yield Step(tuple(self.line(each, "prompts/get", params) for each in MORE), MORE)

    def rest(self) -> Iterator[Step]:
        """Everything that is not a tool."""
        yield self.ask("resources/read", '"uri":"awkward://two?q=%C3%A9&r=1#f","x-read":1.0')
        yield self.ask("resources/read", '"uri":"awkward://item/\\u0061b?q=c"')
        yield self.ask("prompts/get", f'"name":"{self.prefix}greet","arguments":{{"who":"\\u00e9"}},"x-get":1.0')
        reference = f'{{"type":"ref/prompt","name":"{self.prefix}greet","x":1.0}}'
        yield self.ask("completion/complete", f'"ref":{reference},"argument":{{"name":"who","value":"\\u0061"}}')
        template = '{"type":"ref/resource","uri":"awkward://item/{id}{?q}"}'
        yield self.ask(
            "completion/complete", f'"ref":{template},"argument":{{"name":"id","value":""}},"context":{{}}'
        )
        if not self.several:
            yield self.ask("vendor/echo", f'"any":{ODD}')
            yield self.ask("vendor/unknown", '"n":1.0')
        yield self.ask("tasks/get", '"taskId":"task \\u0031","x":1.0')
        yield self.ask("tasks/cancel", '"taskId":"task 1"')

    def cancelling(self) -> Iterator[Step]:
        """A call that is cancelled, and the proof that its server was told."""
        identity = self.identity()
        yield Step((self.line(identity, "tools/call", self.tool("slow", '{"seconds":30}')),))
        # answered, so the one before it is under way: a call that is not is forgotten where it is
        yield self.call("tiny")
        yield self.tell("notifications/cancelled", f'"x-c":1.0,"requestId":{identity},"reason":"\\u006eo \\u2014"')
        yield self.call("cancelled")


def surrogates(prefix: str = "") -> Iterator[Step]:
    """Text that was cut in the middle of a character, in both directions."""
    script = Script(modern=False, prefix=prefix)
    opening = f'"clientInfo":{CLIENT},"protocolVersion":"2025-11-25","capabilities":{ABILITIES}'
    yield script.ask("initialize", opening)
    yield script.tell("notifications/initialized", "")
    yield script.call("surrogates")
    yield script.call("echo", '{"cut":"\\ud83d","\\ude00":"\\ud800 \\ud800"}')


def pages(prefix: str = "") -> Iterator[Step]:
    """Lists in pages, the cursor spelled otherwise than the server spelled it; and a ping of the server's."""
    script = Script(modern=True, prefix=prefix)
    yield script.call("ask", '{"what":["ping"]}')
    for method in LISTS:
        yield script.ask(method)
        yield script.ask(method, '"cursor":"p\\u0061ge \\u2192 1","x-page":1.0')


def legacy(prefix: str = "", *, several: bool = False) -> Iterator[Step]:
    """A session of the old era, with questions of the server's."""
    script = Script(modern=False, prefix=prefix, several=several)
    opening = f'"clientInfo":{CLIENT},"protocolVersion":"2025-11-25","capabilities":{ABILITIES},"x-init":1e0'
    yield script.ask("initialize", opening)
    yield script.tell("notifications/initialized", '"x-i":1.0')
    yield from script.lists()
    yield from script.calls()
    yield script.call("ask", '{"what":["sampling","form","url","roots","unknown"]}')
    yield script.call("ask", '{"what":["roots","form","roots","url","sampling","sampling","form","url"]}')
    yield from script.crowd()
    yield from script.rest()
    yield script.ask("ping", '"x-ping":1.0')
    yield script.ask("logging/setLevel", '"level":"debug","x":1.0')
    yield script.ask("resources/subscribe", '"uri":"awkward://one","x":1.0')
    yield script.call("touch")
    yield script.ask("resources/unsubscribe", '"uri":"awkward://one"')
    yield script.call("touch")
    yield script.ask("tasks/list")
    yield script.ask("tasks/result", '"taskId":"task 1"')
    yield script.tell("notifications/roots/list_changed", '"x":1.0')
    if not several:
        yield script.tell("notifications/vendor/\\u00e9vent", '"n":[1.0,1e3]')
    yield from script.cancelling()


def modern(prefix: str = "", *, several: bool = False, streams: bool = True) -> Iterator[Step]:
    """A session of the new era: no handshake, and questions in results.

    Without `streams`, nothing that is ended by a message: over HTTP that is done by hanging up.
    """
    script = Script(modern=True, prefix=prefix, several=several)
    yield script.ask("server/discover", '"x-discover":1.0')
    yield from script.lists()
    yield from script.calls()
    yield script.call("input")
    answers = '{"who":{"action":"accept","content":{"n":1.0}},"model \\u00e9":{"x":1e0},"roots":{"roots":[]}}'
    state = '"st\\u0061te/\\u00e9+=\\ud83d\\ude00 \u00e9"'
    yield script.call("input", more=f',"inputResponses":{answers},"requestState":{state}')
    yield from script.crowd()
    yield from script.rest()
    if not streams:
        return
    listening = script.identity()
    wanted = '"notifications":{"toolsListChanged":true,"resourceSubscriptions":["awkward://one"],"x":1.0}'
    yield Step((script.line(listening, "subscriptions/listen", wanted),), others=1)
    yield script.call("touch")
    # nothing more in it: a subscription at the server is the gateway's own, for whoever listens here
    yield Step((f'{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{listening}}}}}',))
    yield from script.cancelling()
