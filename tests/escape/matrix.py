"""The table of boundaries by profile by caller, from the outcomes of the escape tests. Pure."""

from __future__ import annotations

from collections import defaultdict

from tests.escape.arena import MODES
from tests.escape.hostile import PROFILES

Outcomes = dict[tuple[str, str], list[bool]]
# what is tried once, for one caller, or without one of the shipped profiles
OTHER = "other"


class Matrix:
    """Outcomes by boundary, program, and (profile, caller)."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[str, Outcomes]] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))

    def note(self, boundary: str, program: str, profile: str, mode: str, *, held: bool) -> None:
        """One attempt."""
        column = (profile if profile in PROFILES else OTHER, mode if mode in MODES else "root")
        self._rows[boundary][program][column].append(held)

    def text(self) -> str:
        """First how many attempts held (as root / as an ordinary user), then every program; as Markdown."""
        columns = [(profile, mode) for profile in (*PROFILES, OTHER) for mode in MODES]
        lines = _head("boundary", *PROFILES, OTHER)
        for boundary, programs in sorted(self._rows.items()):
            counts = [
                " / ".join(
                    _count([each for row in programs.values() for each in row[profile, mode]]) for mode in MODES
                )
                for profile in (*PROFILES, OTHER)
            ]
            lines.append(_row(boundary, *(count.replace("- / -", "-") for count in counts)))
        lines += ["", *_head("boundary", "program", *(f"{profile}, {mode}" for profile, mode in columns))]
        for boundary, programs in sorted(self._rows.items()):
            for name, row in sorted(programs.items()):
                lines.append(_row(boundary, name, *(_mark(row[column]) for column in columns)))
        return "\n".join(lines) + "\n"


def _head(*names: str) -> list[str]:
    return [_row(*names), "|---" * len(names) + "|"]


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _count(outcomes: list[bool]) -> str:
    """`12`, or `**11 of 12**` when one did not hold."""
    held = sum(outcomes)
    return "-" if not outcomes else str(held) if held == len(outcomes) else f"**{held} of {len(outcomes)}**"


def _mark(outcomes: list[bool]) -> str:
    return "-" if not outcomes else "held" if all(outcomes) else "**NOT HELD**"
