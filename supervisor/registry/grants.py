"""`grant = ["@engineering", "alice"]` of a server and of its tools, and `users`, as Cedar policies.

Runs in the planner and in the command line. Pure. A tool that has a grant of its own is for those alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

# (file:line, label, text)
Compiled = tuple[str, str, str]
_ANYTHING = 'action in [Action::"use", Action::"open"]'


def compiled(
    server: str,
    grant: Sequence[str],
    tools: Mapping[str, Sequence[str]],
    users: Sequence[str],
    at: Mapping[str, str],
) -> list[Compiled]:
    """The policies of one server; `at` is where "grant", "users" and each tool's grant stand."""
    found = []
    here = f'Server::"{server}"'
    if grant:
        own = ", ".join(_tool(server, each) for each in tools)
        besides = f" unless {{ resource in [{own}] }}" if own else ""
        found.append((at["grant"], "", _permit(_ANYTHING, f"resource in {here}", grant) + besides + ";"))
    for tool, names in tools.items():
        item = f"resource == {_tool(server, tool)}"
        found.append((at[f"tools.{tool}"], "", _permit('action in Action::"use"', item, names) + ";"))
        opening = _permit('action == Action::"open"', f"resource == {here}", names)
        found.append((at[f"tools.{tool}"], "", opening + ";"))
    if users:
        opening = _permit('action == Action::"open"', f"resource == {here}", users)
        found.append((at["users"], "", opening + ";"))
    return found


def _tool(server: str, name: str) -> str:
    return f"Tool::{json.dumps(f'{server}/{name}', ensure_ascii=False)}"


def _permit(action: str, resource: str, names: Sequence[str]) -> str:
    # a set holds entities of one type
    who = " || ".join(
        f'principal in Group::"{each[1:]}"' if each.startswith("@") else f'principal == User::"{each}"'
        for each in names
    )
    return f"permit(principal, {action}, {resource}) when {{ {who} }}"
