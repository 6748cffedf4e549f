"""The states of a server and the whole of what can happen to it, as a table.

Pure. Used by the proxy, which starts servers late and ends them when nobody has used them for a while.
Anything that is not in the table raises: a state is never guessed.
"""

from __future__ import annotations

from typing import Literal

State = Literal["COLD", "READY", "DEGRADED", "DEAD"]
Event = Literal["opened", "failed", "unwell", "idle", "exited", "exhausted", "killed", "started", "pinned"]

# COLD: no process, one is started by the next call. READY: it answers. DEGRADED: it failed, and is tried again
# when its backoff is over (or, when its lists changed, once they were pinned again). DEAD: only an operator's start
# brings it back.
TRANSITIONS: dict[tuple[State, Event], State] = {
    ("COLD", "opened"): "READY",
    ("COLD", "failed"): "DEGRADED",
    ("READY", "unwell"): "DEGRADED",
    ("READY", "idle"): "COLD",
    ("READY", "exited"): "DEGRADED",
    ("DEGRADED", "opened"): "READY",
    ("DEGRADED", "failed"): "DEGRADED",
    ("DEGRADED", "pinned"): "COLD",
    ("DEGRADED", "exhausted"): "DEAD",
    ("COLD", "killed"): "DEAD",
    ("READY", "killed"): "DEAD",
    ("DEGRADED", "killed"): "DEAD",
    ("DEAD", "started"): "COLD",
}


def after(state: State, event: Event) -> State:
    """The state that follows; ValueError for what cannot happen in `state`."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise ValueError(f"{event} cannot happen to a server that is {state}") from None
