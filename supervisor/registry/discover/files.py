"""Files in which servers are named: in watched folders, and the configuration of this user's MCP clients.

Runs as whoever types `supervisor discover`. Reads regular files of bounded size, in one folder and not below it;
in a watched folder no link is followed. What changes while it is read is left for the next look.
"""

from __future__ import annotations

import errno
import itertools
import os
import stat
import time
from collections.abc import Iterator

from supervisor.errors import ConfigError, SupervisorError
from supervisor.profile import toml
from supervisor.registry import clients, jsonc, propose
from supervisor.registry.catalog import parsed
from supervisor.registry.discover import labels, packages
from supervisor.registry.discover.proposal import MOST, Found, Proposal, found
from supervisor.registry.installed import Machine

LIMIT = 1 << 20
# a client keeps more than its servers there
CLIENT_LIMIT = 16 << 20
NAMES = 1000
# seconds for a folder: after these no other file of it is begun
SECONDS = 20.0
_KINDS = (".json", ".toml")
_HOME = (
    ".config/Claude/claude_desktop_config.json",
    ".claude.json",
    ".cursor/mcp.json",
    ".config/Code/User/mcp.json",
    ".codeium/windsurf/mcp_config.json",
    ".gemini/settings.json",
)
_PROJECT = (".mcp.json", ".cursor/mcp.json", ".vscode/mcp.json")
# all that a file of a watched folder may say: everything else grants, or is for whoever runs the registry to say
_WORDS = ("profile", "command", "image", "env", "summary")
_PATTERNS = ("tools", "prompts", "resources")


class Changing(SupervisorError):
    """It was written to while it was read."""


def in_folder(path: str, machine: Machine, bound: str = "none") -> Found:
    """The servers of one folder's files; a file that cannot be taken is listed by name."""
    source = f"files {path}"
    try:
        names = sorted(_names(path))
    except OSError as error:
        return Found(source, problem=f"{path}: {error.strerror}")
    problem = f"{path}: more than {NAMES} names; those after them were not looked at" if len(names) > NAMES else ""
    made: list[Proposal] = []
    ends = time.monotonic() + SECONDS
    for each in names[:NAMES]:
        if not each.endswith(_KINDS) or (each.startswith(".") and each != ".mcp.json"):
            continue
        if len(made) > MOST or time.monotonic() > ends:
            problem = f"{path}: more than can be looked at; {each} and those after it were not"
            break
        try:
            made += of_file(source, os.path.join(path, each), machine, bound=bound)
        except Changing as error:
            problem = str(error)
    return found(source, made, problem)


def _names(path: str) -> Iterator[str]:
    with os.scandir(path) as listed:
        for number, each in enumerate(listed):
            yield each.name
            if number == NAMES:
                return


def one_file(path: str, machine: Machine, bound: str = "none") -> Found:
    """The servers of one file."""
    source = f"files {path}"
    try:
        return found(source, of_file(source, path, machine, bound=bound))
    except Changing as error:
        return Found(source, problem=str(error))


def of_clients(machine: Machine) -> Found:
    """The servers that the clients of this user start, of all its projects and of the working directory."""
    paths = [os.path.join(machine.home, each) for each in _HOME]
    paths += [os.path.join(machine.cwd, each) for each in _PROJECT]
    made: list[Proposal] = []
    problem = ""
    for path in dict.fromkeys(os.path.realpath(each) for each in paths if os.path.lexists(each)):
        if len(made) > MOST:
            break
        try:
            made += of_file("clients", path, machine, CLIENT_LIMIT)
        except Changing as error:
            problem = str(error)
    return found("clients", made, problem)


def of_file(source: str, path: str, machine: Machine, limit: int = LIMIT, *, bound: str = "none") -> list[Proposal]:
    """The servers of one file, or one proposal that says why it has none. Raises Changing only."""
    place = path if clients.encodable(path) else ascii(path)
    try:
        data = read(path, limit)
        if not clients.encodable(path):
            raise ConfigError("its name is not UTF-8")
        if path.endswith(".toml"):
            return _registry(source, path, data, bound)
        made = _json(source, path, data, machine)
        return made if source == "clients" else [_narrowed(each, bound) for each in made]
    except Changing:
        raise
    except SupervisorError as error:
        said = str(error)
        return [Proposal(source, place, "", refused=said if said.startswith(place) else f"{place}: {said}")]


def read(path: str, limit: int) -> bytes:
    """A regular file, whole, as it was at one moment. ConfigError: it is something else, or too large."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        link = error.errno == errno.ELOOP
        raise ConfigError("it is a symbolic link; none is followed here" if link else error.strerror) from None
    try:
        before = os.fstat(fd)
        if not stat.S_ISREG(before.st_mode):
            raise ConfigError("not a regular file")
        data = b""
        while len(data) <= limit and (part := os.read(fd, limit + 1 - len(data))):
            data += part
        after = os.fstat(fd)
    except OSError as error:
        raise ConfigError(error.strerror) from None
    finally:
        os.close(fd)
    if len(data) > limit:
        raise ConfigError(f"larger than {limit >> 20} MiB")
    if _moment(before) != _moment(after) or len(data) != after.st_size:
        raise Changing(f"{path}: it changed while it was read; look again")
    return data


def _moment(info: os.stat_result) -> tuple[int, int, int]:
    return info.st_size, info.st_mtime_ns, info.st_ctime_ns


def _registry(source: str, path: str, data: bytes, bound: str) -> list[Proposal]:
    """The tables of a file in the words of servers.toml, as far as they grant no more than the bound."""
    written = toml.parse(path, data)
    made = []
    for name in itertools.islice(parsed(written).server, MOST + 1):
        tables = written.data["server"]
        fields = tables[name] if isinstance(tables, dict) else {}
        try:
            _narrows(fields, bound)
            made.append(Proposal(source, f"{path}#{name}", name, fields))
        except ConfigError as error:
            made.append(Proposal(source, f"{path}#{name}", name, refused=str(error)))
    return made


def _narrowed(made: Proposal, bound: str) -> Proposal:
    """A proposal from a stranger's file, refused where what it names would be granted to it."""
    try:
        _narrows(made.fields, bound) if made.fields else None
    except ConfigError as error:
        said = f"{error}\nit follows from its command line; if it is to have that: supervisor add NAME -- COMMAND"
        return Proposal(made.source, made.place, made.name, refused=said)
    return made


def _narrows(fields: dict[str, object], bound: str) -> None:
    for key, value in fields.items():
        own = [f"{key}.grant"] if isinstance(value, dict) and key in _PATTERNS and "grant" in value else []
        own += [] if key in (*_WORDS, *_PATTERNS) else [key]
        if own:
            raise ConfigError(f"{own[0]}: for whoever accepts it to say; take it out")
    labels.within(str(fields["profile"]), bound, "profile")


def _json(source: str, path: str, data: bytes, machine: Machine) -> list[Proposal]:
    try:
        text = data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ConfigError(f"not UTF-8, at byte {error.start}") from None
    if not text.strip():
        return []
    try:
        root = jsonc.parse(text, loose=clients.loose(path))
        if source != "clients" and packages.is_document(root):
            return packages.propose_all(source, path, packages.parse(text), machine)
        own = clients.project(path, machine.home)
        there = (each for table in clients.tables(root, own) for each in clients.entries(table) if not each.ours)
        entries = list(itertools.islice(there, MOST + 1))
    except jsonc.NotJson as error:
        raise ConfigError(f"{path}:{jsonc.place(text, error.position)}: {error}") from None
    return [_of_client(source, path, each, machine) for each in entries]


def _of_client(source: str, path: str, entry: clients.Entry, machine: Machine) -> Proposal:
    place = f"{path}#{'.'.join(entry.path)}"
    name = propose.name_for(entry.name, lambda _: False)
    place = place if clients.encodable(place) else ascii(place)
    if entry.problem:
        return Proposal(source, place, name, refused=entry.problem)
    try:
        made = propose.propose(
            entry.command, entry.env, project=entry.table.project, cwd=entry.cwd, machine=machine
        )
    except SupervisorError as error:
        return Proposal(source, place, name, refused=str(error))
    off = ("it is switched off in the client",) if entry.off else ()
    return Proposal(source, place, name, made.fields, made.why + off)
