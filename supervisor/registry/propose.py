"""From a server in a client's file to a registry entry: a profile, what is granted, and why.

Runs as whoever types `supervisor adopt`. It suggests the least that the command line speaks of, for a person to
read before it is done. What cannot be suggested is a ConfigError that says what to do.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from supervisor.errors import ConfigError
from supervisor.registry import clients, commands, installed, known
from supervisor.registry.draft import Draft
from supervisor.registry.installed import Machine

# bounded: of many that do not end each is searched for its end
_HOLE = re.compile(r"\$\{([^}]{0,256})\}")
_KEY = re.compile(r"TOKEN|SECRET|PASSWORD|API_?KEY|CREDENTIAL|AUTH|_PAT$", re.IGNORECASE)
_SHELL, _COMMAND = re.compile(r"(ba|da|z|k|fi)?sh|cmd"), re.compile(r"-[a-z]*c|/c")
# of whoever starts the client, and nobody inside
_DROPPED = ("HOME", "PWD", "OLDPWD", "TMPDIR", "USER", "LOGNAME", "SHELL")


class Proposal(NamedTuple):
    """A table for the registry, and the reasons for it, a line each."""

    fields: dict[str, object]
    why: tuple[str, ...]


def name_for(key: str, taken: Callable[[str], bool]) -> str:
    """A name for the registry that is like the client's own, and nobody else's."""
    name = re.sub(r"_{2,}", "_", re.sub(r"[^a-z0-9._-]+", "-", key.lower()))
    name = name.strip("-._")[:56].rstrip("-._") or "server"
    number, found = 1, name
    while taken(found):
        number += 1
        found = f"{name}-{number}"
    return found


def propose(argv: Sequence[str], env: Mapping[str, str], *, project: str, cwd: str, machine: Machine) -> Proposal:
    """The entry for a command line as a client would start it. `project`: the folder that the file is for."""
    values = {
        **dict.fromkeys(("workspaceFolder", "workspaceFolderBasename"), project),
        **dict.fromkeys(("userHome", "env:HOME", "HOME"), machine.home),
        **dict.fromkeys(("/", "pathSeparator"), "/"),
    }
    words = [_fill(each, values) for each in argv]
    variables = {key: _fill(value, values, key) for key, value in env.items()}
    here = _fill(cwd, values) or project or machine.home
    _possible((*words, *variables, *variables.values(), here))
    machine = replace(machine, cwd=os.path.join(project or machine.home, here))
    words = _unwrapped(words, variables)
    words, where = installed.resolve(words, machine)
    words[:1] = [commands.program(words[0], machine.cwd, machine.search)]
    words[1:] = [commands.argument(each, machine.cwd) for each in words[1:]]
    draft = Draft(words, variables, machine, min(commands.own_words(words), len(words)))
    draft.why += [where] if where else []
    for key in [each for each in _DROPPED if each in draft.env]:
        del draft.env[key]
        draft.why.append(f"{key} is the sandbox's own")
    draft.real()
    recognised = known.identify(draft)
    if recognised:
        known.KNOWN[recognised](draft)
    else:
        _unknown(draft)
    secret = [key for key in draft.env if _KEY.search(key)]
    if secret:
        draft.why.append(f"{', '.join(secret)}: kept in the registry, which only you can read")
    return Proposal(draft.fields(), tuple(draft.why))


def _fill(text: str, values: Mapping[str, str], key: str = "") -> str:
    def value(match: re.Match[str]) -> str:
        found = values.get(match[1].partition(":-")[0] if ":-" in match[1] else match[1], "")
        if not found:
            where = f"{key}: " if key else ""
            raise ConfigError(
                f'{where}"{match[0]}" is filled in by the client when it starts the server; write the value itself'
            )
        return os.path.basename(found) if match[1].endswith("Basename") else found

    return _HOLE.sub(value, text)


def _unwrapped(words: list[str], variables: dict[str, str]) -> list[str]:
    """The command behind env; ConfigError for one that a shell would have to read first."""
    if os.path.basename(words[0]) == "env":
        while len(words) > 2 and "=" in words[1] and not words[1].startswith("-"):
            key, _, value = words.pop(1).partition("=")
            variables[key] = value
        words = words[1:] if len(words) > 1 and not words[1].startswith("-") else words
    if _SHELL.fullmatch(os.path.basename(words[0])) and any(_COMMAND.fullmatch(each) for each in words[1:]):
        raise ConfigError("a shell would have to read its command line first; write the command itself")
    return words


def _possible(texts: Iterable[str]) -> None:
    """ConfigError for a text that the kernel takes in no command line, variable or path."""
    for each in texts:
        if not clients.encodable(each):
            raise ConfigError(f"{each!r} cannot be written as UTF-8")
        if "\0" in each:
            raise ConfigError(f"{each!r} has a NUL character in it, which no program can be given")


def _unknown(draft: Draft) -> None:
    """Of a server that nobody knows: what it names may be read, where it is told to go it may go."""
    draft.ro += draft.named()
    draft.reach_named()
    if draft.ro:
        draft.why.append(f"it names {', '.join(draft.ro)}: to be read; rw = [...] instead of ro lets it write")
    key = next((each for each in draft.env if _KEY.search(each)), "")
    if draft.allow:
        draft.profile = "net-allowlist"
        draft.why.append(f"it is given addresses: {', '.join(draft.allow)}")
    elif key:
        draft.profile = "net-allowlist"
        draft.why.append(
            f'{key} is for a service: no host is allowed yet, write it into allow = ["api.example.com:443"]'
        )
    elif not draft.ro:
        draft.why.append("nothing is known of it: no file of yours, no network")
