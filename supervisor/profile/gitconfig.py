"""What the configuration of a checkout has git obey besides: a folder of hooks elsewhere, files that it includes.

Runs in the planner, on what a stranger may have written: read whole within a bound or refused, in git's own grammar
(git-config(1)), and only for the names of paths. What an included file says in its turn is not looked at.
"""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from supervisor import given
from supervisor.errors import ConfigError
from supervisor.model import Mount
from supervisor.profile import links
from supervisor.profile.granted import below

_LIMIT, _MOST = 1 << 20, 16
_GAP = re.compile(rb"(?:[ \t\r\n]++|[#;][^\n]*+)*+")
_SECTION = re.compile(rb'\[([A-Za-z0-9.-]*+)(?:[ \t\r]++"((?:[^"\\\n]|\\[^\n])*+)")?\]')
_KEY = re.compile(rb"([A-Za-z][A-Za-z0-9-]*+)[ \t]*+(=?)")
_TEXT = re.compile(rb'(?:"(?:[^"\\\n]|\\[tbn"\\\n])*+"|\\[tbn"\\\n]|[^"\\\n#;])*+')
_PIECE = re.compile(rb'"((?:[^"\\\n]|\\[tbn"\\\n])*+)"|(\\[tbn"\\\n])|([ \t\r]++)|([^"\\ \t\r]++)')
_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)
_ESCAPES = {b"t": b"\t", b"b": b"\b", b"n": b"\n", b"\n": b""}


class Setting(NamedTuple):
    """`section` with its subsection behind a dot, it and `key` in small letters; no `value` where no "=" is."""

    section: str
    key: str
    value: str | None
    line: int


def settings(path: str, data: bytes) -> Iterator[Setting]:
    """Each that git finds in `data`, in its order; ConfigError names file and line where git would give up."""
    # the end of a file is one of a line, also behind a backslash
    data = data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n") + b"\n"
    at, line, section = 0, 1, ""
    while (start := _end(_GAP, data, at)) < len(data):
        line += data.count(b"\n", at, start)
        if header := _SECTION.match(data, start):
            sub = "" if header[2] is None else f".{os.fsdecode(header[2])}"
            section, at = f"{header[1].decode()}{sub}".lower(), header.end()
            continue
        key = _KEY.match(data, start)
        if key is None:
            raise ConfigError(f"{path}:{line}: not as git writes it, and git reads no more of it: mend it")
        at = _end(_TEXT, data, key.end()) if key[2] else key.end()
        if data[at : at + 1] not in (b"", b"\n", b"#", b";") or (
            not key[2] and data[at : at + 1] not in (b"", b"\n")
        ):
            raise ConfigError(f"{path}:{line}: not as git writes it, and git reads no more of it: mend it")
        value = os.fsdecode(_value(data[key.end() : at])) if key[2] else None
        yield Setting(section, key[1].decode().lower(), value, line)
        line += data.count(b"\n", start, at)


def _end(pattern: re.Pattern[bytes], data: bytes, at: int) -> int:
    found = pattern.match(data, at)
    return found.end() if found else at


def _value(text: bytes) -> bytes:
    """A value as it is meant: without its quotes, and without blanks around it that stand in none."""
    made, solid = b"", 0
    for piece in _PIECE.finditer(text):
        quoted, escape, blank, plain = piece.groups()
        if blank is None:
            made += plain or _ESCAPE.sub(_meant, quoted if quoted is not None else escape)
            solid = len(made)
        elif made:
            made += blank
    return made[:solid]


def _meant(found: re.Match[bytes]) -> bytes:
    return _ESCAPES.get(found[1], found[1])


def named(mounts: Iterable[Mount], home: str) -> dict[str, str]:
    """Paths of the host that git obeys in the checkouts among these mounts -> `file:line` that says so.

    ConfigError where they cannot be held: what is behind a symbolic link that a server could turn, or everything.
    """
    writable = [each.source for each in mounts if each.mode == "rw" and not each.is_file]
    found: dict[str, str] = {}
    for top in writable:
        for config in _configurations(top):
            for setting in settings(config, given.read(config, _LIMIT)):
                where = f"{config}:{setting.line}"
                written = _obeyed(setting, top, os.path.dirname(config), home)
                if "\t" in written or "\r" in written:
                    raise ConfigError(f"{where}: a tab in a path, which each git reads in its own way: take it out")
                path = _real(written, where, writable) if written else ""
                if path == top:
                    raise ConfigError(f"{where}: its hooks are in {top} itself, which could not be written then")
                if path:
                    found.setdefault(path, where)
                if len(found) > _MOST:
                    raise ConfigError(f"{where}: more than {_MOST} folders of hooks and included files")
    return found


def _obeyed(setting: Setting, top: str, beside: str, home: str) -> str:
    """The absolute path that a setting has git obey, as it is written; "" for one that does not."""
    base = top if (setting.section, setting.key) == ("core", "hookspath") else ""
    if setting.key == "path" and setting.section.partition(".")[0] in ("include", "includeif"):
        base = beside
    path = setting.value
    if not base or not path or "\0" in path:
        return ""
    if path.startswith("~"):
        user, _, rest = path[1:].partition("/")
        path = f"{_home(user) if user else home}/{rest}"
    return os.path.join(base, path)


def _real(written: str, where: str, writable: list[str]) -> str:
    """Where a path leads, which no server that may write in `writable` can change; else ConfigError."""
    try:
        names = links.hops(written)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    for name in names[:-1]:
        if any(below(name, folder) for folder in writable):
            raise ConfigError(
                f"{where}: git obeys {written}, and the server could turn a symbolic link on the way there; write "
                f"{names[-1]}"
            )
    return names[-1]


def _home(user: str) -> str:
    try:
        return pwd.getpwnam(user).pw_dir
    except KeyError:
        return "/nonexistent"


def _configurations(top: str) -> list[str]:
    """The files that a checkout's settings stand in, as far as they are there; of a linked one the common ones."""
    own = common = f"{top}/.git"
    if os.path.isfile(own):
        said = given.read(own, 4096).decode(errors="surrogateescape").strip()
        own = common = (
            os.path.join(top, said.removeprefix("gitdir:").strip()) if said.startswith("gitdir:") else top
        )
        if os.path.isfile(f"{own}/commondir"):
            said = given.read(f"{own}/commondir", 4096).decode(errors="surrogateescape").strip()
            common = os.path.join(own, said)
    files = [os.path.normpath(each) for each in (f"{common}/config", f"{own}/config.worktree")]
    return [each for each in files if own != top and os.path.isfile(each)]
