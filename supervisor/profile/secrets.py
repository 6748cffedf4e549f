"""A server's secrets: what the process that reads them is to be told, and what is granted with them.

Runs in the planner, and as the user in the command line. Reads no secret and looks at no file of one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from supervisor.egress import match
from supervisor.errors import ConfigError, Refused
from supervisor.model import Mount
from supervisor.profile.entry import SOURCES, Grant, Secret, ServerEntry
from supervisor.profile.granted import below

# of one server; what the reader is told of them is one message
_MOST, _LONGEST = 32, 24 << 10
# what the broker itself says, or what says where a request ends and who answers it
_TAKEN = (
    "accept-encoding", "connection", "content-encoding", "content-length", "expect", "host", "http2-settings",
    "if-range", "keep-alive", "proxy-authorization", "proxy-connection", "range", "te", "trailer",
    "transfer-encoding", "upgrade",
)  # fmt: skip


def wanted(entry: ServerEntry) -> str:
    """What the reader is told: JSON, or nothing. ConfigError names the secret that cannot be."""
    if len(entry.secrets) > _MOST:
        raise ConfigError(f"{entry.origin}: {len(entry.secrets)} secrets, over the limit of {_MOST}")
    told = json.dumps([one(entry, name) for name in entry.secrets]) if entry.secrets else ""
    if len(told) > _LONGEST:
        raise ConfigError(f"{entry.origin}: what is written of its secrets is over {_LONGEST >> 10} KiB: use files")
    return told


def one(entry: ServerEntry, name: str) -> dict[str, object]:
    """What the reader is told of one secret."""
    secret = entry.secrets[name]
    if secret.to == "env":
        if "." in name or "-" in name:
            raise _error(name, secret, 'the name of a variable has no "." or "-"')
        if name in entry.env:
            raise _error(name, secret, f"env sets {name} as well: take one of them away")
    if secret.file is not None and not secret.file.startswith("/"):
        raise _error(name, secret, f'"{secret.file}" is relative; write it from /')
    told: dict[str, object] = {"name": name, "to": secret.to, "origin": secret.origin}
    told |= {key: value for key in SOURCES if (value := getattr(secret, key)) is not None}
    if secret.to == "header":
        header = secret.header or "Authorization"
        if header.lower() in _TAKEN:
            raise _error(name, secret, f"{header} is not the server's to say, nor a secret")
        usual = "Bearer " if header.lower() == "authorization" else ""
        told |= {"header": header, "prefix": usual if secret.prefix is None else secret.prefix}
        told["host"] = match.parse(reach(secret)).host
    return told


def _error(name: str, secret: Secret, problem: str) -> ConfigError:
    return ConfigError(f'{secret.origin}: secret "{name}": {problem}')


def reach(secret: Secret) -> str:
    """The entry of the allowlist that a header's secret brings with it; HOST stands for HOST:443."""
    host = secret.host or ""
    return f"header:{host if ':' in host else host + ':443'}"


def hosts(entry: ServerEntry) -> Iterable[tuple[str, str]]:
    """(entry of the allowlist, where it is written) of each header."""
    return ((reach(each), each.origin) for each in entry.secrets.values() if each.to == "header")


def check(entry: ServerEntry, mounts: Iterable[Mount]) -> None:
    """Refused for a file that the server would see anyway, or could write."""
    for name, secret in entry.secrets.items():
        for mount in mounts:
            if secret.file is not None and below(secret.file, mount.source):
                raise Refused(
                    f'{secret.origin}: secret "{name}": {secret.file} lies in {mount.source}, which the server is '
                    "shown: put it elsewhere"
                )


def grants(entry: ServerEntry) -> list[Grant]:
    """The account of them."""
    found = []
    for name, secret in entry.secrets.items():
        told = one(entry, name)
        what = {
            "file": f"secret {name} as the file /run/secrets/{name}",
            "env": f"secret {name} as an environment variable",
            "header": f"secret {name}, unseen: the broker adds it to {told.get('header')} for {told.get('host')}",
        }[secret.to]
        found.append(
            Grant(what=f"{what}, from {source(secret)}", why="the operator's own grant", origin=secret.origin)
        )
    return found


def source(secret: Secret) -> str:
    """Where it comes from, in words."""
    if secret.command is not None:
        return f"command {secret.command[0]}"
    return next(f"{key} {value}" for key in SOURCES if (value := getattr(secret, key)) is not None)
