"""Fixtures of the escape tests, and the table of boundaries by profile and caller (`--matrix FILE`)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.escape.arena import MODES, Arena, make_arena
from tests.escape.batch import Batch, Case
from tests.escape.hostile import PROFILES
from tests.escape.matrix import Matrix

ATTEMPT = "attempt"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--matrix", default=None, help="write the table of boundaries to this file")


def pytest_configure(config: pytest.Config) -> None:
    target = config.getoption("--matrix")
    if target and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Table(Path(target)))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    batch = getattr(metafunc.module, "BATCH", None)
    if isinstance(batch, Batch) and "case" in metafunc.fixturenames:
        metafunc.parametrize("case", batch.cases(), ids=str)


@pytest.fixture(scope="session")
def arena() -> Iterator[Arena]:
    """Users, folders and the command line; only root can make them."""
    if os.geteuid() != 0:
        pytest.skip("the escape tests make users and namespaces: run them as root")
    with ExitStack() as stack:
        yield make_arena(stack)


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=PROFILES)
def profile(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """Note how each attempt ended; the report itself, which carries the note, is pytest's business."""
    if call.when != "call" or not isinstance(item, pytest.Function):
        return
    params = item.callspec.params if hasattr(item, "callspec") else {}
    case = params.get("case")
    if isinstance(case, Case):
        what, profile, mode = case.program.name, case.profile, case.mode
    else:
        what = str(params.get("name", item.originalname))
        # a module whose attempts are all made in one profile names it
        profile = str(params.get("profile", getattr(item.module, "PROFILE", "")))
        mode = str(params.get("mode", ""))
    boundary = item.path.stem.removeprefix("test_")
    item.user_properties.append((ATTEMPT, [boundary, what, profile, mode, call.excinfo is None]))


class Table:
    """What the reports of all attempts say together, whichever process made them."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.matrix = Matrix()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call":
            return
        for name, value in report.user_properties:
            if name == ATTEMPT and isinstance(value, list):
                boundary, what, profile, mode, held = value
                self.matrix.note(boundary, what, profile, mode, held=held)

    def pytest_sessionfinish(self) -> None:
        self.target.write_text(self.matrix.text(), encoding="utf-8")
