"""The requests of a client, each with what is done about it: answered here, or sent to the server it names.

Runs unprivileged. Two tables, one for each era; a method that is in neither goes to the server of a single-server
endpoint and is refused elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from supervisor.proxy import eras, listening, message
from supervisor.proxy.calls import MAX_CALLS, Call
from supervisor.proxy.message import Fields

if TYPE_CHECKING:
    from supervisor.proxy.conversation import Conversation
    from supervisor.proxy.endpoint import Route
    from supervisor.proxy.servers import Server
    from supervisor.roles.verdict import Verdict

Answer = Callable[["Conversation", Call], None]


def initialize(to: Conversation, call: Call) -> None:
    """The handshake of the legacy era."""
    endpoint = to.endpoint
    asked = message.text(call.params.get("protocolVersion"))
    capabilities = call.params.get("capabilities", message.EMPTY)
    client = call.params.get("clientInfo", to.hello.client)
    if asked is None or message.fields(capabilities) is None or message.fields(client) is None:
        said = "initialize needs protocolVersion (text), capabilities and clientInfo (objects)"
        to.refuse(call, message.INVALID_PARAMS, said)
        return
    version = eras.negotiated(asked, endpoint.most())
    to.protocol = version
    to.hello.capabilities, to.hello.client = capabilities.copy(), client.copy()
    to.known.clear()
    to.answer(call, message.result(bytes(call.spelling), endpoint.handshake(version)))


def ping(to: Conversation, call: Call) -> None:
    """We live."""
    to.answer(call, message.result(bytes(call.spelling), b"{}"))


def discover(to: Conversation, call: Call) -> None:
    """What there is, in the modern era."""
    to.answer(call, message.result(bytes(call.spelling), to.endpoint.discovery()))


def set_level(to: Conversation, call: Call) -> None:
    """What a legacy client wants to hear of its servers' logs."""
    level = message.text(call.params.get("level"))
    if level not in eras.LEVELS:
        to.refuse(call, message.INVALID_PARAMS, f"level is one of {', '.join(eras.LEVELS)}")
        return
    to.hello.level = level
    for instance in to.instances:
        if instance.owner is to and instance.ready and not instance.modern:
            instance.set_level(level)
    to.answer(call, message.result(bytes(call.spelling), b"{}"))


def listing(kind: str) -> Answer:
    """A list, from the pinned manifests."""

    def answer(to: Conversation, call: Call) -> None:
        endpoint = to.endpoint
        if endpoint.single and not endpoint.offers(kind):
            unknown(to, call)
            return
        written = call.params.get("cursor")
        if written is not None and bytes(written) == message.NULL:
            written = None
        cursor = message.text(written)
        page = endpoint.page(kind, cursor, modern=call.modern)
        if page is None or (written is not None and cursor is None):
            to.refuse(call, message.INVALID_PARAMS, "this cursor is not one that was given out here")
            return
        to.answer(call, message.result(bytes(call.spelling), page))

    return answer


def using(kind: str) -> Answer:
    """A tool or a prompt, by its exposed name."""

    def answer(to: Conversation, call: Call) -> None:
        name = message.text(call.params.get("name"))
        if name is None:
            to.refuse(call, message.INVALID_PARAMS, "params.name is missing, or is not text")
            return
        call.name = name
        route = to.endpoint.routes[kind].get(name)
        if route is None:
            said = f"Unknown {kind[:-1]}: {name[:200]}"
            to.deny(call, to.endpoint.meant(name), (message.INVALID_PARAMS, said), "not listed")
            return
        to.use(call, route, "name")

    return answer


def used(to: Conversation, usual: message.Usual) -> bool:
    """Call a tool, the short way; False if it is none, or its id is none or in use, which is told the long way."""
    key, name = message.identifier(usual.id), usual.params.name
    route = to.endpoint.routes["tools"].get(name)
    if key is None or key in to.calls or route is None:
        return False
    fields = {"jsonrpc": message.TWO, "id": usual.id, "method": message.CALL}
    params = {"name": route.name or message.raw(name), "arguments": usual.params.arguments}
    call = Call(to, key, fields, method="tools/call", params=params, meta=None)
    call.name = name
    to.use(call, route, "name")
    return True


def deny(to: Conversation, call: Call, server: Server, verdict: Verdict) -> None:
    """A request that a rule forbids."""
    to.gateway.meter.refused(verdict.rule)
    to.deny(call, server, (message.NOT_ALLOWED, verdict.reason), verdict.rule)


def _forward(to: Conversation, call: Call, server: Server) -> None:
    """A request that names nothing that a list has: for those who may open the server."""
    verdict = server.roles.opens(to.principal) if server.roles else None
    if verdict and verdict.outcome != "allow":
        deny(to, call, server, verdict)
    else:
        to.forward(call, server)


def _resource(to: Conversation, call: Call) -> Route | None:
    """The route of params.uri; None when the client has been told that there is none."""
    uri = message.text(call.params.get("uri"))
    if uri is None:
        to.refuse(call, message.INVALID_PARAMS, "params.uri is missing, or is not text")
        return None
    call.name = uri
    route = to.endpoint.resource(uri)
    if route is None:
        code = message.INVALID_PARAMS if call.modern else message.RESOURCE_NOT_FOUND
        to.deny(call, None, (code, "Resource not found"), "not listed", {"uri": uri})
    return route


def read(to: Conversation, call: Call) -> None:
    """A resource, by its exposed name."""
    if route := _resource(to, call):
        to.use(call, route, "uri")


def subscribe(to: Conversation, call: Call) -> None:
    """News of a resource, the legacy way."""
    route = _resource(to, call)
    if route is None:
        return
    verdict = route.judged(None)
    if verdict.outcome == "allow":
        to.gateway.news.subscribe(to, call, route)
    else:
        deny(to, call, route.server, verdict)


def listen(to: Conversation, call: Call) -> None:
    """News of lists and resources, the modern way."""
    wanted = message.fields(call.params.get("notifications", message.TWO))
    if wanted is None:
        to.refuse(call, message.INVALID_PARAMS, "params.notifications is missing")
    elif len(message.items(wanted.get("resourceSubscriptions"))) > listening.MOST:
        to.refuse(call, message.INVALID_PARAMS, f"resourceSubscriptions has more than {listening.MOST} entries")
    elif len(to.calls) >= MAX_CALLS:
        to.refuse(call, message.BUSY, f"this client has {MAX_CALLS} requests in flight")
    else:
        to.gateway.news.listen(to, call, wanted)


def complete(to: Conversation, call: Call) -> None:
    """Completion, for a prompt or a resource template."""
    ref = message.fields(call.params.get("ref", message.TWO)) or {}
    prompt = message.text(ref.get("type")) == "ref/prompt"
    member = "name" if prompt else "uri"
    name = message.text(ref.get(member))
    if name is None or message.ambiguous(ref):
        to.refuse(call, message.INVALID_PARAMS, "params.ref names no prompt and no resource, or two")
        return
    call.name = name
    route = to.endpoint.routes["prompts" if prompt else "templates"].get(name)
    if route is None:
        route = None if prompt else to.endpoint.resource(name)
    if route is None:
        to.refuse(call, message.INVALID_PARAMS, f"Unknown {'prompt' if prompt else 'resource'}: {name[:200]}")
        return
    # written anew also where it keeps its name: of two members with one name, the server must see ours
    call.params["ref"] = message.raw(ref | ({member: route.name} if route.name is not None else {}))
    to.use(call, route._replace(name=None), member)


def task(to: Conversation, call: Call) -> None:
    """A task belongs to the server that issued it, and to the client that it was issued to."""
    if to.endpoint.single and to.endpoint.servers[0].settings.session.share != "server":
        # whatever process this client gets is its own
        server: Server | None = to.endpoint.servers[0]
    else:
        server = to.gateway.parked.issuer(to, message.text(call.params.get("taskId")))
    if server is None or server not in to.endpoint.servers:
        to.refuse(call, message.INVALID_PARAMS, "no server that is running here has issued this task to you")
    else:
        _forward(to, call, server)


def unknown(to: Conversation, call: Call) -> None:
    """A method that only its server knows, or nobody."""
    if to.endpoint.single and call.method not in _KNOWN and not call.method.startswith("notifications/"):
        _forward(to, call, to.endpoint.servers[0])
    else:
        to.refuse(call, message.METHOD_NOT_FOUND, f"Method not found: {call.method[:200]}")


def notified(to: Conversation, method: str, params: Fields, fields: Fields) -> None:
    """A notification of the client's, passed on where it is for its servers."""
    if method == "notifications/cancelled":
        key = message.identifier(params["requestId"]) if "requestId" in params else None
        if key in to.calls:
            to.cancel(to.calls[key], fields)
    elif method == "notifications/progress":
        to.questions.progress(fields, params)
    elif method.startswith("notifications/") and method != "notifications/initialized":
        for instance in to.instances:
            # of a process that others use as well, one client may not change the state
            mine = instance.owner is to and instance.ready and not instance.modern
            if mine and (to.only or method in eras.SPREAD):
                instance.write(message.line(fields))


def label(method: str) -> str:
    """What a request that names no tool is counted as: nothing that a client can make up."""
    return method if method in _KNOWN else "other"


_BOTH: dict[str, Answer] = {
    "tools/list": listing("tools"),
    "prompts/list": listing("prompts"),
    "resources/list": listing("resources"),
    "resources/templates/list": listing("templates"),
    "tools/call": using("tools"),
    "prompts/get": using("prompts"),
    "resources/read": read,
    "completion/complete": complete,
    "tasks/get": task,
    "tasks/cancel": task,
    "tasks/update": task,
    "tasks/result": task,
    "tasks/list": task,
}
_LEGACY: dict[str, Answer] = {
    "initialize": initialize,
    "ping": ping,
    "logging/setLevel": set_level,
    "resources/subscribe": subscribe,
    "resources/unsubscribe": subscribe,
}
_MODERN: dict[str, Answer] = {"server/discover": discover, "subscriptions/listen": listen}
_KNOWN = {**_BOTH, **_LEGACY, **_MODERN}
# by whether the request is of the modern era
TABLE: dict[bool, dict[str, Answer]] = {False: _BOTH | _LEGACY, True: _BOTH | _MODERN}
