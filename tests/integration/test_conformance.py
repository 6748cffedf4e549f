"""The official conformance suites: everything passes directly, and the gateway changes no check."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.escape.arena import CHECKOUT, Arena, end
from tests.integration.caller import Caller
from tests.integration.conformance import SUITES, Check, Results, Suite, differences, run, run_all
from tests.integration.gateway import Gateway, conformance_entries, serving

ALL = pytest.mark.parametrize("suite", SUITES, ids=str)
Runs = dict[str, Results]
# A call's stream is closed early by the server that answers on it, if at all; a server on stdio knows of no stream.
POLLED = [("server-sse-polling", "server-sse-disconnect-resume")]
# What no bridge from a modern client to a server of the old era can pass.
BEYOND = (
    # such a server gives its questions no names, and these want one
    "input-required-result-basic-elicitation: ",
    "input-required-result-ignore-extra-params: ",
    # it asks one question after the other, and each is passed on when it comes
    "input-required-result-multiple-input-requests: sep-2322-multiple-inputs-incomplete ",
    # it is told once what its client can do: for other abilities another process starts, and 600 ms are all it has
    "server-stateless: sep-2575-http-server-no-independent-requests-on-stream ",
)


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
    return run_all(dict.fromkeys(SUITES, direct_url), servers, tmp_path_factory.mktemp("direct"))


@ALL
def test_directly_every_scenario_passes(suite: Suite, direct: Runs) -> None:
    results = direct[suite.name]
    assert not results.failed, "\n".join(results.failed)
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


@pytest.fixture(scope="module")
def gateway(arena: Arena, servers: Path) -> Iterator[Gateway]:
    """The conformance server behind root's gateway: of both eras, and of one only."""
    caller = Caller(arena, "root")
    caller.reset()
    with serving(caller, conformance_entries(caller, servers)) as made:
        yield made


@pytest.fixture(scope="module")
def through(gateway: Gateway, servers: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Each suite once, through the gateway."""
    url = gateway.only("conformance")
    return run_all(dict.fromkeys(SUITES, url), servers, tmp_path_factory.mktemp("through"))


@pytest.fixture(scope="module")
def across(gateway: Gateway, servers: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """A suite of each era, with a server that knows the other one only."""
    targets = {each: gateway.only("old" if each.name == "0.2-modern" else "new") for each in SUITES[1:]}
    return run_all(targets, servers, tmp_path_factory.mktemp("across"))


def unchanged(suite: Suite, direct: Results, through: Results) -> None:
    assert not through.failed, "\n".join(through.failed)
    assert (through.passed, len(through.scenarios)) == (suite.scenarios, suite.scenarios)
    found = differences(direct, through, allowed=POLLED)
    assert not found, "\n".join(found)


@ALL
def test_through_the_gateway_every_check_is_the_same(suite: Suite, direct: Runs, through: Runs) -> None:
    unchanged(suite, direct[suite.name], through[suite.name])


def test_an_ordinary_user_s_gateway_changes_no_check_either(
    direct: Runs, arena: Arena, servers: Path, tmp_path: Path
) -> None:
    """One suite: who started a gateway does not show in what it translates."""
    suite, caller = SUITES[-1], Caller(arena, "user")
    caller.reset()
    with serving(caller, conformance_entries(caller, servers)) as made:
        results = run(suite, made.only("conformance"), servers, tmp_path / "results")
    unchanged(suite, direct[suite.name], results)


@pytest.mark.parametrize("suite", SUITES[1:], ids=str)
def test_a_client_of_one_era_uses_a_server_of_the_other(suite: Suite, across: Runs) -> None:
    results = across[suite.name]
    assert len(results.scenarios) == suite.scenarios
    found = [line for line in results.failed if not line.startswith(BEYOND)]
    assert not found, "\n".join(found)
