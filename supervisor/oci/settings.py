"""What the operator says of registries (registries.toml) and their passwords (docker's config.json).

Runs in the command line, on files that their owner alone can write. Passwords leave it only through the pipe to the
fetcher.
"""

from __future__ import annotations

import base64
import binascii
import os
from typing import Annotated

from pydantic import Field

from supervisor import given
from supervisor.errors import ConfigError
from supervisor.oci.client import Endpoint, names_private
from supervisor.oci.document import Reader, Table, parse
from supervisor.profile import toml
from supervisor.profile.written import Written, validate

_HOST = Field(pattern=r"^[a-z0-9.\[\]:-]+$")
_MAX_FILE = 1 << 20


class RegistryText(Written):
    """One `[registry."HOST"]` table."""

    mirrors: Annotated[tuple[Annotated[str, _HOST], ...], Field(strict=False)] = ()
    login: Annotated[tuple[Annotated[str, _HOST], ...], Field(strict=False)] = ()
    ca: str = ""
    private: bool = False
    plain_http: bool = False


class RegistriesText(Written):
    """The whole file."""

    registry: dict[Annotated[str, _HOST], RegistryText] = {}


def endpoints(host: str, path: str, authfile: str) -> list[Endpoint]:
    """The mirrors of a registry and the registry itself, in the order in which they are asked."""
    known = _registries(path)
    logins = _logins(authfile) if authfile else {}
    hosts = [*(known[host].mirrors if host in known else ()), host]
    return [_endpoint(each, known.get(each, RegistryText()), logins.get(each, ("", "")), path) for each in hosts]


def _registries(path: str) -> dict[str, RegistryText]:
    if not os.path.exists(path):
        return {}
    source = toml.read(path)
    found = validate(source, RegistriesText).registry
    for host, text in found.items():
        if text.plain_http and Endpoint(host).place[0] not in ("localhost", "127.0.0.1", "::1"):
            raise source.error(f"{host}: plain_http is for loopback alone", "registry", host)
    return found


def _endpoint(host: str, text: RegistryText, login: tuple[str, str], path: str) -> Endpoint:
    ca = ""
    if text.ca:
        ca = _small(os.path.join(os.path.dirname(path), text.ca))
    return Endpoint(host, text.plain_http, text.private or names_private(host), ca, login[0], login[1], text.login)


def _small(path: str) -> str:
    try:
        return given.read(path, _MAX_FILE, pipes=True).decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: {error}") from None


def _logins(path: str) -> dict[str, tuple[str, str]]:
    """`auths` of docker's file; helpers are programs, and are not run."""
    if os.path.exists(path) and os.stat(path).st_mode & 0o077:
        raise ConfigError(f"{path}: others can read the passwords in it: chmod go-rwx {path}")
    reader = Reader(parse(_small(path).encode(), path), path)
    found = {}
    for host, table in (reader.maybe("auths") or Reader({}, path)).table.items():
        entry = Reader(table if isinstance(table, dict) else {}, f"{path}: {host}")
        try:
            pair = base64.b64decode(entry.text("auth", ""), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise ConfigError(f"{path}: {host}: auth is not base64 of name:password") from None
        name, _, password = pair.partition(":")
        found[host.removeprefix("https://").partition("/")[0]] = (name, password)
    return found


def question(endpoint: Endpoint) -> Table:
    """An endpoint as the fetcher is told of it."""
    return {
        "host": endpoint.host,
        "plain": int(endpoint.plain),
        "private": int(endpoint.private),
        "ca": endpoint.ca,
        "username": endpoint.username,
        "password": endpoint.password,
        "login": list(endpoint.login),
    }
