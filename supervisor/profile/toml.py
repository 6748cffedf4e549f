"""TOML files of ours: owner and mode checked on the open descriptor, errors with file and line.

Runs in the planner and, as the user, in the command line. `tomllib` knows no line numbers once it has
parsed, so the line of a key is found again in the text, only when there is an error to report.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from typing import TypeVar

from msgspec import ValidationError, convert, json

from supervisor import given
from supervisor.errors import ConfigError, Refused
from supervisor.model import Frozen
from supervisor.profile import shape

_LIMIT = 1 << 20
_HEADER = re.compile(r"^\s*(\[\[?)\s*([^\]]+?)\s*\]")
_KEY = re.compile(r"^\s*([A-Za-z0-9_.\"'-]+)\s*=")
_PART = re.compile(r""""[^"]*"|'[^']*'|[^.]+""")
_FIELD = re.compile(r"Object (contains unknown|missing required) field `(.*)`", re.DOTALL)
_AT = re.compile(r"(.*) - at ((?:`key` in )?`\$[^`]*`)", re.DOTALL)
# what msgspec calls them, and who edits a file
_WORDS = {
    " | null`": "`",
    "`object`": "a table",
    "`array`": "a list",
    "`str`": "a text",
    "`int`": "a number",
    "\\\\Z'": "$'",
}
_STEP = re.compile(r"\.([A-Za-z_]\w*)|\[(\d+|\.\.\.)\]")
Model = TypeVar("Model", bound=Frozen)
Path = tuple[str | int, ...]


class Source:
    """One parsed file: its name for messages, its text, its data."""

    def __init__(self, path: str, text: str, data: dict[str, object]) -> None:
        self.path = path
        self.name = os.path.basename(path)
        self.text = text
        self.data = data

    def at(self, *key: str | int) -> str:
        """`file:line` of a key."""
        return f"{self.name}:{line_of(self.text, key)}"

    def error(self, message: str, *key: str | int) -> ConfigError:
        """A ConfigError that starts with file and line."""
        return ConfigError(f"{self.path}:{line_of(self.text, key)}: {message}")

    def validate(self, model: type[Model]) -> Model:
        """The data as `model`; ConfigError naming file, line and key otherwise."""
        try:
            return made(self.data, model)
        except ValidationError as error:
            message, key = explain(error, model, self.data)
            raise self.error(message, *key) from None


def made(data: object, model: type[Model]) -> Model:
    """`data` as `model`, whose fields may be of types of ours that are made from what is written."""
    return convert(data, model, dec_hook=lambda kind, value: kind(value))


def decoded(data: bytes | str, model: type[Model]) -> Model:
    """From JSON; ValueError."""
    return json.decode(data, type=model)


def explain(error: ValidationError, model: type[Model], data: object) -> tuple[str, Path]:
    """(message, key) of the first problem, in the words of somebody who edits the file."""
    found = _AT.fullmatch(str(error))
    said, place = (found.group(1), found.group(2)) if found else (str(error), "")
    key = _named(str(error), model, data, _path(place))
    dotted = ".".join(str(part) for part in key)
    if field := _FIELD.fullmatch(said):
        whole = ".".join([*(str(part) for part in key), field.group(2)])
        unknown = field.group(1) == "contains unknown"
        return (f'unknown key "{whole}"', (*key, field.group(2))) if unknown else (f'key "{whole}" is missing', key)
    if error.__cause__ is not None:
        return f"{dotted}: {said}", key
    for theirs, ours in _WORDS.items():
        said = said.replace(theirs, ours)
    # somebody may have written the value of a secret where its source belongs
    value = key[-1] if place.startswith("`key` in ") else _value(data, key)
    given = "" if "secrets" in key else f", not {value!r:.80}"
    return f"{dotted}: {said[0].lower()}{said[1:]}{given}", key


def _path(place: str) -> Path:
    """What stands after "at": `$.mount[0].mode`, or `key` in `$.env`; "..." for an entry of a table."""
    found = [name or (number if number == "..." else int(number)) for name, number in _STEP.findall(place)]
    return (*found, *(["..."] if place.startswith("`key` in ") else []))


def _named(said: str, model: type[Model], data: object, key: Path) -> Path:
    """`key` with the names of the entries, which msgspec leaves out: each is tried alone."""
    while "..." in key:
        table = key[: key.index("...")]
        entries = _value(data, table)
        for name, value in entries.items() if isinstance(entries, dict) else []:
            try:
                made(_alone(data, table, {name: value}), model)
            except ValidationError as error:
                if str(error) == said:
                    key, data = (*table, name, *key[len(table) + 1 :]), _alone(data, table, {name: value})
                    break
        else:
            return table
    return key


def _alone(data: object, key: Path, value: object) -> object:
    """A copy of `data` with `value` at `key`."""
    if not key:
        return value
    if isinstance(data, dict):
        return data | {key[0]: _alone(data[key[0]], key[1:], value)}
    if isinstance(data, list):
        return [_alone(each, key[1:], value) if at == key[0] else each for at, each in enumerate(data)]
    return data


def _value(data: object, key: Path) -> object:
    for part in key:
        data = data.get(part) if isinstance(data, dict) else data[int(part)] if isinstance(data, list) else data
    return data


def read(path: str) -> Source:
    """Read and parse one file that only its owner (root or this user) can write."""
    return parse(path, checked(path))


def checked(path: str, limit: int = _LIMIT) -> bytes:
    """The content of such a file, unparsed."""
    fd = given.opened(path)
    try:
        check_owner(path, os.fstat(fd))
        return given.content(fd, path, limit)
    finally:
        os.close(fd)


def parse(path: str, data: bytes) -> Source:
    """Parse `data`; `path` is for messages."""
    text = shape.text(path, data)
    try:
        return Source(path, text, tomllib.loads(text))
    except RecursionError:
        raise ConfigError(f"{path}:1: nested too deeply") from None
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"\(at line (\d+), column \d+\)", str(error))
        line = int(found.group(1)) if found else data.count(b"\n") + 1
        raise ConfigError(f"{path}:{line}: {str(error).split(' (at')[0]}") from None


def check_owner(path: str, info: os.stat_result, *, folder: bool = False) -> None:
    """Refused for a file or folder that somebody else than its reader or root owns or can write."""
    if not (stat.S_ISDIR if folder else stat.S_ISREG)(info.st_mode):
        raise ConfigError(f"{path}: not a {'folder' if folder else 'regular file'}")
    # a planner that root started runs as nobody, and nobody's files are not to be trusted
    if info.st_uid not in {0, os.geteuid()} - {65534}:
        raise Refused(
            f"{path}: owned by uid {info.st_uid}; only root or the user who runs this may own it: chown it, "
            "or copy it to a file of your own"
        )
    if info.st_mode & 0o022:
        raise Refused(f"{path}: others can write it (mode {info.st_mode & 0o777:o}): chmod go-w {path}")


def line_of(text: str, key: Path) -> int:
    """The line where `key` stands, or the nearest enclosing table's, counted from 1."""
    best, depth = 1, 0
    table: list[str | int] = []
    counts: dict[str, int] = {}
    for number, line in enumerate(text.split("\n"), 1):
        header, entry = _HEADER.match(line), _KEY.match(line)
        if header:
            name = header.group(2)
            table = [*_parts(name)]
            if header.group(1) == "[[":
                counts[name] = counts.get(name, -1) + 1
                table.append(counts[name])
            here: list[str | int] = table
        elif entry:
            here = [*table, *_parts(entry.group(1))]
        else:
            continue
        common = _common(here, key)
        if common > depth and common in (len(here), len(key)):
            best, depth = number, common
    return best


def _parts(key: str) -> list[str]:
    """A dotted key in its parts."""
    return [part.strip("\"' ") for part in _PART.findall(key)]


def _common(here: list[str | int], key: Path) -> int:
    length = 0
    for mine, theirs in zip(here, key, strict=False):
        if mine != theirs:
            break
        length += 1
    return length
