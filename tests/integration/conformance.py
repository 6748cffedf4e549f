"""The official conformance suites from npm: run against a URL, read by scenario and check, and two runs compared.

Runs as whoever runs the tests. A suite writes a folder of results for each scenario; a scenario that broke off
writes none, and counts as failed here.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.integration.install_servers import node

SECONDS = 300  # a server on the SDK takes six seconds to start where many tests run at once
RESULTS = re.compile(r"server-(?P<scenario>.+)-\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d-\d+Z")
RUNNING = re.compile(r"(?m)^=== Running scenario: (\S+) ===$")
# What a scenario notes on its way; how often depends on how an answer is cut into events.
NOTES = frozenset({"outgoing-request", "incoming-response", "incoming-sse-event", "stream-closed"})


@dataclass(frozen=True)
class Suite:
    """One of the suites, and how many scenarios it has."""

    name: str
    package: str
    options: tuple[str, ...]
    scenarios: int

    def __str__(self) -> str:
        return self.name


SUITES = (
    Suite("0.1", "conformance-0.1", (), 30),
    Suite("0.2-legacy", "conformance-0.2", ("--suite", "all", "--spec-version", "2025-11-25"), 33),
    Suite("0.2-modern", "conformance-0.2", ("--suite", "all", "--spec-version", "2026-07-28"), 40),
)


@dataclass(frozen=True)
class Check:
    """One thing that was checked; a scenario may check the same more than once."""

    scenario: str
    id: str
    name: str
    status: str
    message: str

    @property
    def key(self) -> tuple[str, str, str]:
        return self.scenario, self.id, self.name

    def __str__(self) -> str:
        return f"{self.scenario}: {self.id} ({self.name}): {self.status} {self.message}".rstrip()


@dataclass(frozen=True)
class Results:
    """What one run of a suite found."""

    scenarios: tuple[str, ...]
    checks: tuple[Check, ...]

    @property
    def failed(self) -> list[str]:
        """Everything that is not as it should be; also a scenario that checked nothing."""
        checked = {check.scenario for check in self.checks}
        silent = [f"{name}: broke off, or checked nothing" for name in self.scenarios if name not in checked]
        return silent + [str(check) for check in self.checks if check.status not in {"SUCCESS", "INFO"}]

    @property
    def passed(self) -> int:
        """How many scenarios found nothing to complain about."""
        bad = {name for name in self.scenarios if any(line.startswith(f"{name}: ") for line in self.failed)}
        return len(set(self.scenarios) - bad)

    def tally(self) -> dict[tuple[str, str, str], Counter[str]]:
        """How often each check ended how, without the notes."""
        found: dict[tuple[str, str, str], Counter[str]] = {}
        for check in self.checks:
            if check.id not in NOTES:
                found.setdefault(check.key, Counter())[check.status] += 1
        return found


def run(suite: Suite, url: str, servers: Path, folder: Path) -> Results:
    """Run the suite against `url`; its own files go into `folder`, which must not have results in it yet."""
    program = servers / "clients" / "node_modules" / suite.package / "dist" / "index.js"
    command = [
        str(node(servers)),
        str(program),
        "server",
        "--url",
        url,
        *suite.options,
        "--output-dir",
        str(folder),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    scenarios = tuple(RUNNING.findall(done.stdout))
    assert scenarios, f"{suite} ran nothing: {done.stdout}{done.stderr}"
    return Results(scenarios, tuple(read(folder)))


def run_all(targets: Mapping[Suite, str], servers: Path, folder: Path) -> dict[str, Results]:
    """Several suites against their URLs, two at a time: most of each is waiting. By the suite's name."""
    with ThreadPoolExecutor(2) as pool:
        begun = {
            suite.name: pool.submit(run, suite, url, servers, folder / suite.name) for suite, url in targets.items()
        }
        return {name: each.result() for name, each in begun.items()}


def read(folder: Path) -> list[Check]:
    """The checks in a folder of results."""
    found = []
    for path in sorted(folder.glob("*/checks.json")):
        named = RESULTS.fullmatch(path.parent.name)
        assert named, path
        for each in json.loads(path.read_text(encoding="utf-8")):
            message = each.get("errorMessage") or ""
            found.append(Check(named["scenario"], each["id"], each["name"], each["status"], message))
    return found


def differences(direct: Results, through: Results, *, allowed: Collection[tuple[str, str]] = ()) -> list[str]:
    """What is not the same in both runs, scenario by scenario and check by check.

    `allowed` names the checks (scenario and id) that may end otherwise, as long as they are there and not failed.
    """
    found = [f"scenario {name} ran once only" for name in {*direct.scenarios} ^ {*through.scenarios}]
    before, after = direct.tally(), through.tally()
    for key in sorted({*before, *after}):
        first, second = before.get(key, Counter()), after.get(key, Counter())
        spared = key[:2] in allowed and first.total() == second.total() and set(second) <= {"SUCCESS", "INFO"}
        if first != second and not spared:
            found.append(f"{' / '.join(key)}: direct {dict(first)}, through {dict(second)}")
    return found
