"""A server that was found on this machine: what its registry entry could be, from where, and why.

Pure; runs as whoever types `supervisor discover`. A proposal is no configuration: nobody loads it, and
what cannot be taken is listed with the reason. Everything in it was written by strangers.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import dataclass, field, replace

from supervisor.errors import ConfigError

# of one source: more than a registry can hold is no inventory of a machine
MOST = 200
TEXT = 256
# of where one was found, which is remembered; and of why it is refused
_PLACE, _REASON = 512, 2000


@dataclass(frozen=True)
class Proposal:
    """`place`: where it was found. `fields`: the words of a registry entry. `refused`: why it cannot be taken."""

    source: str
    place: str
    name: str
    fields: dict[str, object] = field(default_factory=dict)
    why: tuple[str, ...] = ()
    refused: str = ""

    @property
    def key(self) -> str:
        """What makes it the same one at the next look."""
        return f"{self.source} {self.place}"

    @property
    def digest(self) -> str:
        """Of everything that a reviewer would want to see again when it differs."""
        text = json.dumps([self.name, self.fields, self.refused], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


@dataclass(frozen=True)
class Found:
    """What one source had. With a `problem` it was not seen whole: nothing of it counts as gone."""

    source: str
    proposals: tuple[Proposal, ...] = ()
    problem: str = ""
    absent: bool = False


def found(source: str, proposals: list[Proposal], problem: str = "") -> Found:
    """What a source had, bounded."""
    if len(proposals) > MOST:
        problem = problem or f"more than {MOST} servers; the others are not shown"
    return Found(source, tuple(map(_bounded, proposals[:MOST])), problem)


def _bounded(made: Proposal) -> Proposal:
    """A proposal that can be remembered and shown, whatever a stranger has called it."""
    if len(made.place) > _PLACE:
        number = hashlib.sha256(made.place.encode("utf-8", "backslashreplace")).hexdigest()[:12]
        place = f"{made.place[:_PLACE]}... {number}"
        return Proposal(
            made.source, place, made.name[:TEXT], refused=f"its name is longer than {_PLACE} characters"
        )
    return replace(made, refused=made.refused[:_REASON]) if len(made.refused) > _REASON else made


def plain(text: str, what: str) -> str:
    """A stranger's text of one line; ConfigError: too long, or something in it that a terminal would obey."""
    if len(text) > TEXT:
        raise ConfigError(f"{what} is longer than {TEXT} characters")
    if not text.isprintable():
        raise ConfigError(f"{what} holds a character that is not printable: {text[:40]!a}")
    return text


def fetch(image: str) -> str:
    """What has to be done before a server can start from an image."""
    return f"first: supervisor image add {shlex.quote(image)}, which judges it by trust.toml"
