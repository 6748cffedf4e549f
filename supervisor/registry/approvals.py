"""Approvals: what one binds, whether what is registered now is what was approved, and what is different in words.

Runs in the planner and in the command line. The file beside the registry is read whole: each line decides about a
number, which is the digest of everything that was reviewed, so that whatever has changed has another.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Literal, NamedTuple

from msgspec import Meta

from supervisor.errors import ConfigError
from supervisor.model import Frozen, Registered
from supervisor.profile import toml
from supervisor.profile.entry import Account, ServerEntry
from supervisor.registry import bindings, pinned
from supervisor.registry.bindings import Binding
from supervisor.registry.catalog import Catalog
from supervisor.registry.seen import Seen

NAME = "approvals.jsonl"
_LIMIT = 64 << 20
_UNSET = (1 << 32) - 1
# whether somebody, by his uid, may approve a server
May = Callable[[str, int], bool]


def anybody(_server: str, _uid: int) -> bool:
    """Where no policy says who may approve."""
    return True


class Bound(Frozen):
    """Everything that an approval is about. `files`: the SHA-256 of each file that the command names.

    `touches` is what it may touch, a sentence each; it follows from the spec, and is kept to be compared.
    """

    server: str
    command: tuple[str, ...]
    files: dict[str, str]
    image: str
    manifest: str
    version: str
    profile: str
    spec: str
    params: dict[str, str]
    accepted: tuple[str, ...]
    touches: tuple[str, ...]

    @property
    def number(self) -> str:
        """The beginning of the digest of all of it."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:12]

    @property
    def text(self) -> str:
        """As it is written down."""
        return json.dumps(self.model_dump(), sort_keys=True, separators=(",", ":"))


class Decision(Frozen):
    """One line of the file. `login` is the kernel's word (loginuid), `uid` that of whoever spoke on admin.sock."""

    at: float
    req: Literal["approve", "deny", "revoke"]
    id: int
    server: str
    approval: Annotated[str, Meta(pattern=r"^[0-9a-f]{12}\Z")]
    reason: str
    until: float
    bound: str
    uid: int
    asked: tuple[int, ...] = ()
    login: int | None = None

    @property
    def person(self) -> int:
        """Whose login it was; where the kernel knows of none, the uid."""
        return self.uid if self.login in (None, _UNSET) else int(self.login or 0)


class State(NamedTuple):
    """Of one number: why it may not run ("" if it may), until when it may, and who has approved it."""

    held: str
    until: float
    by: tuple[int, ...]


def decisions(path: str) -> list[Decision]:
    """Every line of the file beside a registry; ConfigError with the line for one that is none."""
    store = os.path.join(os.path.dirname(path), NAME)
    if not os.path.lexists(store):
        return []
    data = toml.checked(store, limit=_LIMIT)
    lines = data.split(b"\n")
    if lines[-1]:
        raise ConfigError(f"{store}:{len(lines)}: the line is not whole: it decided nothing, remove it")
    found = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            each = toml.decoded(line, Decision)
            if toml.decoded(each.bound, Bound).number != each.approval:
                raise ConfigError(f"{store}:{number}: approval {each.approval} is not of what stands there")
            found.append(each)
        except ValueError as error:
            raise ConfigError(f"{store}:{number}: no decision ({str(error)!r:.200})") from None
    return found


def bound(entry: ServerEntry, planned: Account, server: Registered, files: dict[str, str]) -> Bound:
    """What an approval of a server is about, as it is now; `files` are those of its command with their digests."""
    spec = planned.spec
    return Bound(
        server=entry.name,
        command=spec.argv,
        files=files,
        image=f"{spec.image.name}@{spec.image.digest}" if spec.image else "",
        manifest=server.digest,
        version=pinned.version(server.manifest) if server.manifest else "",
        profile=spec.profile,
        spec=spec.digest,
        params=entry.params,
        accepted=entry.accept_missing,
        touches=tuple(sorted({*_touches(planned), *Binding(entry, spec).unbound()})),
    )


def _touches(planned: Account) -> Iterator[str]:
    """One sentence for each thing that is granted; of limits the amount."""
    spec = planned.spec
    for mount in spec.mounts:
        verb = "read" if mount.mode == "ro" else "read and write"
        yield f"{verb} {mount.source} at {mount.target}{'' if mount.noexec else ', and run programs in it'}"
    yield from (f"reach {each}" for each in spec.network.allow)
    yield from (f"make system calls of the group {each}" for each in spec.seccomp.groups)
    yield from (f"see the variable {name}={value}" for name, value in spec.env.items())
    yield from (f"have {name}: {value}" for name, value in spec.limits.model_dump().items())
    yield f"run {' '.join(spec.argv)}"
    yield from () if spec.runtime == "native" else (f"be run by {spec.runtime} at {spec.engine['socket']}",)


def state(made: Bound, past: Iterable[Decision], persons: int, may: May, now: float | None = None) -> State:
    """Whether it may run, by what was decided about exactly this."""
    now = time.time() if now is None else now
    by: dict[int, float] = {}
    denied, vain, number = "", "", made.number
    for each in past:
        if each.req == "revoke" and each.server == made.server:
            by.clear()
            vain = ""
        elif each.approval == number and each.server == made.server:
            denied = f" (denied: {each.reason})" if each.req == "deny" else ""
            vain = ""
            if each.req == "deny":
                by.clear()
            elif may(made.server, each.person):
                by[each.person] = each.until
            else:
                vain = f" (that of uid {each.person} does not count: no policy lets that user approve)"
    valid = {person: until for person, until in by.items() if not 0 < until <= now}
    until = min((each for each in valid.values() if each), default=0.0)
    if len(valid) >= persons:
        return State("", until, tuple(valid))
    so_far = f" ({len(valid)} of {persons} persons have)" if persons > 1 else ""
    gone = " (it has expired)" if by and not valid else denied or vain
    return State(f"approval {number} needed: supervisor approve {number}{so_far}{gone}", 0.0, tuple(valid))


def latest(past: Iterable[Decision], server: str) -> Bound | None:
    """What was approved of a server the last time, whatever came after."""
    found = [each for each in past if each.req == "approve" and each.server == server]
    return toml.decoded(found[-1].bound, Bound) if found else None


def differences(old: Bound | None, new: Bound) -> list[tuple[str, str]]:
    """("+", sentence) for what only the new one could touch or is, ("-", sentence) for the old one."""
    before = set() if old is None else set(old.touches)
    rows = [("+", each) for each in new.touches if each not in before]
    rows += [("-", each) for each in sorted(before - set(new.touches))]
    if old is None:
        return rows
    for name in ("command", "image", "version", "profile", "params", "accepted", "manifest", "files", "spec"):
        was, is_now = getattr(old, name), getattr(new, name)
        if was != is_now:
            rows.append(("~", f"{_WORDS[name]} {shown(is_now)} instead of {shown(was)}"))
    return rows


_WORDS = {
    "command": "it runs",
    "image": "it is the image",
    "version": "it calls itself version",
    "profile": "its profile is",
    "params": "its params are",
    "accepted": "layers that may be missing are",
    "manifest": "what it lists is pinned as",
    "files": "its program's files have the digests",
    "spec": "the digest of its sandbox is",
}


def shown(value: object) -> str:
    """For a person."""
    if isinstance(value, dict):
        return ", ".join(f"{name}={each[:64]}" for name, each in value.items()) or "none"
    if isinstance(value, tuple):
        return " ".join(value) or "none"
    return str(value) or "none"


def join(
    path: str,
    found: Catalog,
    servers: list[tuple[ServerEntry, Account, Registered]],
    may: May,
    *,
    review: str | None,
    seen: Seen,
) -> list[Registered]:
    """Each server with its number and, unless that is approved, why it is held.

    `review` is one that is started to be looked at, by whoever owns the registry. `seen` gets the files that this
    depends on, before they are read.
    """
    if not found.persons:
        return [each for _, _, each in servers]
    seen.look([os.path.join(os.path.dirname(path), NAME)])
    past, digest = decisions(path), functools.cache(bindings.digest)
    joined = []
    for entry, planned, server in servers:
        try:
            binding = Binding(entry, planned.spec)
            names = seen.settle(binding.names, lambda names: names)
            made = bound(entry, planned, server, {each: digest(each) for each in binding.files(names)})
        except ConfigError as error:
            # not the other servers too: whose file it is decides about this one alone
            joined.append(server.model_copy(update={"held": f"{error}"[:2000], "others": ()}))
            continue
        decided = state(made, past, found.persons, may)
        held = "" if entry.name == review else decided.held
        # what was approved is one runtime; "auto" is the native one then
        words = {"approval": made.number, "bound": made.text, "held": held[:2000], "until": decided.until}
        joined.append(server.model_copy(update=words | {"others": ()}))
    return joined
