"""A decision of the gateway's, with the rule that made it and where the rule stands.

Runs unprivileged, wherever something is decided about a call.
"""

from __future__ import annotations

from typing import Literal, NamedTuple


class Verdict(NamedTuple):
    """`reason` is what whoever asked is told; it begins with the place of the rule (`file:line`)."""

    outcome: Literal["allow", "deny"]
    rule: str
    reason: str
    source: str
