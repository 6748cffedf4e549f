"""Fixtures of the escape tests, and the table of boundaries by profile and caller (`--matrix FILE`)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.escape.arena import MODES, Arena, make_arena
from tests.escape.batch import Batch
from tests.escape.hostile import PROFILES

ARENA = pytest.StashKey[Arena]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--matrix", default=None, help="write the table of boundaries to this file")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    batch = getattr(metafunc.module, "BATCH", None)
    if isinstance(batch, Batch) and "case" in metafunc.fixturenames:
        metafunc.parametrize("case", batch.cases(), ids=str)


@pytest.fixture(scope="session")
def arena(pytestconfig: pytest.Config) -> Iterator[Arena]:
    """Users, folders and the command line; only root can make them."""
    if os.geteuid() != 0:
        pytest.skip("the escape tests make users and namespaces: run them as root")
    with ExitStack() as stack:
        made = make_arena(stack)
        pytestconfig.stash[ARENA] = made
        yield made


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=PROFILES)
def profile(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def pytest_sessionfinish(session: pytest.Session) -> None:
    target = session.config.getoption("--matrix", default=None)
    if target and ARENA in session.config.stash:
        Path(target).write_text(table(session.config.stash[ARENA]), encoding="utf-8")


def table(arena: Arena) -> str:
    """Boundary and program by profile and caller, as Markdown; what did not hold stands out."""
    columns = [f"{profile}/{mode}" for profile in PROFILES for mode in MODES]
    lines = ["| boundary | program | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for (boundary, program), cells in sorted(arena.matrix.items()):
        words = [cells.get(column, "").split(" ", 1)[0] for column in columns]
        marks = {"HELD": "held", "": "-"}
        row = [marks.get(word, f"**{word}**") for word in words]
        lines.append(f"| {boundary} | {program} | " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"
