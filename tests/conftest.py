"""For all tests: under SUPERVISOR_CI a skip is a failure, because there nothing may be missing."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator

import pytest

# by what they took in a whole run, those above half a minute
LONGEST = (
    "test_gateway_clients", "test_runtimes", "test_disk", "test_registry", "test_engines", "test_approvals",
    "test_real_servers", "test_wire", "test_egress", "test_conformance", "test_image_build", "test_fidelity",
    "test_egress_load", "test_gateway_load", "test_daemon", "test_adopt", "test_egress_bypass", "test_image_run",
    "test_selftest_reach", "test_gateway_awkward", "test_gateway_servers", "test_resources", "test_house_rules",
)  # fmt: skip


def pytest_configure() -> None:
    """Whoever runs tests in the background ignores these, and so would every program that a test starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first: one that is begun last is waited for by processes that have nothing to do."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and os.environ.get("SUPERVISOR_CI") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped where nothing may be missing: {report.longrepr}"
    return report
