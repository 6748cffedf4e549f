"""Where a program is that npx, uvx and their like would download: installed already, or what installs it.

Runs as whoever types `supervisor adopt`. Reads bounded package files; executes nothing, asks no registry.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import escape, iglob
from os.path import basename, dirname, isfile, join, realpath

from supervisor.errors import ConfigError
from supervisor.profile import downloads
from supervisor.profile.links import ancestors, read

_EXACT = re.compile(r"v?\d+(\.\d+)*([-.+a-z]\w*)*")


@dataclass(frozen=True)
class Machine:
    """Where this user's programs may be: the home, the folder of the configuration, the environment."""

    home: str
    cwd: str
    environ: Mapping[str, str]

    @property
    def own(self) -> str:
        """The folder for what is installed on the supervisor's advice."""
        data = self.environ.get("XDG_DATA_HOME") or join(self.home, ".local/share")
        return join(data, "supervisor")

    @property
    def search(self) -> str:
        """This user's PATH."""
        return self.environ.get("PATH", os.defpath)


@dataclass(frozen=True)
class Wanted:
    """A package as a command line names it: `version` is exact, or empty."""

    package: str
    version: str
    program: str


def resolve(argv: Sequence[str], machine: Machine) -> tuple[list[str], str]:
    """(the command line without its downloader, where the program was found; empty when there was none).

    ConfigError: not installed, and the command that would install it.
    """
    key, command, options, rest = downloads.parse(argv)
    if key not in downloads.DOWNLOADERS:
        return list(argv), ""
    family, _ = downloads.DOWNLOADERS[key]
    if not family:
        raise ConfigError(f"{key} would start it outside this sandbox; see supervisor image --help")
    packages = [value for name, value in options if name in downloads.PACKAGE[family] and value]
    if key == "uv run":
        return _project(command, options, rest, machine)
    wanted = _wanted(packages[0] if packages else command, command if packages else "", family)
    places = _node(wanted, machine) if family == downloads.NODE else _python(wanted, machine)
    others = []
    for path, version in places:
        if wanted.version in ("", version):
            return [path, *rest], f"{wanted.package} {version}".rstrip() + f" is installed: {path}"
        others.append(f"{version} at {path}")
    there = f" ({', '.join(others)})" if others else ""
    raise ConfigError(f"{key} would download it{there}; first: {_advice(wanted, family, machine)}")


def _project(
    command: str, options: list[tuple[str, str]], rest: list[str], machine: Machine
) -> tuple[list[str], str]:
    """`uv run`: what the project's own environment has."""
    start = next((value for name, value in options if name in downloads.FOLDER), "")
    folder = join(machine.cwd, start)
    words = [join(folder, downloads.PYTHON, command)]
    if command.endswith(".py"):
        words = [join(folder, downloads.PYTHON, "python"), join(folder, command)]
    if all(map(isfile, words)):
        return [*words, *rest], f"the project's own environment: {words[0]}"
    raise ConfigError(f"uv run would install the project when it starts; first: uv sync --directory {folder}")


def _wanted(spec: str, program: str, family: str) -> Wanted:
    if family == downloads.NODE:
        found = re.fullmatch(r"(@?[^@]+)(?:@(.*))?", spec)
        package, version = (found[1], found[2] or "") if found else (spec, "")
    else:
        found = re.match(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?(?:(?:==|@)([^,;]*))?", spec)
        package, version = (found[1], found[2] or "") if found else (spec, "")
    exact = version.lstrip("v") if _EXACT.fullmatch(version) else ""
    return Wanted(package, exact, program)


def _node(wanted: Wanted, machine: Machine) -> Iterator[tuple[str, str]]:
    """(program, version) in each place where npm puts packages: the project's, our own, the global ones."""
    local = [*ancestors(machine.cwd), machine.home, join(machine.own, "npm")]
    for folder in dict.fromkeys([*local, *_prefixes(machine)]):
        package = join(folder, "node_modules", wanted.package)
        about = _json(join(package, "package.json"))
        if not about:
            continue
        name = wanted.program or downloads.program_of(wanted.package, downloads.NODE, folder)
        entry = about.get("bin")
        target = entry.get(name) if isinstance(entry, dict) else entry
        for path in (join(folder, "node_modules/.bin", name), join(package, str(target or "."))):
            if isfile(path):
                yield path, str(about.get("version", ""))
                break


def _prefixes(machine: Machine) -> Iterator[str]:
    """The folders whose node_modules are npm's global ones."""
    prefixes = [machine.environ.get(name, "") for name in ("NPM_CONFIG_PREFIX", "npm_config_prefix")]
    written = re.search(r"(?m)^\s*prefix\s*=\s*(\S+)", read(join(machine.home, ".npmrc")))
    if written:
        prefixes.append(re.sub(r"^(~|\$\{HOME\})", machine.home, written[1]))
    node = shutil.which("node", path=machine.search)
    prefixes += [dirname(dirname(realpath(node)))] if node else []
    prefixes += [join(machine.home, ".npm-global"), join(machine.home, ".local"), "/usr/local", "/usr"]
    yield from (join(each, "lib") for each in prefixes if each)


def _json(path: str) -> dict[str, object]:
    try:
        found = json.loads(read(path))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _python(wanted: Wanted, machine: Machine) -> Iterator[tuple[str, str]]:
    """(program, version) in each environment that uv, pipx or a person made for the package."""
    program = wanted.program or wanted.package
    environ, home = machine.environ, machine.home
    tools = [environ.get("UV_TOOL_DIR", ""), join(home, ".local/share/uv/tools")]
    pipx = [environ.get("PIPX_HOME", ""), join(home, ".local/share/pipx"), join(home, ".local/pipx"), "/opt/pipx"]
    tools += [join(each, "venvs") for each in pipx if each]
    tools.append(join(machine.own, "python"))
    roots = [join(machine.cwd, ".venv"), *(join(each, wanted.package) for each in tools if each)]
    on_path = shutil.which(program, path=machine.search)
    for path in [*(join(root, "bin", program) for root in roots), *([on_path] if on_path else [])]:
        if isfile(path):
            yield path, _version(path, wanted.package)


def _version(program: str, package: str) -> str:
    """The version of a Python package beside its program, from its metadata's name."""
    normal = re.sub(r"[-_.]+", "_", package).lower()
    for prefix in dict.fromkeys((dirname(dirname(program)), dirname(dirname(realpath(program))))):
        for each in iglob(f"{escape(prefix)}/lib/python3*/*-packages/*.dist-info"):
            name, _, version = basename(each).removesuffix(".dist-info").partition("-")
            if re.sub(r"[-_.]+", "_", name).lower() == normal:
                return version
    return ""


def _advice(wanted: Wanted, family: str, machine: Machine) -> str:
    if family == downloads.NODE:
        spec = wanted.package + (f"@{wanted.version}" if wanted.version else "")
        return f"npm install --prefix {shlex.quote(join(machine.own, 'npm'))} {shlex.quote(spec)}"
    folder = join(machine.own, "python", wanted.package)
    spec = wanted.package + (f"=={wanted.version}" if wanted.version else "")
    return f"python3 -m venv {shlex.quote(folder)} && {shlex.quote(folder)}/bin/pip install {shlex.quote(spec)}"
