"""The tools as data: what each is called, takes and gives.

Runs as the session's unprivileged uid. The schemas are written out because they are the interface a
reviewer pins; `checked` applies the part of JSON Schema that they use.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .answer import Answer, ToolError
from .files import MEDIA_LIMIT, TEXT_LIMIT, get_file_info, read_media_file, read_text_file
from .folders import ENTRY_LIMIT, TREE_LIMIT, directory_tree, list_directory
from .search import search_files

Schema = dict[str, Any]  # JSON Schema

PLACES = "Relative to the first allowed folder, or absolute inside an allowed one."
KIND = {"type": "string", "description": "file, directory, symlink, or what else it is"}
SHOWN = {"type": "string", "description": "the path, in the form that every tool takes"}
NOTES = {"type": "array", "items": {"type": "string"}, "description": "what was left out, and how to get it"}


def _text(description: str, default: str | None = None) -> Schema:
    return {"type": "string", "description": description} | ({} if default is None else {"default": default})


def _number(description: str, low: int, default: int | None = None, high: int | None = None) -> Schema:
    schema: Schema = {"type": "integer", "description": description, "minimum": low}
    if high is not None:
        schema["maximum"] = high
    return schema | ({} if default is None else {"default": default})


def _takes(required: list[str], **properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _gives(*optional: str, **properties: Schema) -> Schema:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": {**properties, "notes": NOTES}, "required": required}


def _items(*optional: str, **properties: Schema) -> Schema:
    required = [name for name in properties if name not in optional]
    return {"type": "array", "items": {"type": "object", "properties": properties, "required": required}}


@dataclass(frozen=True)
class ToolEntry:
    """One tool; `run(roots, budget, **arguments)` gets arguments that `takes` allows."""

    name: str
    title: str
    description: str
    takes: Schema
    gives: Schema
    run: Callable[..., Answer]


INTEGER: Schema = {"type": "integer"}
STRING: Schema = {"type": "string"}
BOOLEAN: Schema = {"type": "boolean"}

_ENTRIES = (
    ToolEntry(
        name="list_directory",
        title="List a directory",
        description=f"Names, types and sizes of the entries of one directory, {ENTRY_LIMIT} at a time.",
        takes=_takes(
            [],
            path=_text(f"The directory. {PLACES}", "."),
            offset=_number("Entries to skip, to continue a long list.", 0, 0),
        ),
        gives=_gives(
            "next_offset",
            path=SHOWN,
            entries=_items("size", name=STRING, type=KIND, size=INTEGER),
            total=INTEGER,
            next_offset=INTEGER,
        ),
        run=list_directory,
    ),
    ToolEntry(
        name="read_text_file",
        title="Read a text file",
        description=(
            f"The text of a file, at most {TEXT_LIMIT} characters at a time. offset and limit count lines, "
            "so a large file can be read in parts."
        ),
        takes=_takes(
            ["path"],
            path=_text(f"The file. {PLACES}"),
            offset=_number("Lines to skip.", 0, 0),
            limit=_number("Lines to read; without it, as many as fit.", 1),
            column=_number("Characters to skip in the first line, to continue a very long one.", 0, 0),
            encoding=_text("How the bytes are to be read, such as utf-16 or cp1252.", "utf-8"),
        ),
        gives=_gives(
            "next_offset",
            "next_column",
            path=SHOWN,
            text=STRING,
            offset=INTEGER,
            lines=INTEGER,
            size=INTEGER,
            next_offset=INTEGER,
            next_column=INTEGER,
        ),
        run=read_text_file,
    ),
    ToolEntry(
        name="read_media_file",
        title="Read an image, sound or binary file",
        description=f"A file of at most {MEDIA_LIMIT} bytes as an image, a sound or an embedded resource.",
        takes=_takes(["path"], path=_text(f"The file. {PLACES}")),
        gives=_gives(
            path=SHOWN,
            size=INTEGER,
            mime_type=STRING,
            kind={"type": "string", "enum": ["image", "audio", "resource"]},
        ),
        run=read_media_file,
    ),
    ToolEntry(
        name="directory_tree",
        title="Show a directory tree",
        description=f"What lies below a directory, at most {TREE_LIMIT} entries. Links are not followed.",
        takes=_takes(
            [], path=_text(f"Where to start. {PLACES}", "."), depth=_number("Levels to go down.", 1, 3, 20)
        ),
        gives=_gives(path=SHOWN, entries=_items(path=SHOWN, type=KIND), truncated=BOOLEAN),
        run=directory_tree,
    ),
    ToolEntry(
        name="search_files",
        title="Search for files or text",
        description=(
            "Find files by name (glob), lines by literal text (content), or lines in files of a name (both). "
            "content is case-sensitive, not a regular expression. Binary files and links are passed over."
        ),
        takes=_takes(
            [],
            path=_text(f"The directory to search, or one file. {PLACES}", "."),
            glob=_text('Such as "*.py" (any depth), "src/**/test_*.py" (from path), "*.{md,txt}".'),
            content=_text("Literal text that a line must hold."),
            max_results=_number("Stop after this many.", 1, 100, 1000),
        ),
        gives=_gives(
            path=SHOWN,
            matches=_items("line", "text", path=SHOWN, type=KIND, line=INTEGER, text=STRING),
            truncated=BOOLEAN,
        ),
        run=search_files,
    ),
    ToolEntry(
        name="get_file_info",
        title="Describe a file or directory",
        description="Type, size, time of the last change and permissions. A link is followed.",
        takes=_takes(["path"], path=_text(f"The file or directory. {PLACES}")),
        gives=_gives(
            "mime_type",
            path=SHOWN,
            type=KIND,
            size=INTEGER,
            modified={"type": "string", "format": "date-time"},
            permissions=STRING,
            mime_type=STRING,
        ),
        run=get_file_info,
    ),
)
TOOLS = {entry.name: entry for entry in _ENTRIES}


def checked(tool: ToolEntry, arguments: dict[str, object]) -> dict[str, object]:
    """The arguments if `tool.takes` allows them; a null counts as not given. Raises `ToolError`."""
    properties = tool.takes["properties"]
    required = tool.takes["required"]
    given = {name: value for name, value in arguments.items() if value is not None}
    for name in given:
        if name not in properties:
            raise ToolError(f"{tool.name} has no argument {name!r}; it takes {', '.join(properties)}")
    for name in required:
        if name not in given:
            raise ToolError(f"{tool.name} needs the argument {name!r}")
    return {name: _value(f"{tool.name}: {name}", properties[name], value) for name, value in given.items()}


def _value(what: str, schema: Schema, value: object) -> object:
    if schema["type"] == "string":
        if not isinstance(value, str):
            raise ToolError(f"{what} must be a string, not {value!r:.40}")
        return value
    if isinstance(value, float) and value.is_integer():  # JSON Schema: 10.0 is an integer
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ToolError(f"{what} must be an integer, not {value!r:.40}")
    if value < schema["minimum"]:
        raise ToolError(f"{what} must be at least {schema['minimum']}, not {value}")
    if value > schema.get("maximum", sys.maxsize):
        raise ToolError(f"{what} must be at most {schema.get('maximum', sys.maxsize)}")
    return value
