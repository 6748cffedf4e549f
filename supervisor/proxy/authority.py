"""Who a request over HTTP is from: the kernel's word on a Unix socket, the authenticator's about a bearer token.

Runs unprivileged. A token is asked about once and then remembered for a while; no token is ever logged or passed on
to a server. Source: RFC 6750, RFC 9728 and the authorization page of the specification's revision 2026-07-28.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import NamedTuple

import msgspec

from supervisor import wire
from supervisor.errors import WireError
from supervisor.proxy import link
from supervisor.proxy.principal import Principal

Headers = Mapping[bytes, list[bytes]]
METADATA = "/.well-known/oauth-protected-resource"
MAX_TOKEN, MAX_KNOWN, MAX_ASKED = 16 << 10, 4096, 64
# seconds: how long an answer is believed, and how long one is waited for
_BELIEVED, _PATIENCE = 300.0, 10.0
_BEARER = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9._~+/-]+=*) *")
_UNQUOTABLE = re.compile(r"[^\x20\x21\x23-\x5B\x5D-\x7E]")


class Denied(Exception):
    """A request without the right to be here: status, text, and headers for the answer."""

    def __init__(self, status: int, said: str, *headers: tuple[bytes, bytes]) -> None:
        super().__init__(said)
        self.status, self.said, self.headers = status, said, headers


class Known(NamedTuple):
    """What the authenticator said of a token. `audience`: URLs that it is for; None: everything here."""

    principal: Principal
    audience: tuple[str, ...] | None
    until: float
    expires: float


class Terms(NamedTuple):
    """What the file of `--auth` says that is not about one token."""

    resource: str | None
    metadata: wire.Message | None
    scopes: str
    rate: tuple[int, int] | None


class Pace:
    """One principal's requests, as the generic cell rate algorithm counts: when the next is due."""

    __slots__ = ("due",)

    def __init__(self) -> None:
        self.due = 0.0

    def wait(self, now: float, rate: int, burst: int) -> float:
        """Count a request, or tell how many seconds too early it is."""
        due = max(self.due, now)
        early = due - (burst - 1) / rate - now
        if early <= 1e-6:
            self.due = due + 1 / rate
        return early if early > 1e-6 else 0.0


class Authority:
    """The gateway's end of the authenticator. `gone` is called when that has ended: then nobody gets in."""

    def __init__(self, sock: socket.socket, ready: wire.Message) -> None:
        self.gone: Callable[[], None] = lambda: None
        self._socket = sock
        self._terms = terms(ready)
        self._number = 0
        self._asked: dict[int, asyncio.Future[wire.Message]] = {}
        self._asking: dict[bytes, asyncio.Future[Known]] = {}
        self._known: OrderedDict[bytes, Known] = OrderedDict()
        self._paces: OrderedDict[str, Pace] = OrderedDict()
        self._changes = 0
        self.ended = False

    def start(self) -> None:
        """From now on the running loop reads."""
        self._socket.setblocking(False)
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._readable)

    def close(self) -> None:
        """Hang up; the authenticator ends."""
        if not self.ended:
            asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self.ended = True
        self._socket.close()

    async def principal(self, headers: Headers, client: str, path: str) -> Principal:
        """Whose request this is; Denied when that is nobody, or somebody with too many requests."""
        if client.startswith("uid:"):
            found = Principal(client)
        else:
            found = await self._bearer(headers, path)
        if rate := self._terms.rate:
            self._count(found.name, *rate)
        return found

    async def _bearer(self, headers: Headers, path: str) -> Principal:
        given = headers.get(b"authorization", [])
        if not given:
            raise Denied(401, "this endpoint wants a token: Authorization: Bearer TOKEN", self._challenge(path))
        match = _BEARER.fullmatch(given[0])
        if len(given) > 1 or match is None or len(match[1]) > MAX_TOKEN:
            large = len(given) == 1 and match is not None
            said = f"the token is over {MAX_TOKEN >> 10} KiB" if large else "Authorization is not one bearer token"
            raise Denied(400, said, self._challenge(path, "invalid_request", said))
        key = hashlib.sha256(match[1]).digest()
        known = self._known.get(key)
        if known is None or known.until <= time.monotonic():
            known = await self._ask(key, match[1].decode(), path)
        if known.expires <= time.time():
            raise self._refusal(path, "the token has expired")
        if known.audience is not None and not self._is_for(path, known.audience):
            raise self._refusal(path, f"the token is for {known.audience[0]}, not for this endpoint")
        return known.principal

    def _is_for(self, path: str, audience: tuple[str, ...]) -> bool:
        """A token for the resource opens everything, one for an endpoint opens that; other pages go with /mcp."""
        resource = self._terms.resource
        return resource in audience or f"{resource}{_endpoint(path)}" in audience

    async def _ask(self, key: bytes, token: str, path: str) -> Known:
        """Ask, once for everybody who came with the same token."""
        asking = self._asking.get(key)
        if asking is None:
            if self.ended or len(self._asked) >= MAX_ASKED:
                raise Denied(503, "tokens cannot be checked at present", (b"retry-after", b"1"))
            asking = asyncio.ensure_future(self._question(token))
            self._asking[key] = asking
            changes = self._changes
            asking.add_done_callback(lambda done: self._learned(key, done, changes))
        try:
            return await asyncio.shield(asking)
        except _Refused as refused:
            if refused.status == 503:
                raise Denied(503, str(refused), (b"retry-after", b"5")) from None
            raise self._refusal(path, str(refused), refused.status, refused.code) from None

    def _learned(self, key: bytes, done: asyncio.Future[Known], changes: int) -> None:
        del self._asking[key]
        # what was said before the file changed may not hold any more
        if not done.cancelled() and done.exception() is None and changes == self._changes:
            self._known[key] = done.result()
            if len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)

    async def _question(self, token: str) -> Known:
        self._number += 1
        number = self._number
        future = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            wire.send(self._socket, {"id": number, "token": token})
            async with asyncio.timeout(_PATIENCE):
                answer = await future
        except (OSError, WireError, TimeoutError):
            raise _Refused(503, "", "tokens cannot be checked at present") from None
        finally:
            del self._asked[number]
        denied = answer.get("denied")
        if isinstance(denied, dict):
            raise _Refused(int(str(denied["status"])), str(denied["code"]), str(denied["said"]))
        return _known(answer.get("ok"))

    def _readable(self) -> None:
        for received in link.arrived(self._socket):
            if received is None:
                self._lost()
            else:
                self._heard(received[0])

    def _heard(self, said: wire.Message) -> None:
        if "event" in said:
            # somebody may have been taken out of the file
            self._terms = terms(said)
            self._changes += 1
            self._known.clear()
        else:
            future = self._asked.get(int(str(said["id"])))
            if future and not future.done():
                future.set_result(said)

    def _lost(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self.ended = True
        self._known.clear()
        for future in self._asked.values():
            if not future.done():
                future.set_exception(ConnectionError())
        self.gone()

    def _count(self, name: str, rate: int, burst: int) -> None:
        """A principal's own rate; nobody else's requests count."""
        pace = self._paces.setdefault(name, Pace())
        self._paces.move_to_end(name)
        if len(self._paces) > MAX_KNOWN:
            self._paces.popitem(last=False)
        if seconds := pace.wait(time.monotonic(), rate, burst):
            said = f"{name} has made more than {rate} requests a second (rate.requests)"
            raise Denied(429, said, (b"retry-after", b"%d" % max(1, round(seconds))))

    def _refusal(self, path: str, said: str, status: int = 401, code: str = "invalid_token") -> Denied:
        return Denied(status, said, self._challenge(path, code, said))

    def _challenge(self, path: str, code: str = "", said: str = "") -> tuple[bytes, bytes]:
        """WWW-Authenticate, with where to find who gives out tokens."""
        parts = []
        if code:
            parts = [f'error="{code}"', f'error_description="{_UNQUOTABLE.sub("?", said)}"']
        if self._terms.metadata is not None and self._terms.resource:
            host = _split(self._terms.resource)
            parts.append(f'resource_metadata="{host[0]}{METADATA}{host[1]}{_endpoint(path)}"')
        if self._terms.scopes:
            parts.append(f'scope="{self._terms.scopes}"')
        return b"www-authenticate", f"Bearer {', '.join(parts)}".rstrip().encode()

    def page(self, path: str) -> bytes | None:
        """The metadata of the resource at a well-known path (JSON); None when there is nothing at this path."""
        terms = self._terms
        if terms.metadata is None or terms.resource is None or not path.startswith(METADATA):
            return None
        rest = path.removeprefix(METADATA)
        prefix = _split(terms.resource)[1]
        endpoint = rest.removeprefix(prefix)
        if rest and not (rest.startswith(prefix) and re.fullmatch(r"(/servers/[^/]{1,64})?/mcp|", endpoint)):
            return None
        return msgspec.json.encode(terms.metadata | {"resource": terms.resource + endpoint})


class _Refused(Exception):
    """The authenticator does not know whose a token is."""

    def __init__(self, status: int, code: str, said: str) -> None:
        super().__init__(said)
        self.status, self.code = status, code


def terms(said: wire.Message) -> Terms:
    """Those of a "ready" or "changed" event."""
    resource, metadata, rate, scopes = said["resource"], said["metadata"], said["rate"], said["scopes"]
    return Terms(
        resource if isinstance(resource, str) else None,
        metadata if isinstance(metadata, dict) else None,
        " ".join(str(each) for each in scopes) if isinstance(scopes, list) else "",
        (int(rate[0]), int(rate[1])) if isinstance(rate, list) else None,
    )


def _known(said: object) -> Known:
    if not isinstance(said, dict):
        raise _Refused(503, "", "tokens cannot be checked at present")
    groups, audience, expires = said["groups"], said["audience"], said["expires"]
    principal = Principal(str(said["name"]), tuple(str(each) for each in groups))
    named = tuple(str(each) for each in audience) if isinstance(audience, list) else None
    end = float("inf") if expires is None else float(expires)
    return Known(principal, named, time.monotonic() + _BELIEVED, end)


def _endpoint(path: str) -> str:
    """Of a page that is none, the one that it goes with."""
    return path if path.startswith("/servers/") else "/mcp"


def _split(resource: str) -> tuple[str, str]:
    """A URL's origin, and its path."""
    scheme, _, rest = resource.partition("://")
    host, sign, path = rest.partition("/")
    return f"{scheme}://{host}", sign + path
