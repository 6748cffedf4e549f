"""Cedar's text in single policies, each with its line, and what each is about.

Runs in the planner, in the command line and in the gateway. Cedar's own messages name no line: every policy is
parsed by itself. What a policy is about is read from its scope and its conditions as the engine has parsed them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

import cedarpy

from supervisor.errors import ConfigError
from supervisor.roles import schema

_PIECE = re.compile(r'"(?:[^"\\]|\\.)*"|//[^\n]*|;|[^"/;]+|.', re.DOTALL)
Entity = tuple[str, str]


class Statement(NamedTuple):
    """One policy: `file:line`, its @id or "", its text."""

    origin: str
    label: str
    text: str

    @property
    def name(self) -> str:
        """As a message names it."""
        return f'{self.origin}: policy "{self.label}"' if self.label else f"{self.origin}: this policy"


class Facts(NamedTuple):
    """What a policy may be about, every entity that it names, and what of a request it looks at.

    `resource`: the one of its scope, if any. `dynamic`: it looks at arguments or at the time.
    """

    statement: Statement
    document: dict[str, object]
    actions: frozenset[str]
    resource: Entity | None
    entities: frozenset[Entity]
    arguments: frozenset[tuple[str, str]]
    dynamic: bool

    def concerns(self, server: str) -> bool:
        """Whether it can be about that server or something of it."""
        return self.resource is None or server_of(self.resource) == server

    def covers(self, action: str, entity: Entity) -> bool:
        """Whether its scope has room for that action on that item."""
        wanted = (None, entity, ("Server", server_of(entity)))
        return action in self.actions and self.resource in wanted


def server_of(entity: Entity) -> str:
    """The server of an item."""
    return entity[1].partition("/")[0]


def split(text: str, path: str) -> list[Facts]:
    """Every policy of a file; ConfigError with file and line."""
    return [facts(Statement(f"{path}:{line}", "", each)) for line, each in _split(text)]


def _split(text: str) -> Iterator[tuple[int, str]]:
    line, first, parts = 1, 0, ""
    for piece in _PIECE.findall(text):
        if not piece.startswith("//"):
            if not parts.strip() and piece.strip():
                first = line + piece[: len(piece) - len(piece.lstrip())].count("\n")
                parts = ""
            parts += piece
        line += piece.count("\n")
        if piece == ";":
            yield first, parts.strip()
            parts = ""
    if parts.strip():
        yield first, parts.strip()


def facts(statement: Statement) -> Facts:
    """Parse one policy."""
    where = statement.origin
    try:
        parsed = json.loads(cedarpy.policies_to_json_str(statement.text))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: not a Cedar policy: {error}") from None
    if parsed["templates"] or len(parsed["staticPolicies"]) != 1:
        raise ConfigError(
            f"{where}: not one policy that says who may do what to what (templates are not linked here)"
        )
    (document,) = parsed["staticPolicies"].values()
    label = (document.get("annotations") or {}).get("id") or statement.label
    walk = _Walk(where)
    walk.conditions(document["conditions"])
    scopes = [_scope(document[part]) for part in ("principal", "action", "resource")]
    walk.entities.update(each for found in scopes for each in found)
    return Facts(
        Statement(where, str(label), statement.text),
        document,
        _actions(document["action"], {name for _, name in scopes[1]}),
        next(iter(scopes[2]), None),
        frozenset(walk.entities),
        frozenset(walk.arguments),
        walk.dynamic,
    )


def _actions(scope: dict[str, object], named: set[str]) -> frozenset[str]:
    found = set(schema.ACTIONS) if scope["op"] == "All" else named
    if "use" in found:
        found = found | set(schema.USE)
    return frozenset(found - {"use"})


def _scope(scope: dict[str, object]) -> list[Entity]:
    """The entities that stand in one part of a scope."""
    inner = scope.get("in")
    listed = [scope.get("entity"), inner.get("entity") if isinstance(inner, dict) else None]
    several = scope.get("entities")
    listed += several if isinstance(several, list) else []
    return [(str(each["type"]), str(each["id"])) for each in listed if isinstance(each, dict)]


class _Walk:
    """Over the conditions of one policy."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.entities: set[Entity] = set()
        self.arguments: set[tuple[str, str]] = set()
        self.dynamic = False

    def conditions(self, written: object) -> None:
        """Every node, without recursion."""
        todo = [written]
        while todo:
            node = todo.pop()
            if isinstance(node, list):
                todo += node
            elif isinstance(node, dict):
                todo += self._within(node)

    def _within(self, node: dict[str, object]) -> list[object]:
        if node == {"Var": "context"}:
            raise ConfigError(f"{self.where}: context is looked at as context.NAME, never as a whole")
        named = node.get("__entity")
        if isinstance(named, dict):
            self.entities.add((str(named["type"]), str(named["id"])))
            return []
        for operator in (".", "has"):
            inner = node.get(operator)
            if isinstance(inner, dict) and self._taken(inner, operator):
                return []
        return list(node.values())

    def _taken(self, inner: dict[str, object], operator: str) -> bool:
        """Whether it was context.X or context.RECORD.NAME."""
        left, name = inner["left"], str(inner["attr"])
        if left == {"Var": "context"}:
            if name in schema.RECORDS and operator == ".":
                raise ConfigError(
                    f"{self.where}: context.{name} is looked at as context.{name}.NAME, never as a whole"
                )
            self.dynamic |= name not in schema.STATIC
            return True
        outer = left.get(".") if isinstance(left, dict) else None
        if isinstance(outer, dict) and outer["left"] == {"Var": "context"} and outer["attr"] in schema.RECORDS:
            self.arguments.add((str(outer["attr"]), name))
            self.dynamic = True
            return True
        return False
