"""Policies of a registry: read, checked all or nothing, sliced by server, and who may open what worked out.

Runs in the planner. `policies/*.cedar` beside servers.toml, and what `grant` compiles to. Once there is a policy
file, every server is for those alone whom a policy permits; without one, only a server with a `grant` is.
"""

from __future__ import annotations

import grp
import pwd
from collections.abc import Iterator
from typing import NamedTuple

import cedarpy

from supervisor.errors import ConfigError
from supervisor.model import Registered
from supervisor.registry import approvals, pinned
from supervisor.registry.catalog import Catalog
from supervisor.registry.planner import Governed
from supervisor.registry.seen import Seen
from supervisor.roles import bundle, schema, statements
from supervisor.roles.arguments import Item
from supervisor.roles.bundle import Bundle
from supervisor.roles.judge import Judge
from supervisor.roles.statements import Entity, Facts, Statement

# who is in which group is read from there, as far as they are files
ACCOUNTS = ("/etc/passwd", "/etc/group")


class Rules(NamedTuple):
    """Every policy of a registry, checked, and the servers that are for those alone whom one permits."""

    facts: tuple[Facts, ...]
    closed: frozenset[str]

    def of(self, server: str) -> tuple[Facts, ...] | None:
        """Those that can concern a server; None when it is as free as ever."""
        return tuple(each for each in self.facts if each.concerns(server)) if server in self.closed else None


def rules(found: Catalog) -> Rules:
    """Parse and check; ConfigError with file and line."""
    if found.policies_required and not found.policies:
        raise ConfigError(
            f"{found.policies_required}: policies are required, and there is no policies/*.cedar beside this file"
        )
    facts = [each for path, text in found.policies for each in statements.split(text, path)]
    facts += [statements.facts(Statement(*each)) for listed in found.servers.values() for each in listed.grants]
    _check_labels(facts)
    _check_schema(facts)
    _check_names(facts, found)
    closed = (name for name, listed in found.servers.items() if found.policies or listed.governed)
    return Rules(tuple(facts), frozenset(closed))


def _check_labels(facts: list[Facts]) -> None:
    seen: dict[str, str] = {}
    for each in facts:
        origin, label, _ = each.statement
        if label in seen:
            raise ConfigError(f'{origin}: @id("{label}") is that of {seen[label]} already')
        if label:
            seen[label] = origin


def _check_schema(facts: list[Facts]) -> None:
    used = {each for found in facts for each in found.arguments}
    try:
        known = cedarpy.Schema.from_str(schema.text(used))
    except ValueError as error:
        raise ConfigError(f"policies name an argument that cannot be named: {error}") from None
    result = cedarpy.validate_policies("\n".join(each.statement.text for each in facts), known)
    for wrong in result.errors:
        number = wrong.policy_id.removeprefix("policy")
        by = facts[int(number)].statement.origin if number.isdigit() else "policies"
        raise ConfigError(f"{by}: {wrong.error.replace(f'for policy `{wrong.policy_id}`, ', '')}")


def _check_names(facts: list[Facts], found: Catalog) -> None:
    """A server, tool, prompt or argument that there is not: the policy would never be about anything."""
    known = _Pins(found)
    for each in facts:
        for entity in sorted(each.entities):
            _check_entity(each, entity, known)
        servers = [name for name in found.servers if each.concerns(name)]
        items = [known.items(name) for name in servers]
        for record, name in sorted(each.arguments) if items and all(found is not None for found in items) else []:
            if not any(item.declared.get(name, ("",))[0] == record for listed in items for item in listed or []):
                raise ConfigError(
                    f"{each.statement.origin}: no tool that this policy is about declares an argument "
                    f'"{name}" that is in context.{record}'
                )


def _check_entity(found: Facts, entity: Entity, known: _Pins) -> None:
    kind, name = entity
    if kind in ("User", "Group", "Action"):
        return
    server = statements.server_of(entity)
    if server not in known.names or (kind != "Server" and "/" not in name):
        hint = "" if kind == "Server" else f" ({kind}s are written SERVER/NAME)"
        raise ConfigError(f'{found.statement.origin}: no server "{server}" is registered{hint}')
    items = known.items(server)
    if kind in ("Tool", "Prompt") and items is not None:
        wanted = name.partition("/")[2]
        if not any(schema.ITEMS[each.kind] == kind and each.name == wanted for each in items):
            raise ConfigError(f'{found.statement.origin}: server "{server}" has no {kind.lower()} "{wanted}"')


class _Pins:
    """The manifests, each read when it is asked for."""

    def __init__(self, found: Catalog) -> None:
        self.names = {*found.servers, *found.disabled}
        self._paths = {name: listed.manifest for name, listed in found.servers.items() if listed.manifest}
        self._read: dict[str, list[Item]] = {}

    def items(self, server: str) -> list[Item] | None:
        """What a server has; None when it is not pinned."""
        if server not in self._paths:
            return None
        if server not in self._read:
            self._read[server] = pinned.items(self._paths[server])
        return self._read[server]


def govern(found: Catalog, servers: list[Registered], seen: Seen) -> Governed:
    """Each server with its policies, and with the accounts that may open it; who may approve."""
    checked = rules(found)
    if not checked.closed:
        return servers, approvals.anybody
    seen.look(ACCOUNTS)
    host = Host()
    made = [_governed(checked, each, host) for each in servers]
    judges = {each.entry.name: Judge(bundle.decode(each.policy)) for each in made if each.policy}

    def may(server: str, uid: int) -> bool:
        judge = judges.get(server)
        return judge is None or judge.server_wide(judge.who(f"uid:{uid}", ()), "approve").outcome == "allow"

    return made, may


def _governed(checked: Rules, server: Registered, host: Host) -> Registered:
    entry = server.entry
    made = sliced(checked, entry.name, server.plan.spec.profile, host)
    if made is None:
        return server
    users = tuple(openers(Judge(made), host))
    return server.model_copy(
        update={"policy": bundle.encode(made), "entry": entry.model_copy(update={"users": users})}
    )


def sliced(checked: Rules, server: str, profile: str, host: Host) -> Bundle | None:
    """What concerns one server; None when no policy does, and none has to."""
    facts = checked.of(server)
    if facts is None:
        return None
    named = {entity for each in facts for entity in each.entities}
    groups, users = (sorted(name for each, name in named if each == kind) for kind in ("Group", "User"))
    return Bundle(
        server,
        profile,
        tuple((each.statement.origin, each.statement.label, each.statement.text) for each in facts),
        {uid: name for name in users if (uid := host.uid(name)) is not None},
        {name: tuple(sorted(host.members(name))) for name in groups},
    )


def openers(judge: Judge, host: Host) -> Iterator[str]:
    """The accounts of this host that may open the server; what is the same for many is asked once."""
    by_uid = any("uid" in each.statement.text for each in judge.facts)
    known: dict[object, bool] = {}
    for name, uid in (host.accounts | {each: uid for uid, each in judge.bundle.accounts.items()}).items():
        who = judge.who(f"uid:{uid}", ())
        key = (who.name if uid in judge.bundle.accounts else "", who.groups, uid if by_uid else None)
        if key not in known:
            known[key] = judge.server_wide(who, "open").outcome == "allow"
        if known[key]:
            yield name


class Host:
    """The accounts and groups of this host, read once."""

    def __init__(self) -> None:
        listed = pwd.getpwall()
        self.accounts = {each.pw_name: each.pw_uid for each in listed}
        self._primary: dict[int, set[int]] = {}
        for each in listed:
            self._primary.setdefault(each.pw_gid, set()).add(each.pw_uid)

    def uid(self, name: str) -> int | None:
        """Of an account, also of one that is not listed."""
        try:
            return self.accounts.get(name) if name in self.accounts else pwd.getpwnam(name).pw_uid
        except (KeyError, ValueError, UnicodeError):
            return None

    def has(self, group: str) -> bool:
        """Whether there is such a group."""
        try:
            return bool(grp.getgrnam(group))
        except (KeyError, ValueError, UnicodeError):
            return False

    def members(self, group: str) -> set[int]:
        """The uids of a group; none of one that this host does not know."""
        try:
            found = grp.getgrnam(group)
        except (KeyError, ValueError, UnicodeError):
            return set()
        uids = {uid for name in found.gr_mem if (uid := self.uid(name)) is not None}
        return uids | self._primary.get(found.gr_gid, set())
