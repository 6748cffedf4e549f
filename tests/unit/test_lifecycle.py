"""The table of states: what can happen, and that nothing else can."""

from __future__ import annotations

import itertools
from typing import get_args

import pytest

from supervisor import lifecycle
from supervisor.lifecycle import TRANSITIONS, Event, State

STATES: tuple[State, ...] = get_args(State)
EVENTS: tuple[Event, ...] = get_args(Event)


@pytest.mark.parametrize(
    ("state", "event"), [pair for pair in itertools.product(STATES, EVENTS) if pair not in TRANSITIONS]
)
def test_what_is_not_in_the_table_cannot_happen(state: State, event: Event) -> None:
    with pytest.raises(ValueError, match=f"{event} cannot happen to a server that is {state}"):
        lifecycle.after(state, event)


@pytest.mark.parametrize(
    ("events", "state"),
    [
        (("opened",), "READY"),
        (("opened", "idle", "opened"), "READY"),
        (("failed", "opened"), "READY"),
        (("opened", "exited", "failed", "exhausted", "started"), "COLD"),
        (("opened", "unwell", "pinned"), "COLD"),
        (("opened", "killed"), "DEAD"),
    ],
)
def test_a_server_goes_from_state_to_state(events: tuple[Event, ...], state: State) -> None:
    at: State = "COLD"
    for event in events:
        at = lifecycle.after(at, event)
    assert at == state


def test_every_state_can_be_left_and_reached() -> None:
    assert {state for state, _ in TRANSITIONS} == set(TRANSITIONS.values()) == set(STATES)


def test_only_an_operator_brings_a_dead_server_back() -> None:
    assert [event for state, event in TRANSITIONS if state == "DEAD"] == ["started"]
