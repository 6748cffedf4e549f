"""For a denial: what made it, and the line that would allow it.

Runs as whoever types `supervisor why`. It reads the registry and profiles as they are now, which may be others than
at the time; it changes nothing, and what it suggests is for a person to judge.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from typing import NamedTuple

from supervisor.audit.denials import Denial
from supervisor.errors import SupervisorError
from supervisor.model import Mount
from supervisor.profile import load, plan
from supervisor.profile.entry import ServerEntry
from supervisor.profile.granted import below
from supervisor.registry import images

# servers that one line lists
_NAMES = 20
_EPERM = ("Operation not permitted", "EPERM", "Function not implemented", "ENOSYS", "SIGSYS")


class Answer(NamedTuple):
    """Why, and what to write where; `allow` is empty where no line would."""

    what: str
    why: str
    where: str
    allow: str


@dataclass(frozen=True)
class Known:
    """A server of the registry as it is now, its profile, and the mounts that its plan has.

    `path` and `names` are the registry's own: the file, and the servers in it.
    """

    entry: ServerEntry | None
    chain: load.Chain | None
    mounts: tuple[Mount, ...] = ()
    path: str = ""
    names: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """Where a line of the server's own goes."""
        return self.entry.origin if self.entry else "the command line, or the server's table in servers.toml"


def known(entry: ServerEntry | None, profile: str, beside: str, names: tuple[str, ...] = ()) -> Known:
    """What there is to know of a server, or of the profile that a session had."""
    chain: load.Chain | None = None
    mounts: tuple[Mount, ...] = ()
    with contextlib.suppress(SupervisorError):
        chain = load.load(entry.profile if entry else profile, beside=beside)
        if entry:
            found = images.find(entry)
            mounts = plan.plan(chain, entry, found.image if found else None).spec.mounts
    return Known(entry, chain, mounts, beside, names)


def answer(denial: Denial, now: Known) -> Answer:
    """The explanation of one denial."""
    table = {"policy": _policy, "file": _file, "host": _host, "limit": _limit, "start": _start}
    return table[denial.kind](denial, now) if denial.kind in table else _reply(denial)


def _policy(denial: Denial, now: Known) -> Answer:
    rule = denial.name or "a rule"
    what = f"policy: {rule}"
    kind, _, way = rule.partition(".")
    if rule == "not listed":
        return _unlisted(denial, now)
    if kind in ("tools", "prompts", "resources") and way in ("allow", "deny"):
        said = f"take the pattern out of {rule}" if way == "deny" else f"add a pattern for it to {rule}"
        return Answer(what, denial.reason, _place(denial.reason) or now.where, said)
    if rule == "users":
        return Answer(what, denial.reason, now.where, 'users = ["NAME"], or "@GROUP"')
    if kind == "quota":
        return _limit(denial, now)
    return Answer(what, denial.reason, _place(denial.reason) or now.where, "")


def _unlisted(denial: Denial, now: Known) -> Answer:
    """It was asked for by a name that no list has: the servers there are, and whose it would be."""
    name, what = denial.server, "policy: not listed"
    if name and now.entry:
        why = f'{denial.reason}: the pinned manifest of server "{name}" had nothing of that name'
        return Answer(what, why, now.where, f"supervisor pin {name}   # shows what it lists by now, and asks")
    if name:
        why = f'{denial.reason}: server "{name}", which it was asked of, is not in the registry'
        return Answer(what, why, now.path, f"supervisor add {name} ...")
    shown = ", ".join(now.names[:_NAMES]) + (f" and {len(now.names) - _NAMES} more" if now.names[_NAMES:] else "")
    why = (
        f"{denial.reason or 'it is unknown'}: it names no server that was there; tools and prompts are SERVER__NAME"
    )
    return Answer(what, why, now.path, f"supervisor list   # of the servers: {shown or 'none is registered'}")


def _place(reason: str) -> str:
    """`file:line` with which a reason of ours begins."""
    head, sign, _ = reason.partition(": ")
    path, colon, line = head.rpartition(":")
    return head if sign and colon and line.isdigit() and path else ""


def _file(denial: Denial, now: Known) -> Answer:
    path, writes = denial.name, "w" in denial.mode
    what = f"file: {'write' if writes else 'read'} {path}"
    around = [each for each in now.mounts if below(path, each.target)]
    if not around:
        word = "rw" if writes else "ro"
        folder = path if os.path.isdir(path) else os.path.dirname(path)
        return Answer(what, "no mount shows it", now.where, f"{word} = [{json.dumps(folder)}]   # or --{word}")
    mount = max(around, key=lambda each: each.target)
    if writes and mount.mode == "ro":
        source = json.dumps(mount.source)
        why = f"{mount.target} is shown read-only"
        return Answer(what, why, now.where, f"rw = [{source}]   # or --rw; everything below it can be written then")
    why = f"it lies in {mount.target}, which is granted ({mount.mode}): the host's own permissions refuse it"
    return Answer(what, why, f"the host: owner and mode of {mount.source}", "")


def _host(denial: Denial, now: Known) -> Answer:
    host, _, port = denial.name.rpartition(":")
    rule = denial.rule.removeprefix("--allow ") or f"{host}:{port if port not in ('', '0') else '443'}"
    line = f"allow = [{json.dumps(rule)}]   # or --allow {rule}"
    profile = now.chain.profile if now.chain else None
    if profile and not profile.network.operator:
        origin = now.chain.origin("network", "operator") if now.chain else ""
        why = f'profile "{profile.name}" has no network ({origin})'
        return Answer(f"host: {denial.name}", why, now.where, f'profile = "net-allowlist", {line}')
    return Answer(f"host: {denial.name}", denial.reason or "no rule allows it", now.where, line)


def _limit(denial: Denial, now: Known) -> Answer:
    kind, _, key = denial.name.partition(".")
    what, why = f"limit: {denial.name}", denial.reason or "it was reached"
    if kind == "quota" or (kind == "session" and key in ("start", "idle", "answer")):
        value = "N" if kind == "quota" else '"TIME"'
        return Answer(what, why, now.where, f"{kind} = {{ {key} = {value} }}")
    if now.chain is None:
        return Answer(what, why, "a profile of your own", f"[{kind}] {key} = ...")
    origin = now.chain.origin(kind, key)
    sections = [source.data.get(kind) for source in now.chain.sources]
    values = [each[key] for each in sections if isinstance(each, dict) and key in each]
    shown = json.dumps(values[-1], default=str) if values else "?"
    name = now.chain.profile.name
    own = name in load.names()
    where = f"a profile of your own that extends {name}" if own else origin
    return Answer(what, f"{why} ({key} is {shown}, {origin})", where, f"[{kind}] {key} = ...   # more than {shown}")


def _start(denial: Denial, now: Known) -> Answer:
    return Answer("start: the sandbox was not made", denial.reason, now.where, "")


def _reply(denial: Denial) -> Answer:
    what, why = f"answer: {denial.name}", denial.reason or "the server said no more"
    if any(each in why for each in _EPERM):
        profile = denial.profile or "PROFILE"
        hint = f"supervisor profile learn --bound {profile} -- COMMAND names a refused system call, and its group"
        return Answer(what, why, f"[seccomp] groups of a profile that extends {profile}", hint)
    return Answer(what, why, "", "")
