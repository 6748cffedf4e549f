"""The hosts of calls that are under way: each once, what moved added up, within a bound; the rest is counted.

Pure. A session may be made to ask for as many names as its broker lets through; those that were refused have room
of their own, so that nobody hides one behind a thousand that were allowed.
"""

from __future__ import annotations

from supervisor.audit.reached import Reached

# of those that were reached, and of those that were refused
MOST = 1000


class Hosts:
    """`more`: how often others were told of, for whom there was no room."""

    __slots__ = ("_kept", "more")

    def __init__(self) -> None:
        self._kept: dict[bool, dict[tuple[str, int], Reached]] = {True: {}, False: {}}
        self.more = 0

    def add(self, reached: Reached) -> None:
        """One was reached, or was not let be."""
        kept, key = self._kept[reached.denied], (reached.host, reached.port)
        before = kept.get(key)
        if before is not None:
            sent, received = before.sent + reached.sent, before.received + reached.received
            kept[key] = before._replace(sent=sent, received=received)
        elif len(kept) < MOST:
            kept[key] = reached
        else:
            self.more += 1

    def listed(self) -> tuple[Reached, ...]:
        """Those there was room for, refused ones first."""
        return (*self._kept[True].values(), *self._kept[False].values())
