"""Profiles: from TOML files to one merged, validated Profile.

Runs in the planner and, as the user, in the command line. `extends` names one parent, depth at most 4;
scalars replace, tables merge, arrays append: a profile only ever adds to the floor, `none`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from msgspec import Meta, to_builtins

import supervisor
from supervisor.errors import ConfigError
from supervisor.model import Frozen, Share
from supervisor.profile import toml

DEPTH = 4
_SIZES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_TIMES = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def share_folder(kind: Literal["profiles", "images"]) -> Path:
    """Where `profiles/` or `images/` is: inside an installed wheel, or beside the package in a checkout."""
    package = Path(supervisor.__file__).resolve().parent
    installed = package / "_share" / kind
    return installed if installed.is_dir() else package.parent / kind


def _bounded(value: float, most: float, text: str) -> float:
    if not 0 < value <= most:
        raise ValueError(f"more than 0 and at most {text}")
    return value


class Size(int):
    """`"256M"` as bytes (K, M, G are powers of 1024)."""

    def __new__(cls, value: object) -> Self:
        """From what is written; ValueError."""
        found = re.fullmatch(r"(\d+)([KMG]?)", value) if isinstance(value, str) else None
        if not found:
            raise ValueError(f'a size is written like "256M" (K, M or G), not {value!r}')
        return super().__new__(cls, _bounded(int(found.group(1)) * _SIZES[found.group(2)], 1 << 50, "1048576G"))


class Duration(float):
    """`"10s"` as seconds (ms, s, m, h, d)."""

    def __new__(cls, value: object) -> Self:
        """From what is written; ValueError."""
        found = re.fullmatch(r"(\d+)(ms|s|m|h|d)", value) if isinstance(value, str) else None
        if not found:
            raise ValueError(f'a time is written like "10s" (ms, s, m, h or d), not {value!r}')
        return super().__new__(cls, _bounded(int(found.group(1)) * _TIMES[found.group(2)], 3650 * 86400, "3650d"))


class Cpus(int):
    """Processors, in thousandths of one."""

    def __new__(cls, value: object) -> Self:
        """From what is written; ValueError."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0.01 <= value <= 1024:
            raise ValueError(f"cpus is a number of processors from 0.01 to 1024, such as 1 or 0.5, not {value!r}")
        return super().__new__(cls, round(value * 1000))


def plain(text: Frozen) -> dict[str, Any]:
    """What was written, as plain data; a size or a time is its number."""
    made: dict[str, Any] = to_builtins(text, enc_hook=lambda each: each + 0)
    return made


Count = Annotated[int, Meta(gt=0, le=1 << 20)]
Flag = Literal["nosuid", "nodev", "noexec"]
_Text = Annotated[str, Meta(min_length=1, max_length=4096)]


class Param(Frozen):
    """A hole that the registry entry or the operator's command line fills."""

    type: Literal["path", "text"]
    help: str
    default: str | None = None


class Server(Frozen):
    default: str


class MountText(Frozen):
    """A mount as written; `flags` may only tighten (nosuid and nodev hold anyway)."""

    source: _Text
    target: _Text
    mode: Literal["ro", "rw"]
    flags: tuple[Flag, ...] = ()
    origin: str = ""


class Below(str):
    """A path below a writable folder."""

    def __new__(cls, value: object) -> Self:
        """From what is written; ValueError."""
        text = value if isinstance(value, str) and len(value) < 256 else ""
        if not text or text.startswith("/") or os.path.normpath(text) != text or text[:2] == "..":
            raise ValueError(f'a path below a writable folder, like ".git/hooks", not {value!r:.300}')
        return super().__new__(cls, text)


class Writable(Frozen):
    """Of every writable folder; `keep`: what is read-only in it, where it is there."""

    keep: tuple[Below, ...] = ()


class Process(Frozen):
    hostname: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9]{0,30}\Z")] | None = None
    cwd: _Text | None = None
    write_execute: bool | None = None
    image_env: tuple[_Text, ...] = ()
    env: dict[str, str] = {}


class SeccompText(Frozen):
    groups: tuple[str, ...] = ()


class NetworkText(Frozen):
    """`operator`: whoever starts it may add hosts. The numbers are of one session."""

    mode: Literal["none", "allowlist"] | None = None
    allow: tuple[str, ...] = ()
    operator: bool | None = None
    ech: Literal["refuse", "pass"] | None = None
    connections: Count | None = None
    rate: Count | None = None
    bytes: Size | None = None
    idle: Duration | None = None


class TmpText(Frozen):
    size: Size | None = None
    files: Count | None = None
    exec: bool | None = None


class LimitsText(Frozen):
    memory: Size | None = None
    cpus: Cpus | None = None
    pids: Count | None = None
    files: Count | None = None
    file_size: Size | None = None
    disk: Size | None = None
    disk_files: Count | None = None
    output_line: Size | None = None
    output: Size | None = None
    output_rate: Size | None = None
    stderr: Size | None = None


class SessionText(Frozen):
    start: Duration | None = None
    idle: Duration | None = None
    life: Duration | None = None
    grace: Duration | None = None
    share: Share | None = None


class AuditText(Frozen):
    """`files`: whether the kernel is to tell which files are opened, `system`: those of the root as well."""

    files: Literal["auto", "required", "off"] | None = None
    system: bool | None = None


class Profile(Frozen):
    """One profile as written, or a chain of them merged (then every field of the floor is set)."""

    # not Literal[1], which takes 1.0 and true for it
    profile: Annotated[int, Meta(ge=1, le=1)]
    name: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,62}\Z")]
    summary: str
    extends: str | None = None
    params: dict[str, Param] = {}
    server: Server | None = None
    mount: tuple[MountText, ...] = ()
    writable: Writable = Writable()
    process: Process = Process()
    seccomp: SeccompText = SeccompText()
    network: NetworkText = NetworkText()
    tmp: TmpText = TmpText()
    limits: LimitsText = LimitsText()
    session: SessionText = SessionText()
    audit: AuditText = AuditText()


class Chain:
    """A loaded profile: the merged result and its files, the floor first."""

    def __init__(self, merged: Profile, sources: list[toml.Source]) -> None:
        self.profile = merged
        self.sources = sources

    def origin(self, *key: str) -> str:
        """`file:line` of whoever had the last word on a scalar."""
        for source in reversed(self.sources):
            table: object = source.data
            for part in key:
                table = table.get(part) if isinstance(table, dict) else None
            if table is not None:
                return source.at(*key)
        return self.sources[0].name


def names() -> list[str]:
    """The profiles that come with the product."""
    return sorted(path.stem for path in share_folder("profiles").glob("*.toml"))


def find(name: str, beside: str | None = None) -> str:
    """The file of a profile: a path (with a slash or .toml), a shipped name, or a name beside `beside`."""
    if "/" in name or name.endswith(".toml"):
        return os.path.abspath(name)
    shipped = share_folder("profiles") / f"{name}.toml"
    if re.fullmatch(r"[a-z][a-z0-9-]{0,63}", name):
        if shipped.is_file():
            return str(shipped)
        local = os.path.join(os.path.dirname(beside), f"{name}.toml") if beside else ""
        if local and os.path.isfile(local):
            return local
    raise ConfigError(
        f'unknown profile "{name}"; known are {", ".join(names())}; a file of your own is named by its path'
    )


def load(name: str, *, beside: str | None = None) -> Chain:
    """Load a profile and its parents. ConfigError with file and line; Refused for a file others can write."""
    sources: list[toml.Source] = []
    path: str | None = find(name, beside)
    while path is not None:
        source = toml.read(path)
        written = source.validate(Profile)
        _check_text(source, written)
        sources.insert(0, source)
        if len(sources) > DEPTH:
            raise source.error(f"extends: more than {DEPTH} profiles in a chain", "extends")
        if written.extends is None:
            if written.name != "none":
                raise source.error('extends is missing: every profile but the floor extends another ("none")')
            path = None
        else:
            try:
                path = find(written.extends, path)
            except ConfigError as error:
                raise source.error(f"extends: {error}", "extends") from None
            if path in (each.path for each in sources):
                raise source.error("extends: the chain comes back to itself", "extends")
    return Chain(_merge(sources), sources)


def _check_text(source: toml.Source, written: Profile) -> None:
    for index, each in enumerate(_tables(source.data.get("mount"))):
        if "origin" in each:  # ours, and set when the files are merged
            raise source.error(f'unknown key "mount.{index}.origin"', "mount", index, "origin")
    if written.extends is not None and source.name != f"{written.name}.toml":
        raise source.error(f'name is "{written.name}" but the file is {source.name}', "name")


def _tables(value: object) -> list[dict[str, object]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _merge(sources: list[toml.Source]) -> Profile:
    data: dict[str, object] = {}
    for source in sources:
        mounts = [
            each | {"origin": source.at("mount", index)}
            for index, each in enumerate(_tables(source.data.get("mount")))
        ]
        data = _merged(data, source.data | ({"mount": mounts} if mounts else {}))
    return toml.made(data, Profile)


def _merged(below: dict[str, object], above: dict[str, object]) -> dict[str, object]:
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            result[key] = _merged(old, value)
        elif isinstance(old, list) and isinstance(value, list):
            result[key] = old + [each for each in value if each not in old]
        else:
            result[key] = value
    return result
