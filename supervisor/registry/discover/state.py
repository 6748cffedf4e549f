"""What was found at the last look, so that the next one can say what is new, changed and gone.

Pure but for the file of it, which is this user's own. It holds digests: no command, no variable, no label.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, ValidationError

from supervisor.errors import ConfigError
from supervisor.profile.written import Written, explain
from supervisor.registry.discover.proposal import MOST, Found, Proposal

# of a source that was not seen whole, of what it had before
_KEPT = 2 * MOST
State = Literal["new", "changed", "gone", "known"]


class Seen(Written):
    """One proposal of an earlier look."""

    source: str
    place: str
    name: str
    digest: str


class Memory(Written):
    """The file: proposals by their keys."""

    version: Annotated[int, Field(ge=1, le=1)] = 1
    seen: dict[str, Seen] = {}


class Row(NamedTuple):
    """A proposal and what it is since last time; one that is gone has nothing but its name and place."""

    state: State
    proposal: Proposal


def parse(path: str, data: bytes) -> Memory:
    """The file's content; ConfigError when it is not ours."""
    try:
        return Memory.model_validate_json(data, strict=False)
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error)[0]}; take it away to begin anew") from None


def compare(memory: Memory, looked: Sequence[Found]) -> tuple[list[Row], Memory]:
    """Every proposal with its state, those that are gone behind them, and what is to be remembered."""
    rows: list[Row] = []
    seen = dict(memory.seen)
    for found in looked:
        there = {each.key: each for each in found.proposals}
        for key, each in there.items():
            old = seen.get(key)
            rows.append(Row("new" if old is None else "known" if old.digest == each.digest else "changed", each))
        # what was not seen whole may still be there
        whole = not found.problem and not found.absent
        before = [key for key, each in seen.items() if each.source == found.source and key not in there]
        for key in before if whole else []:
            gone = seen.pop(key)
            rows.append(Row("gone", Proposal(gone.source, gone.place, gone.name)))
        for key, each in there.items():
            seen[key] = Seen(source=each.source, place=each.place, name=each.name, digest=each.digest)
        # a source that is never seen whole would be remembered for ever
        for key in [key for key in before if key in seen][:-_KEPT]:
            del seen[key]
    return rows, Memory(seen=seen)
