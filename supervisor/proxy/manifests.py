"""Pinned manifests: what a server said of itself when somebody reviewed it, with a digest per item.

Runs unprivileged. Lists are answered from here without a process; when a process starts, what it says then is
compared with this. Pages are kept as the server wrote them.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from supervisor.errors import ConfigError, SupervisorError
from supervisor.proxy import message

FORMAT = 1
MAX_BYTES = 32 << 20
# kind: (the method that lists it, the member of its result, the member that names an item)
KINDS = {
    "tools": ("tools/list", "tools", "name"),
    "prompts": ("prompts/list", "prompts", "name"),
    "resources": ("resources/list", "resources", "uri"),
    "templates": ("resources/templates/list", "resourceTemplates", "uriTemplate"),
}
# what a reader does not see, or takes for somebody else's word
_MARKUP = ("<!--", "<important", "<system", "<secret", "<instructions", "[system]", "<|im_start|>", "<|system|>")
# fillers, joiners and vowels that leave nothing on a screen, and a blank of Braille
_BLANK = frozenset((0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180B, 0x180C, 0x180D, 0x180F, 0x2800, 0x3164, 0xFFA0))
# of a diff
_CONTEXT, _LINES = 2, 4000


class Lists(msgspec.Struct, frozen=True):
    """One era of a server: its version, its answer to the handshake, the pages of each list."""

    version: str
    handshake: msgspec.Raw
    pages: dict[str, list[msgspec.Raw]]

    def items(self, kind: str) -> dict[str, msgspec.Raw]:
        """The items of every page by name, as they were written."""
        return {name or "": item for name, item in self._named(kind)}

    def check(self) -> None:
        """SupervisorError for items that nobody could tell apart: only one of them would be reviewed."""
        for kind in KINDS:
            seen = set()
            for name, _ in self._named(kind):
                if not name:
                    raise SupervisorError(f"it lists a {kind[:-1]} without a name")
                if name in seen:
                    raise SupervisorError(f"it lists the {kind[:-1]} {json.dumps(name)} twice")
                seen.add(name)

    def _named(self, kind: str) -> Iterator[tuple[str | None, msgspec.Raw]]:
        _, member, key = KINDS[kind]
        for page in self.pages.get(kind, []):
            for item in message.items((message.fields(page) or {}).get(member)):
                yield message.text((message.fields(item) or {}).get(key)), item


class Manifest(msgspec.Struct, frozen=True):
    """The whole file. `digests` is kind -> name -> SHA-256 of the item's canonical JSON, of the first era."""

    manifest: int
    server: str
    pinned: str
    spec: str
    eras: dict[str, Lists]
    digests: dict[str, dict[str, str]]

    def era(self, *, modern: bool) -> Lists:
        """The lists of that era, or of the only one there is."""
        return self.eras.get("modern" if modern else "legacy") or next(iter(self.eras.values()))


_decoder = msgspec.json.Decoder(Manifest)


def decode(data: bytes, where: str) -> Manifest:
    """A manifest file; ConfigError when it is none, or not of this version."""
    try:
        found = _decoder.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ConfigError(f"{where}: not a manifest ({error}); pin the server again") from None
    if found.manifest != FORMAT or not found.eras or not set(found.eras) <= {"legacy", "modern"}:
        raise ConfigError(f"{where}: a manifest of another version; pin the server again")
    return found


def encode(made: Manifest) -> bytes:
    """The file of a manifest."""
    return message.encode(made) + b"\n"


def canonical(item: msgspec.Raw) -> bytes:
    """An item with its members in order and no spaces: what its digest is of; SupervisorError when it has none."""
    return _written(item, indent=None).encode()


def _written(item: msgspec.Raw, indent: int | None) -> str:
    separators = (",", ":") if indent is None else None
    try:
        return json.dumps(json.loads(bytes(item)), sort_keys=True, separators=separators, indent=indent)
    except (ValueError, RecursionError):
        raise SupervisorError("it lists an item that is too deep, or has a number too long, to compare") from None


def digests(lists: Lists) -> dict[str, dict[str, str]]:
    """Of every item of every kind."""
    return {
        kind: {name: hashlib.sha256(canonical(item)).hexdigest() for name, item in lists.items(kind).items()}
        for kind in KINDS
    }


class Change(NamedTuple):
    """An item that is not as it was pinned: `how` is added, removed or changed."""

    kind: str
    name: str
    how: str
    before: msgspec.Raw | None
    now: msgspec.Raw | None

    @property
    def diff(self) -> str:
        """For a reader; made only for one, because a stranger decides how long it takes."""
        old, new = _shown(self.before), _shown(self.now)
        if len(old) + len(new) > _LINES:
            return f"({len(old)} and {len(new)} lines, which is too much to compare by eye)"
        return "\n".join(difflib.unified_diff(old, new, "pinned", "now", lineterm="", n=_CONTEXT))


def changes(pinned: Lists, live: Lists) -> list[Change]:
    """Every difference between two lists, by name; SupervisorError when they cannot be compared."""
    return [each for kind in KINDS for each in _changes(kind, pinned.items(kind), live.items(kind))]


def _changes(kind: str, old: dict[str, msgspec.Raw], new: dict[str, msgspec.Raw]) -> Iterator[Change]:
    for name in sorted(old.keys() | new.keys()):
        before, now = old.get(name), new.get(name)
        if before is None or now is None:
            yield Change(kind, name, "removed" if now is None else "added", before, now)
        elif bytes(before) != bytes(now) and canonical(before) != canonical(now):
            yield Change(kind, name, "changed", before, now)


def _shown(item: msgspec.Raw | None) -> list[str]:
    # escapes stay escapes: what hides must be seen here
    return [] if item is None else _written(item, indent=1).splitlines()


def tell(server: str, found: list[Change]) -> str:
    """The changes in one line, for an error."""
    shown = ", ".join(f"{each.kind[:-1]} {json.dumps(each.name)} {each.how}" for each in found[:5])
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return f"{shown}{more} since it was pinned; review and pin it again: supervisor pin {server}"


def texts(item: msgspec.Raw) -> Iterator[tuple[str, str]]:
    """Every text in an item and where it is, names included, in their order."""
    todo: list[tuple[object, str]] = [(json.loads(canonical(item)), "")]
    while todo:
        value, where = todo.pop()
        if isinstance(value, dict):
            # a name is a stranger's word as well
            todo += reversed([(each, f"{where}.{json.dumps(key)[1:-1]}") for key, each in value.items()])
            todo += [(str(key), where) for key in value]
        elif isinstance(value, list):
            todo += [(each, where) for each in reversed(value)]
        elif isinstance(value, str):
            yield where[1:], value


def hidden(item: msgspec.Raw) -> list[str]:
    """What in an item's text a reader would not see or would take for another's word; one line each."""
    return sorted({f"{where}: {why}" for where, text in texts(item) for why in _hidden(text)})


def _hidden(text: str) -> Iterator[str]:
    for character in set(text):
        if why := _why(character):
            yield f"{why} U+{ord(character):04X}"
    for mark in _MARKUP:
        if mark in text.lower():
            yield f'markup "{mark}"'


def _why(character: str) -> str:
    number, category = ord(character), unicodedata.category(character)
    if number == 0x1B:
        return "escape sequence"
    if category == "Cc" and character not in "\n\t\r":
        return "control character"
    if 0x202A <= number <= 0x202E or 0x2066 <= number <= 0x2069 or number in (0x200E, 0x200F, 0x061C):
        return "text direction control"
    if 0xFE00 <= number <= 0xFE0F or 0xE0100 <= number <= 0xE01EF:
        return "variation selector"
    if category in ("Cf", "Co", "Cn", "Cs") or number in _BLANK:
        return "invisible character"
    return "line separator" if category in ("Zl", "Zp") else ""
