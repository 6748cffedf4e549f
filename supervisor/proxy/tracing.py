"""Calls as spans: what a client's `_meta` says of its trace, what the server's says instead, and how a call went.

Runs unprivileged. A server gets the gateway's own span as its parent and no baggage: what clients tell each other
about their users is none of its business. Source: SEP-414, the semantic conventions for MCP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.proxy import eras, message
from supervisor.telemetry import traces

if TYPE_CHECKING:
    from supervisor.proxy.calls import Call
    from supervisor.proxy.instance import Instance
    from supervisor.proxy.message import Fields

_LONGEST = 512
_NAMED = {"tools/call": "gen_ai.tool.name", "prompts/get": "gen_ai.prompt.name"}


class Tracing:
    """The spans of calls that are under way."""

    def __init__(self, tracer: traces.Tracer) -> None:
        self._tracer = tracer

    def outgoing(self, call: Call, instance: Instance, meta: Fields) -> Fields:
        """The `_meta` for the server; the first time, the span begins."""
        if call.span is None:
            parent = traces.parse(message.text(meta.get(traces.PARENT)), message.text(meta.get(traces.STATE)))
            call.span = self._tracer.begin(parent, call.began)
            call.span.client = _about(call, instance)
        keys = (traces.PARENT, traces.STATE, traces.BAGGAGE)
        kept = {key: value for key, value in meta.items() if key not in keys}
        return kept | {key: message.raw(value) for key, value in call.span.carried().items()}

    def resumed(self, call: Call, retry: Call) -> None:
        """A client came back to a call that waited for it: another span, in its trace or in the one before."""
        before = call.earlier
        if before is None:
            return
        meta = retry.meta or {}
        parent = traces.parse(message.text(meta.get(traces.PARENT)), message.text(meta.get(traces.STATE)))
        call.span = self._tracer.begin(parent or before.context(), call.began)
        call.span.earlier, call.span.client = before.context(), before.client

    def ended(self, call: Call, outcome: str) -> None:
        """The answer is on its way to the client."""
        span, call.span = call.span, None
        call.earlier = span if call.state else None
        if span is None or not span.sampled:
            return
        common: dict[str, object] = {"mcp.method.name": call.method[:_LONGEST]}
        if call.method == "tools/call":
            common["gen_ai.operation.name"] = "execute_tool"
        if call.method == "resources/read":
            common["mcp.resource.uri"] = call.name[:_LONGEST]
        common |= traces.failure(outcome)
        server = common | {
            "jsonrpc.request.id": call.key.decode(errors="replace").strip('"')[:_LONGEST],
            "mcp.protocol.version": eras.MODERN[0] if call.modern else call.conversation.protocol,
            "enduser.id": call.conversation.principal.name,
        }
        name = call.method[:_LONGEST]
        if kind := _NAMED.get(call.method):
            server[kind] = call.name
            name = f"{name} {call.name}"
        self._tracer.end(span, name, server, common | span.client)


def _about(call: Call, instance: Instance) -> dict[str, object]:
    """What the span of the server's side says of it; its own name for the tool, not ours."""
    found: dict[str, object] = {
        "jsonrpc.request.id": instance.next_id.decode(),
        "mcp.protocol.version": eras.MODERN[0] if instance.modern else instance.hello.version,
        "network.transport": "pipe",
        "supervisor.server": instance.name,
    }
    if instance.opened is not None:
        found["supervisor.session"] = instance.opened.session
    if kind := _NAMED.get(call.method):
        found[kind] = message.text(call.params.get("name")) or ""
    return found
