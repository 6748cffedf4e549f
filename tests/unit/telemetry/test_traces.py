"""Trace context: what is taken from a client, what is given to a server, and which traces are recorded."""

from __future__ import annotations

import json
import re
import time

import pytest

from supervisor.errors import ConfigError
from supervisor.telemetry import traces
from supervisor.telemetry.traces import Context, Span, Tracer

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_a_parent_is_read_as_the_w3c_writes_it() -> None:
    assert traces.parse(f"00-{TRACE}-{SPAN}-01", "a=b") == Context(TRACE, SPAN, True, "a=b")
    assert traces.parse(f"00-{TRACE}-{SPAN}-00", None) == Context(TRACE, SPAN, False, "")
    assert traces.parse(f"00-{TRACE}-{SPAN}-03", None) == Context(TRACE, SPAN, True, "")
    # a later version may have more behind it
    assert traces.parse(f"01-{TRACE}-{SPAN}-01-more", None) == Context(TRACE, SPAN, True, "")


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "x",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-0g",
        f"00-{TRACE}-{SPAN}-01\n",
    ],
)
def test_what_is_no_parent_is_none(text: str | None) -> None:
    assert traces.parse(text, "a=b") is None


@pytest.mark.parametrize("state", ["x" * 513, "a=\u00e9"])
def test_a_state_that_is_too_long_or_no_text_for_a_header_is_dropped(state: str) -> None:
    assert traces.parse(f"00-{TRACE}-{SPAN}-01", state) == Context(TRACE, SPAN, True, "")


def test_a_server_s_parent_is_our_own_span_in_the_same_trace() -> None:
    span = Span(Context(TRACE, SPAN, True, "a=b"), sampled=True, began=time.monotonic())
    carried = span.carried()
    assert carried == {"traceparent": f"00-{TRACE}-{span.ids[1]}-01", "tracestate": "a=b"}
    assert len({SPAN, *span.ids}) == 3


def test_without_a_parent_a_trace_begins() -> None:
    first, second = (Span(None, sampled=False, began=time.monotonic()) for _ in range(2))
    assert first.trace != second.trace
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00", first.carried()["traceparent"])
    assert "tracestate" not in first.carried()


YES, NO = Context(TRACE, SPAN, True, ""), Context(TRACE, SPAN, False, "")
NAME, ARG = "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"


@pytest.mark.parametrize(
    ("environ", "yes", "no", "root"),
    [
        ({}, True, False, True),
        ({NAME: ""}, True, False, True),
        ({NAME: "always_on"}, True, True, True),
        ({NAME: "always_off"}, False, False, False),
        ({NAME: "parentbased_always_off"}, True, False, False),
        ({NAME: "traceidratio", ARG: "0"}, False, False, False),
        ({NAME: "parentbased_traceidratio", ARG: "0"}, True, False, False),
        ({NAME: "parentbased_traceidratio"}, True, False, True),
    ],
)
def test_samplers_are_opentelemetry_s(environ: dict[str, str], yes: bool, no: bool, root: bool) -> None:
    chosen = traces.sampler(environ)
    assert [chosen.takes(each) for each in (YES, NO, None)] == [yes, no, root]


def test_a_ratio_is_a_share() -> None:
    chosen = traces.sampler({NAME: "traceidratio", ARG: "0.25"})
    assert 2000 < sum(chosen.takes(None) for _ in range(10_000)) < 3000


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({NAME: "jaeger_remote"}, "OTEL_TRACES_SAMPLER=jaeger_remote: one of always_on"),
        ({NAME: "traceidratio", ARG: "2"}, "OTEL_TRACES_SAMPLER_ARG=2: a number from 0 to 1"),
        ({NAME: "traceidratio", ARG: "nan"}, "a number from 0 to 1"),
        ({NAME: "traceidratio", ARG: "x"}, "a number from 0 to 1"),
    ],
)
def test_any_other_sampler_is_an_error(environ: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        traces.sampler(environ)
    assert said in str(caught.value)


def test_spans_are_shipped_when_they_end_and_only_those_that_are_sampled() -> None:
    shipped: list[bytes] = []
    tracer = Tracer(shipped.append, traces.sampler({}))
    tracer.end(tracer.begin(NO, time.monotonic()), "a", {}, {})
    assert shipped == []
    span = tracer.begin(YES, time.monotonic() - 5)
    tracer.end(span, "tools/call x", {"k": 1}, {"l": "m"})
    [body] = [json.loads(each) for each in shipped]
    assert (body["name"], body["trace"], body["parent"]) == ("tools/call x", TRACE, SPAN)
    assert (body["ids"], body["server"], body["client"]) == ([*span.ids], {"k": 1}, {"l": "m"})
    began, sent, ended = body["times"]
    assert 4.9 < sent - began < 5.1
    assert 0 <= ended - sent < 5
    assert abs(time.time() - ended) < 5


def test_a_span_that_nobody_takes_is_lost_and_counted() -> None:
    def full(_: bytes) -> None:
        raise BlockingIOError

    tracer = Tracer(full, traces.sampler({}))
    tracer.end(tracer.begin(None, time.monotonic()), "a", {}, {})
    assert tracer.lost == 1


@pytest.mark.parametrize(
    ("outcome", "attributes"),
    [
        ("ok", {}),
        ("tool_error", {"error.type": "tool_error"}),
        ("cancelled", {"error.type": "cancelled"}),
        ("-32602", {"error.type": "-32602", "rpc.response.status_code": "-32602"}),
        ('"made up"', {"error.type": "_OTHER"}),
    ],
)
def test_an_outcome_is_told_as_the_conventions_want_it(outcome: str, attributes: dict[str, object]) -> None:
    assert traces.failure(outcome) == attributes
