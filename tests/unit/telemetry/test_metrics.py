"""The page of numbers: what is on it, what can never be on it, and what a call pays for it."""

from __future__ import annotations

import time

from prometheus_client.parser import text_string_to_metric_families

from supervisor.telemetry.look import Look
from supervisor.telemetry.metrics import BOUNDS, MAX_TOOLS, Metrics

FILES = Look("files", "READY", starting=1, ready=2, ending=3, in_flight=4, waiting=5, received=600, sent=700)


def values(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Every sample of a page, by its name and labels in alphabetical order."""
    found = {}
    for family in text_string_to_metric_families(metrics.page().decode()):
        for sample in family.samples:
            labels = [f"{name}={value}" for name, value in sorted(sample.labels.items())]
            found[(sample.name, *labels)] = sample.value
    return found


def make(*looks: Look) -> Metrics:
    return Metrics(lambda: looks, lambda: 3)


def test_calls_are_counted_by_server_tool_and_outcome() -> None:
    metrics = make()
    for outcome in ("ok", "ok", "tool_error", "cancelled", "timeout"):
        metrics.called("files", "files__read", 0.003, outcome=outcome)
    found = values(metrics)
    name = "supervisor_calls_total"
    assert found[name, "outcome=ok", "server=files", "tool=files__read"] == 2
    for outcome in ("tool_error", "cancelled", "timeout"):
        assert found[name, f"outcome={outcome}", "server=files", "tool=files__read"] == 1


def test_every_code_of_an_error_is_one_outcome() -> None:
    metrics = make()
    for code in range(-33000, -32000):
        metrics.called("files", "read", 0.001, outcome=str(code))
    calls = {key: value for key, value in values(metrics).items() if key[0] == "supervisor_calls_total"}
    assert calls == {("supervisor_calls_total", "outcome=error", "server=files", "tool=read"): 1000}


def test_a_server_with_countless_tools_does_not_make_countless_lines() -> None:
    metrics = make()
    for number in range(MAX_TOOLS + 50):
        metrics.called("files", f"t{number}", 0.001, outcome="ok")
    calls = {key: value for key, value in values(metrics).items() if key[0] == "supervisor_calls_total"}
    assert len(calls) == MAX_TOOLS + 1
    assert calls["supervisor_calls_total", "outcome=ok", "server=files", "tool=other"] == 50


def test_durations_are_a_histogram_over_all_tools_of_a_server() -> None:
    metrics = make()
    for tool, seconds in (("a", 0.0005), ("b", 0.001), ("b", 0.3), ("a", 1000.0)):
        metrics.called("files", tool, seconds, outcome="ok")
    found = values(metrics)
    bucket = "supervisor_call_seconds_bucket"
    assert found[bucket, "le=0.001", "server=files"] == 2
    assert found[bucket, "le=0.5", "server=files"] == 3
    assert found[bucket, f"le={float(BOUNDS[-1])}", "server=files"] == 3
    assert found[bucket, "le=+Inf", "server=files"] == 4
    assert found["supervisor_call_seconds_count", "server=files"] == 4
    assert abs(found["supervisor_call_seconds_sum", "server=files"] - 1000.3015) < 1e-6


def test_starts_and_refusals_are_counted() -> None:
    metrics = make()
    metrics.started("files", 0.2)
    metrics.refused("tools.deny")
    metrics.refused("tools.deny")
    found = values(metrics)
    assert found["supervisor_start_seconds_count", "server=files"] == 1
    assert found["supervisor_refusals_total", "rule=tools.deny"] == 2


def test_how_the_servers_are_is_looked_at_when_somebody_asks() -> None:
    found = values(make(FILES, FILES._replace(server="git", state="COLD")))
    assert found["supervisor_server_state", "server=files", "state=READY"] == 1
    assert found["supervisor_server_state", "server=files", "state=COLD"] == 0
    assert found["supervisor_server_state", "server=git", "state=COLD"] == 1
    assert [found["supervisor_processes", "server=files", f"state={each}"] for each in ("starting", "ready")] == [
        1,
        2,
    ]
    assert found["supervisor_processes", "server=files", "state=ending"] == 3
    assert found["supervisor_calls_in_flight", "server=files"] == 4
    assert found["supervisor_calls_waiting", "server=files"] == 5
    assert found["supervisor_bytes_total", "direction=received", "server=files"] == 600
    assert found["supervisor_bytes_total", "direction=sent", "server=files"] == 700
    assert found["supervisor_clients",] == 3


def test_a_name_with_quotes_and_newlines_cannot_forge_a_line() -> None:
    metrics = make()
    name = 'x"} 1\nsupervisor_clients 99\n'
    metrics.called("files", name, 0.001, outcome="ok")
    found = values(metrics)
    assert found["supervisor_clients",] == 3
    assert found["supervisor_calls_total", "outcome=ok", "server=files", f"tool={name}"] == 1


def test_a_call_pays_less_than_two_microseconds_of_processor_time() -> None:
    metrics, rounds = make(), 20_000
    best = 1.0
    for _ in range(5):
        began = time.process_time()
        for _ in range(rounds):
            metrics.called("files", "files__read", 0.0004, outcome="ok")
        best = min(best, (time.process_time() - began) / rounds)
    assert best < 2e-6
