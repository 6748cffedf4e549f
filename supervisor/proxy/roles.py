"""What a principal may do with one server's items, where policies say so.

Runs unprivileged, in the gateway. The policies were parsed when the server was loaded, and no file is needed for a
decision. What does not hang on arguments or on the time is decided when a client's tables are made.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from supervisor.proxy.manifests import Manifest
from supervisor.proxy.principal import Principal
from supervisor.roles import arguments, bundle
from supervisor.roles.arguments import Item
from supervisor.roles.judge import Judge
from supervisor.roles.verdict import Verdict

Check = Callable[[bytes], Verdict]


class Roles:
    """Of one server: its policies, and what its manifest says of each item."""

    def __init__(self, text: str, manifest: Manifest) -> None:
        self.judge = Judge(bundle.decode(text))
        self._manifest = manifest
        self._items: dict[tuple[str, str], Item] = {}

    def shows(self, principal: Principal, kind: str, name: str) -> bool:
        """Whether a list shows it, if it may be used."""
        judge = self.judge
        return judge.known(judge.who(*principal), "list", self.item(kind, name)).outcome == "allow"

    def verdict(self, principal: Principal, kind: str, name: str) -> tuple[Verdict, Check | None]:
        """Whether it may be used, or could be; in that case, with what decides about a call and its arguments."""
        judge, item = self.judge, self.item(kind, name)
        action = "call" if kind in ("tools", "prompts") else "read"
        who = judge.who(*principal)
        found = judge.known(who, action, item)
        if found.outcome != "allow" or not judge.dynamic(action):
            return found, None
        return found, lambda raw: judge.asked(who, action, item, raw)

    def opens(self, principal: Principal) -> Verdict:
        """Whether the server may be asked what only it knows."""
        return self.judge.server_wide(self.judge.who(*principal), "open")

    def item(self, kind: str, name: str) -> Item:
        """What is declared of it; of what both eras have, by both."""
        found = self._items.get((kind, name))
        if found is None:
            listed = [each.items(kind).get(name) for each in self._manifest.eras.values()]
            found = _stricter([arguments.item(kind, name, json.loads(bytes(each))) for each in listed if each])
            found = self._items[kind, name] = found or arguments.item(kind, name, None)
        return found


def _stricter(items: list[Item]) -> Item | None:
    """The word of every era where they say the same; where they do not, the one that is trusted less."""
    if not items:
        return None
    first = items[0]
    for each in items[1:]:
        declared = {
            name: kind if first.declared.get(name, kind) == kind else ("", False)
            for name, kind in (first.declared | each.declared).items()
        }
        trusted = {"readOnly", "idempotent"}
        hints = {
            hint: (value and each.hints[hint]) if hint in trusted else (value or each.hints[hint])
            for hint, value in first.hints.items()
        }
        first = first._replace(declared=declared, hints=hints)
    return first
