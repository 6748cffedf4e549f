"""`secrets list`, `secrets check`: the secrets of a registry, where they come from and go; never a value.

Runs as whoever types it. For `check` each is read once by the process that reads them for sessions, and what it
made is closed unread.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os

from supervisor import wire
from supervisor.cli import entry, vault
from supervisor.errors import ConfigError, SupervisorError
from supervisor.profile import secrets
from supervisor.profile.entry import ServerEntry
from supervisor.registry import catalog

Row = dict[str, object]


def run(options: argparse.Namespace) -> int:
    """0, or 1 when one of them cannot be read."""
    path = entry.catalog(options)
    check = options.action == "check"
    if check:
        vault.hide(vault.variables(path))
    found = catalog.load_catalog(path)
    servers = [each.entry for group in (found.servers, found.disabled) for each in group.values()]
    chosen = [each for each in servers if options.name in (None, each.name)]
    if not chosen and options.name:
        raise ConfigError(f'{path}: no server "{options.name}" here')
    rows = [_row(each, name) for each in chosen for name in each.secrets]
    if check:
        _check(rows, {each.name: each for each in chosen})
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        _print(rows, check=check)
    return 1 if any(row.get("error") for row in rows) else 0


def _row(server: ServerEntry, name: str) -> Row:
    secret = server.secrets[name]
    told = secrets.one(server, name)
    to = f"header {told['header']} for {told['host']}" if secret.to == "header" else secret.to
    return {
        "server": server.name,
        "name": name,
        "from": secrets.source(secret),
        "to": f"file /run/secrets/{name}" if secret.to == "file" else to,
        "written": secret.origin,
    }


def _check(rows: list[Row], servers: dict[str, ServerEntry]) -> None:
    """Have each read, and write down what went wrong."""
    with contextlib.closing(vault.start()) as reader:
        for number, row in enumerate(rows):
            told = secrets.one(servers[str(row["server"])], str(row["name"]))
            wire.send(reader.socket, {"id": number, "wanted": json.dumps([told])})
            received = wire.hear(reader.socket, max_fds=2)
            if received is None:
                raise SupervisorError("the process that reads secrets ended; its own standard error says why")
            message, fds = received
            for fd in fds:
                os.close(fd)
            row["error"] = message.get("error")


def _print(rows: list[Row], *, check: bool) -> None:
    for row in rows:
        line = f"{row['server']!s:20} {row['name']!s:24} {row['from']!s:40} {row['to']}"
        print(f"{'' if not check else 'FAILED ' if row['error'] else 'ok     '}{line}")
        if row.get("error"):
            print(f"       {row['error']}")
    if not rows:
        print("no server has a secret")
