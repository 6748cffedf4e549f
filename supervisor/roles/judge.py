"""Who may do what with one server: Cedar's decision, with the policy that made it.

Runs in the gateway (unprivileged; parsed once, before the first call), and in the planner and the command line,
which ask the same questions. Default deny. No decision, an error in one policy, or arguments that cannot be shown
to the engine are a refusal that says so.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import cedarpy

from supervisor.roles import schema, statements
from supervisor.roles.arguments import Item, Scalar, Unfit, project
from supervisor.roles.bundle import Bundle
from supervisor.roles.statements import Entity, Facts, Statement
from supervisor.roles.verdict import Verdict

# decisions that are remembered: of resources a client can name as many as it likes
_KNOWN = 4096
Context = dict[str, object]
Given = dict[str, dict[str, Scalar]]
_EMPTY: Given = {"text": {}, "numbers": {}, "flags": {}}
_MIDNIGHT: dict[str, Scalar] = {"hour": 0, "minute": 0, "weekday": 1, "unix": 0}
_ACTIONS: list[dict[str, object]] = [
    {
        "uid": {"type": "Action", "id": action},
        "attrs": {},
        "parents": [{"type": "Action", "id": "use"}] if action in schema.USE else [],
    }
    for action in schema.ACTIONS
]


class Who(NamedTuple):
    """A principal as the engine knows it: its id, its groups, and its uid if the kernel vouches for one."""

    name: str
    groups: tuple[str, ...]
    uid: int | None = None


class Judge:
    """Of one server. `sources` are the files that its policies stand in, for whoever is refused without one."""

    def __init__(self, bundle: Bundle) -> None:
        self.server = bundle.server
        self.bundle = bundle
        self.facts = [statements.facts(Statement(*each)) for each in bundle.statements]
        self.sources = ", ".join(dict.fromkeys(each.statement.origin.rpartition(":")[0] for each in self.facts))
        self._names = {f"policy{number}": each.statement for number, each in enumerate(self.facts)}
        self._policies = cedarpy.PolicySet.from_str("\n".join(each.statement.text for each in self.facts))
        self._hopeful = cedarpy.PolicySet.from_json_str(json.dumps(self._unconditional()))
        self._dynamic = {action for each in self.facts if each.dynamic for action in each.actions}
        self._cache: dict[tuple[object, ...], Verdict] = {}

    def _unconditional(self) -> dict[str, object]:
        """The policies as if what is not known yet were in the caller's favour."""
        kept = {}
        for number, each in enumerate(self.facts):
            document = each.document
            if each.dynamic:
                if document["effect"] == "forbid":
                    continue
                document = document | {"conditions": []}
            kept[f"policy{number}"] = document
        return {"templates": {}, "staticPolicies": kept, "templateLinks": []}

    def who(self, name: str, groups: tuple[str, ...]) -> Who:
        """A principal of the gateway's: a local user by the name of the account, another by who vouches for it."""
        if name.startswith("uid:"):
            uid = int(name[4:])
            inside = tuple(group for group, members in self.bundle.members.items() if uid in members)
            return Who(self.bundle.accounts.get(uid, name), inside, uid)
        kind = "oidc:" if name.startswith("oidc:") else "token:"
        return Who(kind + name.removeprefix("oidc:"), tuple(kind + each for each in groups))

    def dynamic(self, action: str) -> bool:
        """Whether what is decided about an action can hang on arguments or on the time."""
        return action in self._dynamic

    def known(self, who: Who, action: str, item: Item) -> Verdict:
        """What can be said without arguments and time: where those count, whether it may be allowed at all."""
        key = (who, action, item.kind, item.name)
        found = self._cache.get(key)
        if found is None:
            policies = self._hopeful if action in self._dynamic else self._policies
            found = self._decide(policies, who, action, item, {})
            if len(self._cache) >= _KNOWN:
                self._cache.clear()
            self._cache[key] = found
        return found

    def asked(self, who: Who, action: str, item: Item, raw: bytes, now: Callable[[], float] = time.time) -> Verdict:
        """The decision about one call with its arguments, now."""
        given = self._given(action, item, raw, now)
        if isinstance(given, Verdict):
            return given
        return self._decide(self._policies, who, action, item, given)

    def each(
        self, who: Who, action: str, item: Item, raw: bytes, now: Callable[[], float] = time.time
    ) -> list[tuple[Facts, str]]:
        """Every policy that is about such an action, and what it comes to by itself."""
        given = self._given(action, item, raw, now)
        listed = [found for found in self.facts if found.covers(action, _entity(self.server, item))]
        if isinstance(given, Verdict):
            return [(found, "cannot judge") if found.arguments else (found, "") for found in listed]
        return [(found, self._alone(found, who, action, item, given)) for found in listed]

    def _alone(self, found: Facts, who: Who, action: str, item: Item, given: Given) -> str:
        request, entities = self._request(who, action, item, given)
        result = cedarpy.is_authorized(request, cedarpy.PolicySet.from_str(found.statement.text), entities)
        if result.diagnostics.errors:
            return "fails"
        effect = "permits" if found.document["effect"] == "permit" else "forbids"
        return effect if result.diagnostics.reasons else ""

    def _given(self, action: str, item: Item, raw: bytes, now: Callable[[], float]) -> Given | Verdict:
        """What the policies may look at of one call, or why they cannot."""
        entity = _entity(self.server, item)
        used = {each for found in self.facts if found.covers(action, entity) for each in found.arguments}
        try:
            given = project(raw, item, used)
        except Unfit as error:
            looking = [found for found in self.facts if found.covers(action, entity) and found.arguments]
            return _deny(looking[0].statement, f"{looking[0].statement.name} cannot judge this call: {error}")
        moment = int(now())
        at = time.gmtime(moment)
        clock: dict[str, Scalar] = {
            "hour": at.tm_hour,
            "minute": at.tm_min,
            "weekday": at.tm_wday + 1,
            "unix": moment,
        }
        return given | {"time": clock}

    def server_wide(self, who: Who, action: str) -> Verdict:
        """open and approve."""
        return self.known(who, action, Item("", "", {}, {}))

    def _request(self, who: Who, action: str, item: Item, given: Given) -> tuple[dict[str, object], str]:
        entity = _entity(self.server, item)
        context: Context = {"profile": self.bundle.profile, **item.hints}
        if action in ("call", "read"):
            context |= _EMPTY | {"time": _MIDNIGHT} | given
        request: dict[str, object] = {
            "principal": {"type": "User", "id": who.name},
            "action": {"type": "Action", "id": action},
            "resource": {"type": entity[0], "id": entity[1]},
            "context": json.dumps(context),
        }
        return request, self._entities(who, entity, item)

    def _decide(self, policies: cedarpy.PolicySet, who: Who, action: str, item: Item, given: Given) -> Verdict:
        entity = _entity(self.server, item)
        try:
            request, entities = self._request(who, action, item, given)
            found = cedarpy.is_authorized(request, policies, entities)
        except (ValueError, TypeError) as error:
            return Verdict("deny", "policy", f"{self.sources}: nothing can be decided: {error}", self.sources)
        errors = found.diagnostics.errors
        if found.allowed and not errors:
            by = self._first(found.diagnostics.reasons)
            return Verdict("allow", by.label or "policy", "", by.origin)
        what = f"{action} {_WORDS[entity[0]]} {json.dumps(item.name or self.server)[:200]} of server {self.server}"
        if errors or found.decision is not cedarpy.Decision.Deny:
            said = f"{self.sources}: it cannot be decided whether {who.name} may {what}: {'; '.join(errors)[:500]}"
            return Verdict("deny", "policy", said, self.sources)
        if found.diagnostics.reasons:
            by = self._first(found.diagnostics.reasons)
            return _deny(by, f"{by.name} forbids {who.name} to {what}")
        said = f"{self.sources}: no policy there permits {who.name} to {what}; supervisor policy why shows each"
        return Verdict("deny", "policy", said, self.sources)

    def _first(self, reasons: Iterable[str]) -> Statement:
        return self._names[min(reasons, key=lambda each: int(each.removeprefix("policy")))]

    def _entities(self, who: Who, entity: Entity, item: Item) -> str:
        server: dict[str, object] = {"type": "Server", "id": self.server}
        groups = [{"type": "Group", "id": each} for each in who.groups]
        user: dict[str, object] = {
            "uid": {"type": "User", "id": who.name},
            "attrs": {} if who.uid is None else {"uid": who.uid},
            "parents": groups,
        }
        listed = [*_ACTIONS, user, {"uid": server, "attrs": {"name": self.server}, "parents": []}]
        if entity[0] != "Server":
            uid = {"type": entity[0], "id": entity[1]}
            listed.append({"uid": uid, "attrs": {"name": item.name}, "parents": [server]})
        return json.dumps(listed)


_WORDS = {"Tool": "tool", "Prompt": "prompt", "Resource": "resource", "Server": "server"}


def _entity(server: str, item: Item) -> Entity:
    return (schema.ITEMS[item.kind], f"{server}/{item.name}") if item.kind else ("Server", server)


def _deny(by: Statement, said: str) -> Verdict:
    return Verdict("deny", by.label or "policy", said, by.origin)
