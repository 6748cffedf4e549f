"""A host that a session reached or was refused: what the proxy hears of from the monitor, and a record says.

Of its own, because every proxy starts with it, and few write a record.
"""

from __future__ import annotations

from typing import NamedTuple


class Reached(NamedTuple):
    """A host that was reached, or was not let be reached, and the bytes that went each way."""

    host: str
    port: int
    sent: int = 0
    received: int = 0
    denied: bool = False
