"""Which groups of system calls would have admitted a call, by its name and its arguments.

Pure; runs as whoever types `supervisor profile learn`. It reads the words that the filter is compiled from.
"""

from __future__ import annotations

from collections.abc import Sequence

from supervisor.profile import load, seccomp
from supervisor.profile.seccomp import Group, When
from supervisor.profile.strace import Call


class Admission:
    """The groups of the floor, and those that a bound has beyond them."""

    def __init__(self, floor: Sequence[str], bound: Sequence[str]) -> None:
        folder = load.share_folder("profiles") / "syscalls"
        self._floor = seccomp.load_groups(folder, floor)
        self._more = seccomp.load_groups(folder, [each for each in bound if each not in floor])
        groups = (*self._floor, *self._more)
        self._conditional = {when.call for group in groups for when in group.when}
        self._known: dict[str, frozenset[str] | None] = {}

    def of(self, call: Call) -> frozenset[str] | None:
        """The groups beyond the floor that admit a call, perhaps none; None when the floor does."""
        if call.name in self._conditional:
            return self._judge(call)
        if call.name not in self._known:
            self._known[call.name] = self._judge(call)
        return self._known[call.name]

    def _judge(self, call: Call) -> frozenset[str] | None:
        if any(_admits(group, call) for group in self._floor):
            return None
        return frozenset(group.group for group in self._more if _admits(group, call))

    def fewest(self, wanted: set[tuple[str, frozenset[str]]]) -> dict[str, set[str]]:
        """The fewest groups beyond the floor that admit every call, each with the calls that it is there for."""
        left = {(name, groups) for name, groups in wanted if groups}
        chosen: dict[str, set[str]] = {}
        while left:
            names = [group.group for group in self._more]
            best = max(names, key=lambda name: sum(name in groups for _, groups in left))
            chosen[best] = {name for name, groups in left if best in groups}
            left = {(name, groups) for name, groups in left if best not in groups}
        return {name: chosen[name] for name in (group.group for group in self._more) if name in chosen}


def _admits(group: Group, call: Call) -> bool:
    return call.name in group.allow or any(_holds(when, call) for when in group.when if when.call == call.name)


def _holds(when: When, call: Call) -> bool:
    for each in when.args:
        value = call.number(each.index)
        if value is not None and value & each.mask not in each.values:
            return False
    return True
