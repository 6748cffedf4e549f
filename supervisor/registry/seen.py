"""What a plan was made from: each file and folder as it was before it was read.

Runs in the planner. Whatever is put in the place of one from then on, while the plan is made or after it, is
another number for whoever watches (supervisor.profile.host.changed): it is read again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from supervisor.errors import ConfigError
from supervisor.profile import host

_TRIES = 5
Made = TypeVar("Made")


class Seen:
    """Names, and what `changed` said of each when it was met first."""

    def __init__(self) -> None:
        self.found: dict[str, int] = {}

    def look(self, paths: Iterable[str]) -> bool:
        """Remember how these are now; whether one of them is new."""
        new = [each for each in paths if each not in self.found]
        self.found |= {each: host.changed(each) for each in new}
        return bool(new)

    def settle(self, read: Callable[[], Made], names: Callable[[Made], Iterable[str]]) -> Made:
        """What `read` gives once all that it names was looked at before: what is new is read once more."""
        for _ in range(_TRIES):
            made = read()
            if not self.look(names(made)):
                return made
        raise ConfigError(f"{next(reversed(self.found))}: what lies there changes faster than it can be read")
