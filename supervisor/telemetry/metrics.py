"""What is counted, and the page that a Prometheus server reads.

Runs unprivileged, in the gateway. A call costs a few additions here; how the servers are is looked at only when
somebody asks for the page. No label holds what a client made up: whoever counts names a tool, a method or "other".
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from supervisor.telemetry.look import Look

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
# seconds: those of the semantic conventions for MCP, and below them what a local server takes
BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300)
OUTCOMES = ("ok", "tool_error", "error", "cancelled", "timeout")
STATES = ("COLD", "READY", "DEGRADED", "DEAD")
# different tools of one server that get a line of their own; the rest is "other"
MAX_TOOLS = 1000


class Times:
    """A histogram."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """One observation."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds

    def join(self, other: Times) -> None:
        """Those of another as well."""
        self.counts = [sum(pair) for pair in zip(self.counts, other.counts, strict=True)]
        self.total += other.total

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative, as the format wants them."""
        names = [*(str(float(each)) for each in BOUNDS), "+Inf"]
        return list(zip(names, accumulate(self.counts), strict=True))


class Metrics(Collector):
    """See gateway.Meter. `look` tells how the servers are, `clients` how many there are."""

    def __init__(self, look: Callable[[], Iterable[Look]], clients: Callable[[], int]) -> None:
        self._look, self._clients = look, clients
        self._calls: dict[tuple[str, str, str], Times] = {}
        self._starts: dict[str, Times] = {}
        self._refusals: dict[str, int] = {}
        self._tools: dict[str, set[str]] = {}
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def called(self, server: str, tool: str, seconds: float, *, outcome: str) -> None:
        """A call has come to its end; an outcome that is none of ours is an error's code."""
        times = self._calls.get((server, tool, outcome))
        if times is None:
            times = self._series(server, tool, outcome if outcome in OUTCOMES else "error")
        times.add(seconds)

    def _series(self, server: str, tool: str, outcome: str) -> Times:
        tools = self._tools.setdefault(server, set())
        if tool not in tools and len(tools) >= MAX_TOOLS:
            tool = "other"
        tools.add(tool)
        return self._calls.setdefault((server, tool, outcome), Times())

    def refused(self, rule: str) -> None:
        """A rule of the registry's was against it."""
        self._refusals[rule] = self._refusals.get(rule, 0) + 1

    def started(self, server: str, seconds: float) -> None:
        """A process has become ready."""
        self._starts.setdefault(server, Times()).add(seconds)

    def page(self) -> bytes:
        """The text, of CONTENT_TYPE."""
        return generate_latest(self._registry)

    def describe(self) -> Iterator[Metric]:
        """prometheus_client's: it need not ask for values to know the names."""
        yield from ()

    def collect(self) -> Iterator[Metric]:
        """prometheus_client's."""
        yield from self._counted()
        yield from self._seen()

    def _counted(self) -> Iterator[Metric]:
        calls = CounterMetricFamily(
            "supervisor_calls", "Requests that came to their end at a server.", labels=("server", "tool", "outcome")
        )
        seconds: dict[str, Times] = {}
        for names, times in self._calls.items():
            calls.add_metric(names, sum(times.counts))
            seconds.setdefault(names[0], Times()).join(times)
        yield calls
        yield _times("supervisor_call_seconds", "From a request to its answer.", seconds)
        yield _times("supervisor_start_seconds", "From the start of a process to its first call.", self._starts)
        refusals = CounterMetricFamily(
            "supervisor_refusals", "Requests that a rule of the registry was against.", labels=("rule",)
        )
        for rule, count in self._refusals.items():
            refusals.add_metric((rule,), count)
        yield refusals

    def _seen(self) -> Iterator[Metric]:
        both = ("server", "state")
        states = GaugeMetricFamily("supervisor_server_state", "1 for the state it is in.", labels=both)
        processes = GaugeMetricFamily("supervisor_processes", "Running processes of a server.", labels=both)
        flight = GaugeMetricFamily("supervisor_calls_in_flight", "Calls without their answer.", labels=("server",))
        waiting = GaugeMetricFamily("supervisor_calls_waiting", "Calls that wait for a start.", labels=("server",))
        moved = CounterMetricFamily(
            "supervisor_bytes", "Bytes to servers and from them.", labels=("server", "direction")
        )
        for each in self._look():
            for state in STATES:
                states.add_metric((each.server, state), state == each.state)
            for state in ("starting", "ready", "ending"):
                processes.add_metric((each.server, state), getattr(each, state))
            flight.add_metric((each.server,), each.in_flight)
            waiting.add_metric((each.server,), each.waiting)
            moved.add_metric((each.server, "received"), each.received)
            moved.add_metric((each.server, "sent"), each.sent)
        yield from (states, processes, flight, waiting, moved)
        yield GaugeMetricFamily("supervisor_clients", "Clients that are connected.", value=self._clients())
        cpu = time.process_time()
        yield CounterMetricFamily("supervisor_gateway_cpu_seconds", "Processor time of the gateway.", value=cpu)


def _times(name: str, text: str, table: dict[str, Times]) -> HistogramMetricFamily:
    family = HistogramMetricFamily(name, text, labels=("server",))
    for server, times in table.items():
        family.add_metric((server,), times.buckets(), times.total)
    return family
