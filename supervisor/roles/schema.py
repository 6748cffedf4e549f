"""What policies can be about: the entities, the actions, and what is known when each is decided (Cedar's schema).

Runs in the planner, in the command line and in the gateway; pure. The arguments that a policy names are part of the
schema as they are named: optional, and of the type of the record in which they are looked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

# a record of the context: the type of what is in it
RECORDS = {"text": "String", "numbers": "Long", "flags": "Bool"}
STATIC = ("profile", "readOnly", "destructive", "idempotent", "openWorld")
ITEMS = {"tools": "Tool", "prompts": "Prompt", "resources": "Resource", "templates": "Resource"}
# what `grant` gives: everything that is done with a server's items
USE = ("list", "call", "read")
ACTIONS = (*USE, "open", "approve")

_SCHEMA = """
entity Group;
entity User in [Group] { uid?: Long };
entity Server { name: String };
entity Tool, Prompt, Resource in [Server] { name: String };
action use;
action list in [use] appliesTo { principal: [User], resource: [Tool, Prompt, Resource], context: { %(known)s } };
action call in [use] appliesTo { principal: [User], resource: [Tool, Prompt], context: { %(known)s, %(asked)s } };
action read in [use] appliesTo { principal: [User], resource: [Resource], context: { %(known)s, %(asked)s } };
action open, approve appliesTo { principal: [User], resource: [Server], context: { profile: String } };
"""
_TIME = "time: { hour: Long, minute: Long, weekday: Long, unix: Long }"


def text(arguments: Iterable[tuple[str, str]]) -> str:
    """The schema with these arguments, each (record, name)."""
    records: dict[str, list[str]] = {name: [] for name in RECORDS}
    for record, name in sorted(arguments):
        records[record].append(f"{json.dumps(name, ensure_ascii=False)}?: {RECORDS[record]}")
    asked = ", ".join([*(f"{name}: {{ {', '.join(each)} }}" for name, each in records.items()), _TIME])
    known = ", ".join(["profile: String", *(f"{name}: Bool" for name in STATIC[1:])])
    return _SCHEMA % {"known": known, "asked": asked}
