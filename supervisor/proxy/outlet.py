"""Where the messages for one client go: what a conversation needs of its front.

Runs unprivileged. The fronts are stdio, and each exchange over HTTP.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Outlet(Protocol):
    """Where the messages for one client go; see the fronts.

    `about` is the key of the client's own request that a message belongs to, `last` says that it is the answer.
    """

    on_writable: Callable[[], None]

    def deliver(self, line: bytes, about: bytes | None, *, last: bool) -> None: ...
    def writable(self) -> bool: ...
