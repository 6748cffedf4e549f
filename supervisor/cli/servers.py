"""`add`, `remove`, `list`, `start`, `stop`, `kill`: the registry, as its owner edits and steers it."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
from collections.abc import Iterator

import tomlkit
from tomlkit.exceptions import TOMLKitError

from supervisor.cli import entry, host
from supervisor.errors import ConfigError, SupervisorError
from supervisor.monitor import planning

_FIRST = """# Servers that `supervisor serve`, `run NAME` and the daemon offer. See `supervisor add --help`.
"""


@contextlib.contextmanager
def edited(path: str) -> Iterator[tomlkit.TOMLDocument]:
    """The registry file, to be changed; nothing is written unless the whole of it can be planned.

    Two who edit at once take turns. The new file takes the old one's place in one step, with its mode and owner.
    """
    folder = os.path.dirname(path)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            with open(path, encoding="utf-8") as file:
                before, info = file.read(), os.fstat(file.fileno())
        except FileNotFoundError:
            before, info = _FIRST, None
        try:
            document = tomlkit.parse(before)
        except (TOMLKitError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: {error}") from None
        yield document
        _replace(path, tomlkit.dumps(document), info)
    finally:
        os.close(lock)


def _replace(path: str, text: str, info: os.stat_result | None) -> None:
    new = f"{path}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new)
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            if info is not None:
                os.fchmod(fd, info.st_mode & 0o777)
                if os.geteuid() == 0:
                    os.fchown(fd, info.st_uid, info.st_gid)
            os.fsync(fd)
        try:
            planning.ask({"catalog": new})
        except SupervisorError as error:
            raise planning.Unplanned(str(error).replace(new, path), error.exit_status) from None
        os.replace(new, path)
    except BaseException:
        os.unlink(new)
        raise


def _table(options: argparse.Namespace, command: list[str]) -> dict[str, object]:
    """The registry's words for the options of a command line; relative paths are meant from here."""
    here = os.getcwd()
    built = entry.build(options, command)
    words: dict[str, object] = {"profile": built["profile"]}
    if command:
        program = command[0]
        words["command"] = [os.path.join(here, program) if "/" in program else program, *command[1:]]
    if options.summary:
        words["summary"] = options.summary
    for key in ("params", "env"):
        if built[key]:
            words[key] = built[key]
    for key in ("ro", "rw"):
        listed = built[key]
        if isinstance(listed, list) and listed:
            words[key] = [os.path.join(here, each) for each in listed]
    for key in ("allow", "accept_missing"):
        if built[key]:
            words[key] = built[key]
    if options.user:
        words["users"] = options.user
    return words


def add(options: argparse.Namespace, command: list[str]) -> int:
    """Register a server."""
    path = entry.catalog(options)
    register(path, {options.name: _table(options, command)})
    if options.json:
        print(json.dumps({"name": options.name, "file": path}))
    else:
        print(f"{options.name} is registered in {path}; next, review what it lists: supervisor pin {options.name}")
    return 0


def register(path: str, tables: dict[str, dict[str, object]]) -> None:
    """Write servers into a registry, all or none."""
    with edited(path) as document:
        servers = document.setdefault("server", tomlkit.table(is_super_table=True))
        for name, words in tables.items():
            if name in servers:
                raise ConfigError(f'{path}: server "{name}" is registered already; supervisor remove {name}')
            table = tomlkit.table()
            for key, value in words.items():
                inline = tomlkit.inline_table()
                table[key] = value
                if isinstance(value, dict):
                    inline.update(value)
                    table[key] = inline
            servers[name] = table


def remove(options: argparse.Namespace, _command: list[str]) -> int:
    """Forget a server, and what was pinned of it."""
    path = entry.catalog(options)
    with edited(path) as document:
        servers = document.get("server", {})
        if options.name not in servers:
            listed = ", ".join(servers) or "none"
            raise ConfigError(f'{path}: no server "{options.name}" here; there are: {listed}')
        del servers[options.name]
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(os.path.dirname(path), "pins", f"{options.name}.json"))
    if not options.json:
        print(f"{options.name} is no longer registered")
    return 0


def listing(options: argparse.Namespace, _command: list[str]) -> int:
    """The servers that one may use: the daemon's, or those of one's own registry."""
    folder = entry.runtime_folder(options)
    if options.config is None and (options.runtime_dir or os.path.exists(f"{folder}/proxy.sock")):
        return host.listing(options)
    path = entry.catalog(options)
    if not os.path.exists(path):
        raise ConfigError(f"{path}: there is no registry yet; supervisor add makes one")
    planned = planning.ask({"catalog": path}).servers
    rows = [
        {
            "name": each.entry.name,
            "profile": each.entry.profile,
            "pinned": bool(each.digest),
            "summary": json.loads(each.gateway).get("summary", ""),
        }
        for each in planned
    ]
    if options.json:
        print(json.dumps(rows, indent=2))
    for row in [] if options.json else rows:
        state = "pinned" if row["pinned"] else "not pinned"
        print(f"{row['name']!s:24} {row['profile']!s:16} {state:12} {row['summary']}".rstrip())
    return 0


def steer(options: argparse.Namespace, _command: list[str]) -> int:
    """start, stop, kill: requests to the daemon about one server."""
    host.request(options, {"req": "start" if options.command == "start" else "stop", "server": options.name})
    if options.command == "kill":
        # nothing of it is opened any more: these are all
        for session in host.sessions(options, options.name):
            with contextlib.suppress(ConfigError):  # it has ended meanwhile
                host.request(options, {"req": "kill", "session": session})
    if options.json:
        print(json.dumps({"server": options.name, "done": options.command}))
    else:
        done = {"start": "may be started again", "stop": "is stopping", "kill": "was killed"}[options.command]
        print(f"{options.name} {done}")
    return 0
