"""The configuration files of MCP clients: where servers stand in them, and how an entry is replaced and put back.

Pure: text in, splices out. Known are `mcpServers` (Claude Desktop, Claude Code with its table of projects, Cursor,
others) and VS Code's `servers`. What is not a server that the client starts itself is never touched.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from os.path import basename, dirname
from typing import NamedTuple

from supervisor.registry import jsonc
from supervisor.registry.jsonc import Array, Member, Object, Splice, Text

# Claude's programs read plain JSON; editors read comments and last commas too
STRICT = ("claude_desktop_config.json", ".mcp.json", ".claude.json")
REMOTE = ("url", "serverUrl", "httpUrl")
_OURS = ("run", "serve")
Path = tuple[str, ...]


class Table(NamedTuple):
    """An object whose members are servers; `project` is the folder that it is for, or empty."""

    path: Path
    node: Object
    project: str


@dataclass(frozen=True)
class Entry:
    """A server that the client starts: what it would execute, with which variables, from which folder.

    `off`: its user has switched it off there. `problem`: why nobody could start it as it is written.
    """

    table: Table
    name: str
    node: Object
    command: tuple[str, ...]
    env: dict[str, str]
    cwd: str
    off: bool
    problem: str

    @property
    def path(self) -> Path:
        """Where it stands."""
        return (*self.table.path, self.name)

    @property
    def ours(self) -> bool:
        """Whether it starts this program already."""
        words = [basename(self.command[0]), *self.command[1:]]
        if words[0].startswith("python") and "-m" in words[:3]:
            words = words[words.index("-m") + 1 :]
        return len(words) > 1 and words[0] == "supervisor" and words[1] in _OURS


def loose(path: str) -> bool:
    """Whether the program that reads this file takes comments in it."""
    return basename(path) not in STRICT


def project(path: str, home: str) -> str:
    """The folder that a client's file is for, as clients find it; empty for a file of the user's."""
    folder = dirname(path)
    if basename(folder) in (".vscode", ".cursor"):
        folder = dirname(folder)
    elif basename(path) != ".mcp.json":
        return ""
    return "" if folder == home else folder


def tables(root: jsonc.Node, own: str) -> list[Table]:
    """Every table of servers in a file; `own` is the folder that the whole file is for."""
    found = [_table(root, ("mcpServers",), own), _table(root, ("mcp", "servers"), own)]
    found.append(_table(root, ("mcp.servers",), own))
    if found[0] is None:
        found.append(_table(root, ("servers",), own))
    projects = jsonc.find(root, ("projects",))
    for each in projects.members if isinstance(projects, Object) else ():
        found.append(_table(root, ("projects", each.key, "mcpServers"), each.key))
    return [each for each in found if each]


def _table(root: jsonc.Node, path: Path, own: str) -> Table | None:
    node = jsonc.find(root, path)
    return Table(path, node, own) if isinstance(node, Object) else None


def entries(table: Table) -> Iterator[Entry]:
    """The servers of a table that the client starts itself."""
    for each in table.node.members:
        table.node.member(each.key)
        node = each.value
        if isinstance(node, Object) and not any(node.get(key) for key in REMOTE):
            command, kind = node.get("command"), node.get("type")
            if isinstance(command, Text) and command.value and (kind is None or kind.plain() == "stdio"):
                yield _entry(table, each.key, node, command.value)


def _entry(table: Table, name: str, node: Object, command: str) -> Entry:
    args, env, cwd = node.get("args"), node.get("env"), node.get("cwd")
    words = [each.plain() for each in args.items] if isinstance(args, Array) else []
    variables = {each.key: each.value.plain() for each in env.members} if isinstance(env, Object) else {}
    problem = ""
    if args is not None and not isinstance(args, Array):
        problem = '"args" is no list'
    elif env is not None and not isinstance(env, Object):
        problem = '"env" is no table'
    elif not all(isinstance(each, str | tuple) for each in (*words, *variables.values())):
        problem = "an argument or a variable is no text"
    elif not all(encodable(each) for each in (*table.path, name)):
        problem = "its name cannot be written as UTF-8"
    elif node.get("envFile"):
        problem = 'its variables come from a file ("envFile"): write those it needs into "env"'
    return Entry(
        table,
        name,
        node,
        (command, *map(_text, words)),
        {key: _text(value) for key, value in variables.items()},
        cwd.value if isinstance(cwd, Text) else "",
        _true(node.get("disabled")),
        problem,
    )


def encodable(text: str) -> bool:
    """Whether a text can be written as UTF-8: JSON can spell one that cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _true(node: jsonc.Node | None) -> bool:
    return node is not None and node.plain() == ("true",)


def _text(value: jsonc.Plain) -> str:
    """A text, or a number or a word as it is written."""
    return value[0] if isinstance(value, tuple) else value if isinstance(value, str) else ""


def spelled(value: object) -> str:
    """A value as JSON text."""
    return json.dumps(value, ensure_ascii=False)


def replace(entry: Entry, command: list[str]) -> list[Splice]:
    """The splices that make an entry start `command`, with no variables of its own."""
    first, args, env = entry.node.get("command"), entry.node.get("args"), entry.node.get("env")
    if first is None:
        raise ValueError("an entry has a command")
    words = spelled(command[1:])
    found = [(first.start, first.end, spelled(command[0]))]
    if args is None:
        found.append((first.end, first.end, f', "args": {words}'))
    else:
        found.append((args.start, args.end, words))
    if isinstance(env, Object) and env.members:
        found.append((env.start, env.end, "{}"))
    return found


def gather(node: Object, names: set[str], text: str, member: str) -> list[Splice]:
    """The splices that put `member` (key and value) in the place of the first of `names`, and take out the rest.

    Without a `member` all of them are taken out.
    """
    gone = [each for each in node.members if each.key in names]
    if not gone:
        return []
    found = [(gone[0].start, gone[0].value.end, member)] if member else []
    removed = gone[1:] if member else gone
    found += [cut(text, each) for each in removed]
    kept, last = [each for each in node.members if each not in removed], node.members[-1]
    if kept and removed and last is removed[-1] and last.comma < 0:
        # no comma may stay in front of the end
        comma = kept[-1].comma
        if text[comma + 1 : last.start].strip(" \t"):
            found.append((comma, comma + 1, ""))
        else:
            found[-1] = (comma, last.value.end, "")
    return found


def cut(text: str, member: Member) -> Splice:
    """The splice that takes a member and its comma out, and its lines if nothing else stands on them."""
    start, end = member.start, max(member.value.end, member.comma + 1)
    line = text.rfind("\n", 0, start) + 1
    after = end
    while text[after : after + 1] in (" ", "\t", "\r"):
        after += 1
    if not text[line:start].strip(" \t") and text[after : after + 1] == "\n":
        return line, after + 1, ""
    return start, end, ""


def insert(node: Object, text: str, members: list[str]) -> list[Splice]:
    """The splices that put members (key and value) behind those of an object."""
    if not members:
        return []
    if not node.members:
        return [(node.start + 1, node.start + 1, ", ".join(members))]
    last = node.members[-1]
    line = text.rfind("\n", 0, last.start) + 1
    before = text[line : last.start]
    newline = "\r\n" if "\r\n" in text else "\n"
    gap = newline + before if line and not before.strip(" \t") else " "
    if last.comma >= 0:
        return [(last.comma + 1, last.comma + 1, "".join(f"{gap}{each}," for each in members))]
    return [(last.value.end, last.value.end, "".join(f",{gap}{each}" for each in members))]
