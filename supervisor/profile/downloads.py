"""Commands that download the server when they start it: recognised, and answered with what to write instead.

Runs in the planner, before anything is resolved. Reads one bounded package.json; executes nothing.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from os.path import basename, isfile, join, normpath

from supervisor.errors import Refused
from supervisor.profile.links import read

NODE, PYTHON = "node_modules/.bin", ".venv/bin"
PIP = "python3 -m venv .venv && .venv/bin/pip install"
# the command -> where its programs are once installed, and how to install them
DOWNLOADERS = {
    **dict.fromkeys(("npx", "npm exec", "npm x"), (NODE, "npm install")),
    **dict.fromkeys(("pnpx", "pnpm dlx"), (NODE, "pnpm add")),
    **dict.fromkeys(("bunx", "bun x"), (NODE, "bun add")),
    "yarn dlx": (NODE, "yarn add"),
    **dict.fromkeys(("uvx", "uv tool run", "pipx run"), (PYTHON, PIP)),
    "uv run": (PYTHON, "uv sync"),
    **dict.fromkeys(("docker run", "podman run"), ("", "")),
}
PACKAGE = {NODE: ("-p", "--package"), PYTHON: ("--from", "--with", "--spec")}
FOLDER = ("--directory", "--project")
VALUED = {*PACKAGE[NODE], *PACKAGE[PYTHON], *FOLDER, "--python"}


def refuse(argv: Sequence[str], cwd: str) -> None:
    """Refused if the command fetches its program when it starts, with the command to write instead."""
    key, command, options, rest = parse(argv)
    if key not in DOWNLOADERS:
        return
    folder, install = DOWNLOADERS[key]
    if not folder:
        raise Refused(
            f"{key} would start the server outside this sandbox, and may download its image: "
            "give the image itself to supervisor (see `supervisor image --help`)"
        )
    packages = [value for name, value in options if name in PACKAGE[folder] and value]
    program = command if packages or key == "uv run" else program_of(command, folder, cwd)
    start = next((value for name, value in options if name in FOLDER), "")
    bin_folder = join(start, folder)
    words = [join(bin_folder, program)]
    if program.endswith(".py"):
        words = [join(bin_folder, "python"), join(start, program)]
    if key == "uv run":
        install += f" --directory {shlex.quote(start)}" if start else ""
        install += f" && uv pip install {shlex.join(packages)}" if packages else ""
    else:
        install += " " + shlex.join(packages or [command])
    first = "" if isfile(join(cwd, words[0])) else f"\n  first: {install}"
    raise Refused(
        f"{key} would download at start-up, and the sandbox runs only what was there before{first}"
        f"\n  then: supervisor run ... -- {shlex.join([*words, *rest])}"
        f"\n  (the exact names of the commands are those in {bin_folder})"
    )


def parse(argv: Sequence[str]) -> tuple[str, str, list[tuple[str, str]], list[str]]:
    """(downloader, what it would run, its options with their values, the arguments of what it runs)."""
    key, command, rest = basename(argv[0]), "", list(argv[1:])
    options: list[tuple[str, str]] = []
    while rest and not command and key.count(" ") < 3:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if word.startswith("-"):
            takes = name in VALUED and not equals and bool(rest)
            options.append((name, rest.pop(0) if takes else value))
        elif key in DOWNLOADERS:
            command = word
        else:
            key += f" {word}"
    return key, command, options, rest


def program_of(package: str, folder: str, cwd: str) -> str:
    """The command that a package brings: as its package.json says if it is here, else the usual name."""
    if folder == PYTHON:
        return re.split(r"[@=<>~!\[ ]", package)[0]
    package = re.sub(r"(?<=.)@[^/]*$", "", package)
    usual = package.rpartition("/")[2]
    try:
        known = json.loads(read(join(cwd, "node_modules", normpath("/" + package)[1:], "package.json")))
    except (ValueError, RecursionError):
        known = {}
    names = known.get("bin") if isinstance(known, dict) else None
    if isinstance(names, dict) and names and usual not in names:
        return re.sub(r"[^\w.-]", "", str(next(iter(names))))
    famous = package.startswith("@modelcontextprotocol/server-") and not isinstance(names, (dict, str))
    return f"mcp-{usual}" if famous else usual
