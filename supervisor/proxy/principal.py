"""Who a client is: the kernel's word for a local user, the token's for everybody else.

Runs unprivileged. Quotas and processes are counted and kept apart by the name.
"""

from __future__ import annotations

from typing import NamedTuple


class Principal(NamedTuple):
    """`uid:1000`, or the subject of a token, with its groups."""

    name: str
    groups: tuple[str, ...] = ()
