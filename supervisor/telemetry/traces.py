"""Spans of calls: their ids and times, and what of them a server gets to see.

Runs unprivileged, in the gateway; the exporter makes OpenTelemetry of what is shipped. Source: W3C Trace Context,
SEP-414, the semantic conventions for MCP.
"""

from __future__ import annotations

import os
import random
import re
import secrets
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from supervisor.errors import ConfigError

PARENT, STATE, BAGGAGE = "traceparent", "tracestate", "baggage"
_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_MOST_STATE = 512
_SAMPLERS = ("always_on", "always_off", "traceidratio")
Ship = Callable[[bytes], None]


class Context(NamedTuple):
    """Where a span stands in a trace."""

    trace: str
    span: str
    sampled: bool
    state: str


def parse(parent: str | None, state: str | None) -> Context | None:
    """What a client says about its own span; None when it says nothing that can be used."""
    found = _PARENT.fullmatch(parent or "")
    if found is None:
        return None
    version, trace, span, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not trace.strip("0") or not span.strip("0"):
        return None
    kept = state if state is not None and len(state) <= _MOST_STATE and state.isascii() else ""
    return Context(trace, span, bool(int(flags, 16) & 1), kept)


class Span:
    """A request of a client's, and what was made of it for the server: two spans, the second below the first."""

    __slots__ = ("began", "client", "earlier", "ids", "parent", "sampled", "sent", "state", "trace")

    def __init__(self, parent: Context | None, *, sampled: bool, began: float) -> None:
        self.parent = parent
        self.trace = parent.trace if parent else secrets.token_hex(16)
        self.state = parent.state if parent else ""
        self.sampled = sampled
        self.ids = secrets.token_hex(8), secrets.token_hex(8)
        # of a call that waited for its client: the part of it before
        self.earlier: Context | None = None
        # what is known of the second when it begins
        self.client: dict[str, object] = {}
        # seconds since 1970; the monotonic clock measures, and tells when it began
        self.sent = time.time()
        self.began = self.sent - (time.monotonic() - began)

    def context(self) -> Context:
        """Where the first of the two stands."""
        return Context(self.trace, self.ids[0], self.sampled, self.state)

    def carried(self) -> dict[str, str]:
        """The keys of `_meta` for the server."""
        found = {PARENT: f"00-{self.trace}-{self.ids[1]}-{'01' if self.sampled else '00'}"}
        return found | {STATE: self.state} if self.state else found


class Sampler:
    """Whether a trace is recorded: as its parent says if it may, else a share of them."""

    def __init__(self, *, parent: bool, share: float) -> None:
        self._parent, self._share = parent, share

    def takes(self, parent: Context | None) -> bool:
        """Whether this one."""
        if parent is not None and self._parent:
            return parent.sampled
        return self._share >= 1 or random.random() < self._share  # noqa: S311 - statistics


def sampler(environ: Mapping[str, str]) -> Sampler:
    """The one that OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG name; ConfigError for any other."""
    name = environ.get("OTEL_TRACES_SAMPLER") or "parentbased_always_on"
    plain = name.removeprefix("parentbased_")
    if plain not in _SAMPLERS:
        known = ", ".join((*_SAMPLERS, *(f"parentbased_{each}" for each in _SAMPLERS)))
        raise ConfigError(f"OTEL_TRACES_SAMPLER={name}: one of {known}")
    share = {"always_on": 1.0, "always_off": 0.0}.get(plain)
    if share is None:
        written = environ.get("OTEL_TRACES_SAMPLER_ARG") or "1"
        try:
            share = float(written)
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1:
            raise ConfigError(f"OTEL_TRACES_SAMPLER_ARG={written}: a number from 0 to 1")
    return Sampler(parent=plain != name, share=share)


class Tracer:
    """Begins spans, and hands those that ended to `ship`; what cannot be shipped is lost, and counted."""

    def __init__(self, ship: Ship, chosen: Sampler) -> None:
        self.lost = 0
        self._ship, self._sampler = ship, chosen

    def begin(self, parent: Context | None, began: float) -> Span:
        """`began`: when the request came, by the monotonic clock."""
        return Span(parent, sampled=self._sampler.takes(parent), began=began)

    def end(self, span: Span, name: str, server: Mapping[str, object], client: Mapping[str, object]) -> None:
        """The answer is there. `server` and `client` are the attributes of the two spans."""
        if not span.sampled:
            return
        body = {
            "name": name,
            "trace": span.trace,
            "parent": span.parent.span if span.parent else "",
            "state": span.state,
            "ids": span.ids,
            "earlier": span.earlier[:2] if span.earlier else (),
            "times": (span.began, span.sent, time.time()),
            "server": server,
            "client": client,
        }
        try:
            self._ship(msgspec.json.encode(body))
        except OSError:
            self.lost += 1


def failure(outcome: str) -> dict[str, object]:
    """The attributes of an outcome that is not "ok"; see gateway.Meter."""
    if outcome == "ok":
        return {}
    if outcome.lstrip("-").isdigit():
        return {"error.type": outcome, "rpc.response.status_code": outcome}
    return {"error.type": outcome if outcome in ("tool_error", "cancelled", "timeout") else "_OTHER"}


def passed_on(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What of the environment configures an exporter."""
    return {name: value for name, value in environ.items() if name.startswith("OTEL_")}
