"""The official conformance suites: everything passes directly, and the gateway changes no check."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.escape.arena import CHECKOUT, end
from tests.integration.conformance import SUITES, Check, Results, Suite, differences, run

ALL = pytest.mark.parametrize("suite", SUITES, ids=str)
Runs = dict[str, Results]


@pytest.fixture(scope="module")
def direct_url() -> Iterator[str]:
    """The conformance server itself, by the SDK's own HTTP."""
    command = [sys.executable, str(CHECKOUT / "tests" / "conformance" / "start.py"), "--http", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        assert process.stdout
        yield process.stdout.readline().decode().strip()
    finally:
        end(process)


@pytest.fixture(scope="module")
def direct(direct_url: str, servers: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Each suite once, directly."""
    return {each.name: run(each, direct_url, servers, tmp_path_factory.mktemp(each.name)) for each in SUITES}


@ALL
def test_directly_every_scenario_passes(suite: Suite, direct: Runs) -> None:
    results = direct[suite.name]
    assert results.failed == []
    assert (results.passed, len(results.scenarios)) == (suite.scenarios, suite.scenarios)


def test_a_comparison_sees_a_check_that_is_missing_and_one_that_ended_otherwise(direct: Runs) -> None:
    results = direct["0.1"]
    assert differences(results, results) == []
    first, *rest = results.checks
    missing = Results(results.scenarios, tuple(rest))
    assert len(differences(results, missing)) == 1
    assert f"{first.scenario}: broke off, or checked nothing" in missing.failed
    other = Check(first.scenario, first.id, first.name, "WARNING", "")
    changed = Results(results.scenarios, (other, *rest))
    assert len(differences(results, changed)) == 1
    assert len(differences(results, changed, allowed=[first.key[:2]])) == 1
    assert changed.passed == len(results.scenarios) - 1
