"""A place for an audit log that is gone afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from supervisor.audit.confine import Place
from tests.unit.audit import ledgers


@pytest.fixture
def place() -> Iterator[Place]:
    with ledgers.place() as made:
        yield made
