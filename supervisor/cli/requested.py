"""What `discover --request` has filed, as `pending`, `show`, `approve` and `deny` have it: no server of ours yet.

Runs as whoever owns the registry. The number of a request is a digest of its entry and of all that an approval of
it would bind, so that what is registered is what was shown, and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import time
from dataclasses import dataclass, field

from supervisor.cli import files, host, servers
from supervisor.errors import ConfigError, SupervisorError
from supervisor.model import Registered
from supervisor.profile import host as machine
from supervisor.profile import toml
from supervisor.registry import written
from supervisor.registry.discover import denied
from supervisor.runtimes import native


@dataclass(frozen=True)
class Request:
    """`made`: the registry's text with it, `before` what that is now. `problem`: why it cannot be registered."""

    name: str
    path: str
    data: bytes = b""
    fields: written.Fields = field(default_factory=dict)
    made: str = ""
    before: bytes | None = None
    server: Registered | None = None
    problem: str = ""

    @property
    def number(self) -> str:
        """Of the entry and of all that its approval binds; "" while that is not known."""
        if self.server is None:
            return ""
        text = json.dumps([self.name, self.fields, self.server.bound], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def why(self) -> str:
        """In a sentence, for whoever has to decide."""
        if self.server is None:
            return f"requested, and cannot be registered now: {self.problem}"
        return f"requested: supervisor show {self.number}, then approve {self.number} registers it"

    @property
    def said(self) -> list[str]:
        """Where it was found and why it is as it is: the comments on top of it."""
        # no other character ends a line of TOML, and a stranger's text below them may hold one
        lines = self.data.decode(errors="replace").split("\n")[1:]
        return [line[2:] for line in itertools.takewhile(lambda line: line.startswith("# "), lines)]


def names(path: str) -> list[str]:
    """The requests for a registry."""
    try:
        listed = os.listdir(servers.proposed_folder(path))
    except FileNotFoundError:
        return []
    return sorted(each.removesuffix(".toml") for each in listed if each.endswith(".toml"))


def listed(path: str) -> list[Request]:
    """Each of them, as it is now."""
    return [look(path, each) for each in names(path)]


def look(path: str, name: str) -> Request:
    """One request: planned as if it were registered."""
    there = os.path.join(servers.proposed_folder(path), f"{name}.toml")
    found = Request(name, there)
    try:
        data = toml.checked(there)
        found = Request(name, there, data)
        fields = entry(there, data, name)
        before, text = servers.text_of(path)
        found = Request(name, there, data, fields, before=before)
        made = servers.with_tables(path, text, {name: fields}, comment="approved from a proposal")
        (server,) = host.planned({"catalog": path, "text": made, "only": name, "bind": True}).servers
        if not server.bound:
            raise ConfigError(server.held)
        return Request(name, there, data, fields, made, before, server)
    except (SupervisorError, UnicodeDecodeError) as error:
        return Request(name, there, found.data, found.fields, problem=str(error))


def entry(there: str, data: bytes, name: str) -> written.Fields:
    """The one table of a request."""
    tables = written.servers(toml.parse(there, data).text)
    fields = tables.get(name)
    if len(tables) != 1 or not isinstance(fields, dict):
        raise ConfigError(f"{there}: it is to have one table, [server.{name}]")
    try:
        json.dumps(fields, allow_nan=False)
    except (TypeError, ValueError):
        raise ConfigError(f"{there}: a date, a time, or a number that is none: no entry has one") from None
    return fields


def register(path: str, number: str, name: str) -> Registered:
    """Register what has that number, exactly as it was shown; what an approval of it binds."""
    with files.locked(servers.proposed_folder(path)), files.locked(os.path.dirname(path)):
        now = look(path, name)
        if now.server is None or now.number != number:
            raise ConfigError(f'"{name}" is not as it was shown any more; {now.why}')
        native.check(now.server.plan, machine.probe(), now.server.entry.accept_missing)
        files.replace(os.path.realpath(path), now.made.encode(), before=now.before)
        os.unlink(now.path)
    return now.server


def deny(path: str, about: Request, reason: str) -> None:
    """Take a request away, and remember not to propose it again as it is."""
    folder = servers.proposed_folder(path)
    with files.locked(folder):
        if toml.checked(about.path) != about.data:
            raise ConfigError(f"{about.path}: it has changed meanwhile; look at it again")
        before, known = denied.load(folder)
        said = denied.Denial(name=about.name, reason=reason, at=time.time(), by=os.getuid())
        after = dict.fromkeys(sorted(denied.digests(about.data, about.fields)), said)
        text = denied.Denied(denied=known.denied | after).model_dump_json(indent=1)
        files.replace(os.path.join(folder, denied.NAME), text.encode(), before=before)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(about.path)
