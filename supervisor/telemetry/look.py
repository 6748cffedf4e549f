"""What a server looks like in numbers: the gateway tells, the metrics ask. Pure."""

from __future__ import annotations

from typing import NamedTuple


class Look(NamedTuple):
    """A server at this moment: processes by what they are doing, calls, and bytes so far."""

    server: str
    state: str
    starting: int
    ready: int
    ending: int
    in_flight: int
    waiting: int
    received: int
    sent: int
