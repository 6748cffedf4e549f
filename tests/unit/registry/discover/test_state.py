"""What is new, changed and gone since the last look; what could not be seen is not gone."""

from __future__ import annotations

import pytest

from supervisor.errors import ConfigError
from supervisor.registry.discover import state
from supervisor.registry.discover.proposal import MOST, Found, Proposal
from supervisor.registry.discover.state import Memory


def one(place: str, profile: str = "none") -> Proposal:
    return Proposal("docker", place, place, {"profile": profile})


def states(memory: Memory, *looked: Found) -> tuple[list[tuple[str, str]], Memory]:
    rows, after = state.compare(memory, looked)
    return [(row.state, row.proposal.place) for row in rows], after


def test_a_proposal_is_new_then_known_then_changed_then_gone() -> None:
    rows, memory = states(Memory(), Found("docker", (one("a"), one("b"))))
    assert rows == [("new", "a"), ("new", "b")]
    memory = state.parse("x", memory.model_dump_json().encode())
    rows, memory = states(memory, Found("docker", (one("a"), one("b", "fs-readonly"))))
    assert rows == [("known", "a"), ("changed", "b")]
    rows, memory = states(memory, Found("docker", (one("b", "fs-readonly"),)))
    assert rows == [("known", "b"), ("gone", "a")]
    assert states(memory, Found("docker", (one("b", "fs-readonly"),)))[0] == [("known", "b")]


@pytest.mark.parametrize("blind", [Found("docker", problem="no answer"), Found("docker", absent=True), Found("x")])
def test_what_was_not_seen_is_not_gone(blind: Found) -> None:
    _, memory = states(Memory(), Found("docker", (one("a"),)))
    assert states(memory, blind) == ([], memory)


def test_a_memory_that_is_not_ours_is_refused() -> None:
    with pytest.raises(ConfigError, match="take it away"):
        state.parse("x", b'{"version": 2}')


def test_a_source_that_is_never_seen_whole_is_not_remembered_for_ever() -> None:
    memory = Memory()
    for look in range(20):
        made = [Proposal("files x", f"{look}-{number}", "n") for number in range(MOST)]
        rows, memory = state.compare(memory, [Found("files x", tuple(made), problem="more than can be looked at")])
        assert {row.state for row in rows} == {"new"}
    assert len(memory.seen) == 3 * MOST
    assert {f"files x 19-{number}" for number in range(MOST)} <= memory.seen.keys()
