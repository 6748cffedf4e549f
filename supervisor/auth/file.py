"""The file of `serve --auth`: who may use an endpoint, by a token's hash or by the word of an issuer.

Read in the authenticator, which has no privileges. It holds nothing secret, but whoever can write it lets anybody
in: only its owner may.
"""

from __future__ import annotations

import datetime
import os
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

from supervisor.errors import ConfigError
from supervisor.profile import toml
from supervisor.profile.written import Written, validate

# never a symmetric one: whoever could verify could sign as well
Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
_Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@/+-]{0,127}$")]
_Claim = Annotated[str, Field(min_length=1, max_length=128)]
_Scope = Annotated[str, Field(pattern=r"^[\x21\x23-\x5B\x5D-\x7E]{1,128}$")]  # RFC 6749, 3.3


def url(text: str) -> str:
    """An https URL; plain http only where nobody is between."""
    parts = urlsplit(text)
    loopback = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if parts.scheme != "https" and not (parts.scheme == "http" and loopback):
        raise ValueError("an https:// URL (http:// for this machine only)")
    if not parts.hostname or parts.query or parts.fragment or "@" in parts.netloc or '"' in text or "\\" in text:
        raise ValueError("a URL of scheme, host and path alone")
    return text


def _resource(text: str) -> str:
    if text.endswith(("/", "/mcp")):
        raise ValueError("the part of the endpoint's URL that stands before /mcp, without a slash at its end")
    return text


def _moment(value: object) -> object:
    """A date (the beginning of that day, UTC) or a time with its offset, as seconds since 1970."""
    if isinstance(value, datetime.datetime):
        if value.tzinfo is None:
            raise ValueError("a time needs its offset, as in 2027-01-31T12:00:00Z")
        return value.timestamp()
    if isinstance(value, datetime.date):
        return datetime.datetime(value.year, value.month, value.day, tzinfo=datetime.UTC).timestamp()
    raise ValueError("a date or a time, without quotes")


Url = Annotated[str, AfterValidator(url)]


class Token(Written):
    """A bearer token, by the SHA-256 of its text. After `expires` it lets nobody in."""

    subject: _Word
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    groups: tuple[_Word, ...] = Field(default=(), strict=False)
    expires: Annotated[float, BeforeValidator(_moment)] | None = None


class Oidc(Written):
    """An issuer of JWTs. `keys`: a JWKS file or URL, else found by the issuer's metadata.

    `audience`: those that are accepted besides the resource's own URL. `groups`: the claim that holds them.
    """

    issuer: Url
    audience: tuple[_Claim, ...] = Field(default=(), strict=False)
    keys: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    algorithms: tuple[Algorithm, ...] = Field(default=("RS256", "ES256", "EdDSA"), strict=False, min_length=1)
    groups: _Claim = "groups"
    scopes: tuple[_Scope, ...] = Field(default=(), strict=False)


class Rate(Written):
    """Requests a second that each principal may make, and how many at once after a pause."""

    requests: Annotated[int, Field(gt=0, le=1_000_000)]
    burst: Annotated[int, Field(gt=0, le=1_000_000)]


class AuthFile(Written):
    """The whole file. `resource`: the URL under which clients know the endpoint, without /mcp."""

    resource: Annotated[str, AfterValidator(url), AfterValidator(_resource)] | None = None
    token: tuple[Token, ...] = Field(default=(), strict=False)
    oidc: Oidc | None = None
    rate: Rate | None = None


def load(path: str) -> AuthFile:
    """What a file says; ConfigError or Refused name it, with the line."""
    path = os.path.abspath(path)
    source = toml.read(path)
    found = validate(source, AuthFile)
    seen: dict[str, int] = {}
    for index, each in enumerate(found.token):
        if each.sha256 in seen:
            raise source.error(
                f"this token is there already, for {found.token[seen[each.sha256]].subject}",
                "token",
                index,
                "sha256",
            )
        seen[each.sha256] = index
    if not found.token and found.oidc is None:
        raise ConfigError(f"{path}: nobody could get in; supervisor token SUBJECT --file {path} makes a token")
    if found.oidc is not None and found.resource is None:
        raise source.error('[oidc] needs "resource", the URL under which clients know this endpoint', "oidc")
    keys = found.oidc.keys if found.oidc else None
    if keys and "://" in keys:
        try:
            url(keys)
        except ValueError as error:
            raise source.error(f"oidc.keys: {error}", "oidc", "keys") from None
    return found


def keys_path(path: str, oidc: Oidc) -> str | None:
    """Where the issuer's keys lie, if they lie in a file: beside the auth file, unless the path is absolute."""
    if oidc.keys is None or "://" in oidc.keys:
        return None
    return os.path.join(os.path.dirname(os.path.abspath(path)), oidc.keys)
