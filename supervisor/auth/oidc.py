"""Access tokens of an OpenID Connect issuer: signature, issuer, audience, times, scopes.

Runs in the authenticator, without privileges; the only process that imports the SDK for this, and that makes a
connection: to the issuer, for its keys. What a token says about its own keys or algorithm is never followed.
"""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from typing import NoReturn
from urllib.parse import urlsplit

import jwt
from jwt import PyJWK, PyJWKClient, PyJWKSet
from mcp.server.auth.provider import AccessToken
from mcp.shared.auth import ProtectedResourceMetadata
from pydantic import AnyHttpUrl

from supervisor.auth import file
from supervisor.auth.denial import Denial
from supervisor.auth.file import Oidc
from supervisor.errors import ConfigError
from supervisor.profile import toml

# bytes of an answer of the issuer's; seconds for it, for keys to be asked for again, and after a failure
_MOST, _TIMEOUT, _LIFE, _PAUSE = 1 << 20, 5.0, 300.0, 10.0
_LEEWAY = 30
# groups of one token, and the end of all times (seconds since 1970)
_GROUPS, _NEVER = 1000, 1 << 35
_DISCOVERY = (".well-known/openid-configuration", ".well-known/oauth-authorization-server")
_Claims = dict[str, object]


class Unreachable(Exception):
    """The issuer's keys cannot be had at present."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Whoever is configured is who answers."""

    def redirect_request(self, *_: object) -> None:
        """urllib's."""


def fetch(url: str) -> _Claims:
    """The JSON object at an https URL (http: this machine only, see file.py); Unreachable otherwise."""
    opener = urllib.request.build_opener(_NoRedirect())
    ends, data = time.monotonic() + _TIMEOUT, b""
    try:
        with opener.open(url, timeout=_TIMEOUT) as answer:
            # the timeout is of each part: who sends them one by one must not keep us either
            while len(data) <= _MOST and (part := answer.read1(1 << 16)):
                data += part
                if time.monotonic() > ends:
                    raise TimeoutError(f"no whole answer within {_TIMEOUT:g} s")
        found = json.loads(data) if len(data) <= _MOST else None
    except urllib.error.HTTPError as error:
        error.close()
        raise Unreachable(f"{url}: status {error.code}") from None
    except (OSError, ValueError, RecursionError, http.client.HTTPException) as error:
        raise Unreachable(f"{url}: {error or type(error).__name__}") from None
    if not isinstance(found, dict):
        raise Unreachable(f"{url}: no JSON object of at most {_MOST} bytes")
    return found


def keys_url(issuer: str) -> str:
    """Where an issuer says that its keys are (OpenID Connect Discovery; RFC 8414)."""
    parts = urlsplit(issuer)
    path = parts.path.strip("/")
    origin = f"{parts.scheme}://{parts.netloc}"
    places = [f"{issuer.rstrip('/')}/{_DISCOVERY[0]}", f"{origin}/{_DISCOVERY[1]}{'/' + path if path else ''}"]
    problems = []
    for place in places:
        try:
            found = fetch(place)
        except Unreachable as error:
            problems.append(str(error))
            continue
        if found.get("issuer") != issuer:
            problems.append(f"{place}: it is about the issuer {found.get('issuer')!r:.200}")
        elif isinstance(where := found.get("jwks_uri"), str) and _is_safe(where):
            return where
        else:
            problems.append(f"{place}: no jwks_uri that is as safe as the issuer's own URL")
    raise Unreachable("; ".join(problems))


def _is_safe(url: str) -> bool:
    try:
        return bool(file.url(url))
    except ValueError:
        return False


class Keys(PyJWKClient):
    """An issuer's keys: fetched anew every few minutes, and for an unknown one, but not more often than that."""

    def __init__(self, oidc: Oidc) -> None:
        super().__init__(oidc.keys or oidc.issuer, lifespan=_LIFE, timeout=_TIMEOUT)
        self._oidc = oidc
        self._failed: tuple[float, str] = (-_PAUSE, "")

    def fetch_data(self) -> _Claims:
        """PyJWKClient's."""
        when, why = self._failed
        if time.monotonic() - when < _PAUSE:
            raise Unreachable(why)
        try:
            found = fetch(self._oidc.keys or keys_url(self._oidc.issuer))
            PyJWKSet.from_dict(found)
        except (Unreachable, jwt.PyJWTError) as error:
            self._failed = time.monotonic(), str(error)
            raise Unreachable(str(error)) from None
        if self.jwk_set_cache is not None:
            self.jwk_set_cache.put(found)
        self._last_successful_fetch = time.monotonic()
        return found

    def find(self, kid: str) -> PyJWK | None:
        """The key of that name."""
        try:
            return self.get_signing_key(kid)
        except jwt.PyJWKClientError:
            return None


class FixedKeys:
    """Keys out of a file."""

    def __init__(self, path: str) -> None:
        # whoever can write it lets anybody in
        data = toml.checked(path, _MOST)
        try:
            found = PyJWKSet.from_json(data.decode())
        except (ValueError, TypeError, RecursionError, jwt.PyJWTError) as error:
            raise ConfigError(f"{path}: not a JWK set: {error}") from None
        self._keys = {str(each.key_id): each for each in found.keys if each.public_key_use in ("sig", None)}

    def find(self, kid: str) -> PyJWK | None:
        """The key of that name."""
        return self._keys.get(kid)


def metadata(oidc: Oidc, resource: str) -> _Claims:
    """The protected resource metadata of RFC 9728."""
    made = ProtectedResourceMetadata(
        resource=AnyHttpUrl(resource),
        authorization_servers=[AnyHttpUrl(oidc.issuer)],
        scopes_supported=list(oidc.scopes) or None,
        resource_name="supervisor",
    )
    found: _Claims = json.loads(made.model_dump_json(exclude_none=True))
    # as they are written: an issuer is compared character by character (RFC 8414, 3.3)
    return found | {"resource": resource, "authorization_servers": [oidc.issuer]}


class Verifier:
    """The SDK's TokenVerifier. `check` says why a token is refused."""

    def __init__(self, oidc: Oidc, resource: str, keys_file: str | None) -> None:
        self._oidc, self._resource = oidc, resource
        self._keys = FixedKeys(keys_file) if keys_file else Keys(oidc)

    async def verify_token(self, token: str) -> AccessToken | None:
        """The SDK's: None for a token that is refused."""
        try:
            return self.check(token)
        except Denial:
            return None

    def check(self, token: str) -> AccessToken:
        """What a token says, once it is known to be true; Denial otherwise. May wait for the issuer."""
        try:
            kid = jwt.get_unverified_header(token).get("kid")
            if not isinstance(kid, str):
                raise Denial("the token does not name its key (kid)")
            key = self._keys.find(kid)
            if key is None:
                raise Denial("the issuer has no such key")
            claims = self._decoded(token, key)
        except Unreachable as error:
            raise Denial("the issuer's keys cannot be had; try again", status=503, log=str(error)) from None
        except jwt.PyJWTError as error:
            _refuse(error)
        return self._access(token, claims)

    def _decoded(self, token: str, key: PyJWK) -> _Claims:
        return jwt.decode(
            token,
            key,
            algorithms=list(self._oidc.algorithms),
            issuer=self._oidc.issuer,
            leeway=_LEEWAY,
            # the audience is ours to compare: each server's endpoint is one of its own
            options={
                "require": ["exp", "iss", "sub", "aud"],
                "verify_aud": False,
                "enforce_minimum_key_length": True,
            },
        )

    def _access(self, token: str, claims: _Claims) -> AccessToken:
        subject = claims["sub"]
        if not isinstance(subject, str) or not subject.isprintable() or not 0 < len(subject) <= 255:
            raise Denial("sub is not a name of at most 255 printable characters")
        scopes = _words(claims.get("scope", claims.get("scp")), "scope")
        missing = [each for each in self._oidc.scopes if each not in scopes]
        audience = self._audience(claims["aud"])
        if missing:
            raise Denial(f"the token lacks the scope {' '.join(missing)}", status=403, code="insufficient_scope")
        groups = _words(claims.get(self._oidc.groups), self._oidc.groups)
        if not all(each.isprintable() and 0 < len(each) <= 255 for each in groups) or len(groups) > _GROUPS:
            raise Denial(f"{self._oidc.groups} are not at most {_GROUPS} names of at most 255 printable characters")
        expires = claims["exp"]
        if not isinstance(expires, int | float) or not expires < _NEVER:
            raise Denial("exp is not a time of this millennium")
        return AccessToken(
            token=token,
            client_id=str(claims.get("client_id") or claims.get("azp") or ""),
            scopes=scopes,
            expires_at=int(expires),
            resource=audience[0],
            subject=subject,
            claims={"iss": claims["iss"], "groups": groups, "audience": audience},
        )

    def _audience(self, written: object) -> list[str]:
        """What a token is for: our resource as a whole, or endpoints of it."""
        listed = written if isinstance(written, list) else [written]
        named = [each.rstrip("/") for each in listed if isinstance(each, str)]
        if self._resource in named or any(each in listed for each in self._oidc.audience):
            return [self._resource]
        found = [each for each in named if each.startswith(f"{self._resource}/")]
        if not found:
            raise Denial(f"the token is for somebody else: aud has neither {self._resource} nor an endpoint of it")
        return found


def verifier(oidc: Oidc, resource: str, keys_file: str | None) -> Verifier:
    """One for an issuer; ConfigError when its keys are a file that is none."""
    return Verifier(oidc, resource, keys_file)


def _words(value: object, name: str) -> list[str]:
    """A claim that holds words: a list, or one text with blanks."""
    if value is None:
        return []
    listed = value.split() if isinstance(value, str) else value
    if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed):
        raise Denial(f"the claim {name} is neither text nor a list of texts")
    return [str(each) for each in listed]


def _refuse(error: jwt.PyJWTError) -> NoReturn:
    if isinstance(error, jwt.ExpiredSignatureError):
        raise Denial("the token has expired") from None
    raise Denial(f"the token is not valid: {error}") from None
