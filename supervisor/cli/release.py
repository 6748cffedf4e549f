"""`release`: what `adopt` replaced in a client's configuration, put back byte for byte.

Runs as the owner of the file. That file comes first and the record last: what was interrupted can be repeated.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os

from supervisor import given
from supervisor.cli import client_file, entry, files, servers
from supervisor.cli.client_file import File
from supervisor.errors import ConfigError, SupervisorError
from supervisor.profile import toml
from supervisor.registry import adopted, catalog, written
from supervisor.registry.adopted import Record
from supervisor.shown import printable


def release(options: argparse.Namespace, _command: list[str]) -> int:
    """Release one file."""
    file = client_file.load(options.file)
    registry = _registry(options, file)
    path = adopted.record_path(registry, file.path)
    record = adopted.read(path)
    if record is None:
        there = f"; a copy of it is {file.path}{client_file.BACKUP}"
        there = there if os.path.exists(file.path + client_file.BACKUP) else ""
        raise ConfigError(f"{file.path}: nothing of it is adopted in {os.path.dirname(registry)}{there}")
    with client_file.told(file.path, file.text):
        text, said = _put_back(file, record)
    with files.locked(os.path.dirname(registry)):
        data = file.encoded(text)
        if data != file.data:
            files.replace(file.path, data, before=file.data)
        said += _unregister(registry, record)
        said += _tidy(path, record, data)
    if options.json:
        print(json.dumps({"file": file.path, "registry": registry, "said": said}, indent=2))
    else:
        print(f"{file.path} is released")
        print("".join(f"  {printable(each)}\n" for each in said), end="")
    return 0


def _registry(options: argparse.Namespace, file: File) -> str:
    """The option, or the registry that the file's own entries name, or this user's."""
    if options.config is None:
        for each in client_file.entries(file, entry.home()):
            if each.ours and "--config" in each.command[:-1]:
                return each.command[each.command.index("--config") + 1]
    return entry.catalog(options)


def _put_back(file: File, record: Record) -> tuple[str, list[str]]:
    text, said = file.text, []
    for place in reversed(record.places):
        text, problem = adopted.put_back(text, place, loose=file.loose)
        if problem:
            said.append(f"{' > '.join(place.path)} {problem}")
    return text, said


def _unregister(registry: str, record: Record) -> list[str]:
    """Forget the servers that adopt made, unless another file uses them or somebody has edited them."""
    said = []
    known: written.Fields = {}
    for each in catalog.files(registry) if os.path.exists(registry) else []:
        known |= written.servers(toml.read(each).text)
    others = {name: each.file for each in adopted.others(registry, record.file) for name in each.servers}
    for name, fields in record.servers.items():
        if name in others:
            said.append(f"{name} stays registered: {others[name]} uses it")
        elif name in known and known[name] != fields:
            said.append(f"{name} stays registered, since it was edited: supervisor remove {name}")
        elif name in known:
            servers.unregister(registry, name)
            said.append(f"{name} is no longer registered")
    return said


def _tidy(path: str, record: Record, data: bytes) -> list[str]:
    """The record goes, and a backup that is the file again."""
    os.unlink(path)
    with contextlib.suppress(OSError):
        os.rmdir(os.path.dirname(path))
    try:
        same = given.read(record.backup, client_file.LIMIT) == data
    except SupervisorError:
        return []
    if same:
        os.unlink(record.backup)
        return []
    return [f"it was edited since it was adopted; what it was then is {record.backup}"]
