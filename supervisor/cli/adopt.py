"""`adopt`: the servers of a client's configuration, put behind this program.

Runs as the owner of the file. Everything is worked out and shown before anything is written: then a backup, the
registry, the record and, last and in one step, the client's file.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import sys
from dataclasses import dataclass, field

from supervisor import given
from supervisor.cli import client_file, entry, files, host, servers
from supervisor.cli.client_file import File
from supervisor.errors import FAILED, ConfigError, SupervisorError, Unenforceable
from supervisor.profile import toml
from supervisor.registry import adopted, catalog, clients, jsonc, propose, written
from supervisor.registry.adopted import Place, Record
from supervisor.registry.clients import Entry, Table
from supervisor.registry.installed import Machine
from supervisor.shown import printable

SERVE = "supervisor"


@dataclass
class Row:
    """One server of the file, and what becomes of it. `reason`: why nothing does."""

    entry: Entry
    name: str = ""
    fields: written.Fields = field(default_factory=dict)
    why: tuple[str, ...] = ()
    reason: str = ""

    @property
    def taken(self) -> bool:
        """Whether it is to be replaced."""
        return not self.reason and not self.entry.ours

    @property
    def state(self) -> str:
        """In a word."""
        return "adopted already" if self.entry.ours else "not adopted" if self.reason else "adopted"


class Registry:
    """The registry as it is, and as it is to be."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.before, self.text = servers.text_of(path)
        self.known = written.servers(self.text)
        for each in catalog.files(path)[1:]:
            self.known |= written.servers(toml.read(each).text)
        self.added: dict[str, written.Fields] = {}

    def add(self, key: str, fields: written.Fields, comment: str) -> str:
        """The name of a server with these words: one that is there, or a new one that can be planned."""
        name = propose.name_for(key, lambda each: each in self.known and self.known[each] != fields)
        if name not in self.known:
            text = servers.with_tables(self.path, self.text, {name: fields}, comment=comment)
            servers.try_out(self.path, text, name)
            self.text = text
            self.known[name] = self.added[name] = fields
        return name


def adopt(options: argparse.Namespace, _command: list[str]) -> int:
    """Adopt one file; 1 when a server that the client starts stays as it is."""
    file = client_file.load(options.file)
    if not client_file.tables(file, entry.home()):
        raise ConfigError(f'{file.path}: no table of servers is in it ("mcpServers", or VS Code\'s "servers")')
    registry = Registry(entry.catalog(options))
    rows = _rows(options, file, registry)
    text, places = _edited(options, file, rows)
    backup = ""
    if not options.json:
        _show(file, rows)
    if places and not options.dry_run:
        if not options.yes:
            _confirm(len([row for row in rows if row.taken]), file.path)
        backup = _write(file, text, rows, places, registry)
    if options.json:
        print(json.dumps(_document(file, registry, rows, backup), indent=2))
    elif backup:
        names = ", ".join(registry.added) or "nothing new"
        config = f" --config {shlex.quote(registry.path)}" if options.config else ""
        print(f"registered in {registry.path}: {names} (supervisor pin{config} NAME reviews what a server lists)")
        print(f"a backup is {backup}; supervisor release {shlex.quote(file.path)} undoes it")
        print("restart the client, or have it reload its servers")
    return FAILED if any(row.reason for row in rows) else 0


def _rows(options: argparse.Namespace, file: File, registry: Registry) -> list[Row]:
    home = entry.home()
    machine = Machine(home, home, os.environ)
    missing = [name for each in options.accept_missing for name in each.split(",")]
    comment = f"adopted from {printable(file.path)}"
    rows = []
    for each in client_file.entries(file, home):
        row = Row(each, reason="" if each.ours else each.problem)
        rows.append(row)
        if row.taken:
            try:
                _suggest(row, machine, missing)
                if each.off and _gathered(options, each.table):
                    row.fields["enabled"] = False
                    row.why += ("it is switched off in the client: enabled = true switches it on",)
                row.name = registry.add(each.name, row.fields, comment)
            except Unenforceable:
                # of this host, and so of every server
                raise
            except SupervisorError as error:
                row.reason = str(error)
    return rows


def _suggest(row: Row, machine: Machine, missing: list[str]) -> None:
    each = row.entry
    made = propose.propose(each.command, each.env, project=each.table.project, cwd=each.cwd, machine=machine)
    row.fields = made.fields | ({"accept_missing": missing} if missing else {})
    row.why = made.why


def _edited(options: argparse.Namespace, file: File, rows: list[Row]) -> tuple[str, list[Place]]:
    """The file's text with every row that is taken replaced, and its places."""
    own, config = client_file.own_command(), _config(options)
    for each in (*own, *config):
        if not clients.encodable(each):
            raise ConfigError(f"{each!r} is not UTF-8, and no client's file can name it")
    places: list[Place] = []
    splices: list[jsonc.Splice] = []
    for table in client_file.tables(file, entry.home()):
        taken = [row for row in rows if row.taken and row.entry.table.path == table.path]
        if taken and _gathered(options, table):
            names = {row.entry.name for row in taken}
            found = clients.gather(table.node, names, file.text, _serve(table, [*own, "serve", *config]))
            places.append(_place(file, table.path, table.node, found, taken, gateway=True))
            splices += found
            continue
        for row in taken:
            found = clients.replace(row.entry, [*own, "run", *config, row.name])
            places.append(_place(file, row.entry.path, row.entry.node, found, [row], gateway=False))
            splices += found
    return jsonc.splice(file.text, splices), places


def _gathered(options: argparse.Namespace, table: Table) -> bool:
    # what serves all servers would serve those of one project everywhere
    return bool(options.gateway) and table.path[0] != "projects"


def _place(
    file: File, path: clients.Path, node: jsonc.Node, found: list[jsonc.Splice], rows: list[Row], *, gateway: bool
) -> Place:
    was = file.text[node.start : node.end]
    inside = [(start - node.start, end - node.start, text) for start, end, text in found]
    keys = tuple(row.entry.name for row in rows)
    return Place(path=path, was=was, now=jsonc.splice(was, inside), servers=keys, gateway=gateway)


def _serve(table: Table, words: list[str]) -> str:
    """The member that stands for all servers of a table; empty if there is one already."""
    if any(each.ours and "serve" in each.command for each in clients.entries(table)):
        return ""
    there = {each.key for each in table.node.members}
    key = next(each for each in (SERVE, *(f"{SERVE}-{number}" for number in range(2, 999))) if each not in there)
    kind = {"type": "stdio"} if table.path[-1].endswith("servers") and "mcpServers" not in table.path else {}
    value = kind | {"command": words[0], "args": words[1:]}
    return f"{clients.spelled(key)}: {clients.spelled(value)}"


def _config(options: argparse.Namespace) -> list[str]:
    """The option that makes `run` take this registry, where it would take another."""
    path = entry.catalog(options)
    if options.config is None:
        if not os.path.exists(f"{entry.runtime_folder(options)}/proxy.sock"):
            return []
        with contextlib.suppress(SupervisorError):
            if host.inspect(options)[1].get("config") == path:
                return []
    return ["--config", path]


def _confirm(count: int, path: str) -> None:
    if not sys.stdin.isatty():
        raise ConfigError("read what is listed above, and run this again with --yes to do it")
    if input(f"put {count} of them behind supervisor, in {path}? [y/N] ").strip().lower() not in ("y", "yes"):
        raise SupervisorError("nothing was written")


def _write(file: File, text: str, rows: list[Row], places: list[Place], registry: Registry) -> str:
    """Backup, registry, record, file; what fails undoes what came before it. Returns where the backup is."""
    with files.locked(os.path.dirname(registry.path)), contextlib.ExitStack() as undo:
        path = adopted.record_path(registry.path, file.path)
        old = adopted.read(path)
        backup = old.backup if old and os.path.exists(old.backup) else ""
        if not backup:
            backup, made = client_file.back_up(file)
            if made:
                undo.callback(os.unlink, backup)
        if registry.added:
            _put(undo, os.path.realpath(registry.path), registry.text.encode(), registry.before)
        record = Record(
            file=file.path,
            backup=backup,
            places=(*(old.places if old else ()), *places),
            servers=_registered(file, rows, registry, old),
        )
        if not os.path.isdir(os.path.dirname(path)):
            os.mkdir(os.path.dirname(path), 0o700)
            undo.callback(os.rmdir, os.path.dirname(path))
        before = given.read(path, adopted.LIMIT) if old else None
        _put(undo, path, record.model_dump_json(indent=1).encode(), before)
        files.replace(file.path, file.encoded(text), before=file.data)
        undo.pop_all()
    return backup


def _put(undo: contextlib.ExitStack, path: str, data: bytes, before: bytes | None) -> None:
    files.replace(path, data, before=before)
    if before is None:
        undo.callback(os.unlink, path)
    else:
        undo.callback(files.replace, path, before, before=data)


def _registered(file: File, rows: list[Row], registry: Registry, old: Record | None) -> dict[str, written.Fields]:
    """The servers of this file that adopt made, for it or for another file: release forgets no others."""
    made = set(registry.added)
    for each in adopted.others(registry.path, file.path):
        made |= set(each.servers)
    return (old.servers if old else {}) | {row.name: row.fields for row in rows if row.taken and row.name in made}


def _show(file: File, rows: list[Row]) -> None:
    """A paragraph a server: what the client would start, what becomes of it, and why."""
    print(file.path if rows else f"{file.path}: no server in it is started by its client")
    for row in rows:
        where = f" (of {row.entry.table.project})" if row.entry.table.project else ""
        named = f" as {row.name}" if row.name not in ("", row.entry.name) else ""
        print(f"\n  {printable(row.entry.name)}{printable(where)}: {row.state}{named}")
        print(f"    {printable(shlex.join(row.entry.command))}")
        if row.reason:
            print(f"    {_lines(row.reason)}")
        for line in servers.told(row.fields, row.why) if row.taken else []:
            print(f"    {printable(line)}")
    print(flush=True)


def _lines(text: str) -> str:
    return "\n    ".join(printable(each) for each in text.split("\n"))


def _document(file: File, registry: Registry, rows: list[Row], backup: str) -> dict[str, object]:
    listed = []
    for row in rows:
        shown = {key: value for key, value in row.fields.items() if key != "env"}
        listed.append(
            {"path": row.entry.path, "state": row.state, "name": row.name, "reason": row.reason, "why": row.why}
            | {"entry": shown, "env": sorted(row.entry.env)}
        )
    return {"file": file.path, "registry": registry.path, "backup": backup, "servers": listed}
