"""servers.toml as text: a table added at its end, a table taken out, every other byte as it was.

Runs as whoever types `supervisor add`, `remove`, `adopt` or `release`. Pure: text in, text out. What comes out is
parsed and compared with what was meant; text that cannot be edited so is refused and named.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import MutableMapping

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import Item

from supervisor.errors import ConfigError

_WIDE = 80
_HEADER = re.compile(r"[ \t]*\[")
Fields = dict[str, object]


def servers(text: str) -> dict[str, object]:
    """The tables of `text` by name, as they are written."""
    found = tomllib.loads(text).get("server", {})
    return found if isinstance(found, dict) else {}


def add(text: str, name: str, fields: Fields, *, comment: str = "") -> str:
    """`text` with one more `[server.NAME]` at its end. ConfigError when the text leaves no room for one."""
    newline = "\r\n" if "\r\n" in text else "\n"
    said = f"# {comment}\n" if comment else ""
    block = said + render(name, fields)
    gap = "" if not text else "\n" if text.endswith("\n") else "\n\n"
    made = text + (gap + block).replace("\n", newline)
    before = tomllib.loads(text)
    table = before.get("server", {})
    _check(made, before | {"server": table | {name: fields}}, f'server "{name}" cannot be added')
    return made


def remove(text: str, name: str) -> str:
    """`text` without the tables of one server and the comment that stands on top of them."""
    wanted = tomllib.loads(text)
    del wanted["server"][name]
    for made in (_without_sections(text, name), _without_key(text, name)):
        # the last one takes its empty table with it
        if made is not None and servers(made) == wanted["server"] and _others(made) == _others(text):
            return made
    raise ConfigError(f'server "{name}" cannot be taken out by rule: edit the file')


def render(name: str, fields: Fields) -> str:
    """One `[server.NAME]` table, its own tables inline."""
    table = tomlkit.table()
    for key, value in fields.items():
        table.add(key, _item(value))
    return f"[server.{tomlkit.key(name).as_string()}]\n{table.as_string()}"


def _item(value: object) -> Item:
    if isinstance(value, dict):
        inline = tomlkit.inline_table()
        for key, each in value.items():
            inline.add(str(key), _item(each))
        return inline
    if isinstance(value, list):
        array = tomlkit.array()
        array.extend(value)
        return array.multiline(len(array.as_string()) > _WIDE)
    return tomlkit.item(value)


def _check(made: str, wanted: object, problem: str) -> None:
    try:
        if tomllib.loads(made) == wanted:
            return
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{problem}: {error}") from None
    raise ConfigError(f"{problem}: edit the file")


def _others(text: str) -> Fields:
    return {key: value for key, value in tomllib.loads(text).items() if key != "server"}


def _without_sections(text: str, name: str) -> str | None:
    """Without the lines from each `[server.NAME...]` to the next header; None if that is no TOML any more."""
    own = re.compile(rf"[ \t]*\[[ \t]*server[ \t]*\.[ \t]*(['\"]?){re.escape(name)}\1[ \t]*[.\]]")
    chunks = _chunks(text)
    kept = [_loose(lines) if own.match(header) else lines for header, lines in chunks]
    made = "".join(line for lines in kept for line in lines)
    if not kept[-1] and made.endswith(("\n\n", "\n\r\n")):
        # the empty line that stood in front of it
        made = made.removesuffix("\n").removesuffix("\r")
    try:
        tomllib.loads(made)
    except tomllib.TOMLDecodeError:
        return None
    return made


def _loose(lines: list[str]) -> list[str]:
    """What follows a table's last line, if there is a comment in it: it is about something else."""
    end = len(lines)
    while end and lines[end - 1].strip()[:1] in ("", "#"):
        end -= 1
    return lines[end:] if any(line.strip() for line in lines[end:]) else []


def _chunks(text: str) -> list[tuple[str, list[str]]]:
    """What is before the first header, then each header with its lines and the comment on top of it."""
    chunks: list[tuple[str, list[str]]] = [("", [])]
    for line in re.split(r"(?<=\n)", text):
        if _HEADER.match(line):
            before = chunks[-1][1]
            start = len(before)
            while start and before[start - 1].lstrip(" \t").startswith("#"):
                start -= 1
            # on the first line of a file it is about the file
            start = len(before) if start == 0 and len(chunks) == 1 else start
            chunks.append((line, before[start:]))
            del before[start:]
        chunks[-1][1].append(line)
    return chunks


def _without_key(text: str, name: str) -> str | None:
    """Without the key, however it is written."""
    try:
        document = tomlkit.parse(text)
        table = document["server"]
        if not isinstance(table, MutableMapping):
            return None
        del table[name]
        return tomlkit.dumps(document)
    except (TOMLKitError, KeyError):
        return None
